"""Who makes networks in a network namespace (async).

Theory of operation. One node owns the bridges, links and rules of a network namespace: an abstract unix
socket, which lives in it, says who, and goes with the process, so that a later one may clear away what a node
that was killed has left, or take it over. A file tells the next run on the folder that there may be some.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Set
from typing import Final

from g8node.errors import Conflict
from g8node.linux.guard import off_loop
from g8node.runtime import blocking

_OWNER_SOCKET: Final = "\0g8node-networks"

Clean = Callable[[Set[str]], Awaitable[None]]


class Claim:
    """`take` it before anything in the network namespace is changed, `release` it at the end."""

    def __init__(self, marker: str = "") -> None:
        """`marker` is the file; empty: nobody can have been here before us (process 1)."""
        self._marker = marker
        self._changing = asyncio.Lock()
        self._socket: socket.socket | None = None
        self._cleaning: list[Clean] = []
        self.follows = False
        """An earlier run was killed while it had it; known once it is held."""

    @property
    def held(self) -> bool:
        return self._socket is not None

    def on_taking(self, clean: Clean) -> None:
        """Called with the links to be left alone when it is ours, before anybody uses it."""
        self._cleaning.append(clean)

    async def was_held(self) -> bool:
        """Whether an earlier run was killed while it had it."""
        return bool(self._marker) and await blocking.run("disk", os.path.exists, self._marker)

    async def take(self, keep: Set[str] = frozenset()) -> None:
        """Conflict when another node has it; nothing happens when we do."""
        async with self._changing:
            if self._socket is not None:
                return
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                _bind(claim)
                self.follows = await self.was_held()
                if self._marker:
                    await blocking.run("disk", _mark, self._marker)
                    for clean in self._cleaning:
                        await clean(keep)
            except BaseException:
                claim.close()
                raise
            self._socket = claim

    async def release(self) -> None:
        """When nothing of ours is left."""
        async with self._changing:
            if self._socket is not None:
                if self._marker:
                    await blocking.run("disk", _unmark, self._marker)
                self._socket.close()
                self._socket = None


def _bind(claim: socket.socket) -> None:
    try:
        claim.bind(_OWNER_SOCKET)
    except OSError as error:
        raise Conflict(
            "another g8node makes networks here", hint="an agent in a network namespace of its own may"
        ) from error


@off_loop
def _mark(path: str) -> None:
    with open(path, "wb"):
        pass


@off_loop
def _unmark(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
