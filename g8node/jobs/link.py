"""One multiplexed connection to redis-server's unix socket (async).

Thousands of callers share a connection (`runtime.resp`). A blocking command would hold up the others: it
needs a Link of its own. Nothing is retried here, because only the caller knows whether a command may run
twice: when the connection breaks, every call under way raises Unavailable.
"""

import asyncio
import contextlib
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.runtime.resp import Arg, Connection, ReplyError, Waiter

__all__ = ["Arg", "Link", "ReplyError", "Script"]

RETRY_S: Final = 0.02
REFUSED_S: Final = 0.2
"""Back-off after an error that redis itself answered: nothing tells when it changes its mind."""


class Link:
    """Connects on the first call, and again after a break."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    @property
    def under_way(self) -> int:
        """Calls without an answer yet."""
        return self._connection.under_way if self._connection is not None else 0

    def send_for(self, waiter: Waiter, args: tuple[Arg, ...]) -> None:
        """A call without a task, on an open connection: `waiter` gets the reply or the error."""
        if self._connection is None:
            waiter.set_exception(Unavailable("the connection to redis is closed"))
        else:
            self._connection.send_for(waiter, args)

    async def call(self, *args: Arg) -> Any:
        """The reply; ReplyError when redis refuses, Unavailable without a connection or while redis loads.

        Unavailable may come after redis has run the command. Cancelling does not take the command back.
        """
        connection = self._connection
        if connection is None or not connection.is_open:
            connection = await self._connected()
        return await connection.send(args)

    async def call_patiently(self, *args: Arg, limit_s: float) -> Any:
        """`call`, again while redis is away: for commands that may run twice."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while True:
            try:
                return await self.call(*args)
            except Unavailable:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _connected(self) -> Connection:
        if self._closed:
            raise Unavailable("the connection to redis is closed")
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Connection:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_unix_connection(Connection, self._socket)
            self._connection = connection
            return connection
        except OSError as error:
            raise Unavailable(f"redis does not answer on {self._socket}: {error.strerror}") from error
        finally:
            self._connecting = None

    async def close(self) -> None:
        """Break the connection for good; calls under way raise Unavailable."""
        self._closed = True
        if self._connecting is not None:
            with contextlib.suppress(Unavailable):
                await self._connecting
        if self._connection is not None:
            self._connection.close()


class Script:
    """A Lua script, loaded when redis does not know it (yet, or any more after a restart)."""

    def __init__(self, link: Link, text: str) -> None:
        self._link = link
        self._text = text
        self._sha = ""

    async def __call__(self, *args: Arg) -> Any:
        """Run it with args as ARGV; errors as `Link.call`."""
        if not self._sha:
            self._sha = (await self._link.call("SCRIPT", "LOAD", self._text)).decode()
        try:
            return await self._link.call("EVALSHA", self._sha, 0, *args)
        except ReplyError as error:
            if error.kind != "NOSCRIPT":
                raise
        return await self._link.call("EVAL", self._text, 0, *args)
