"""Servers that speak RESP, as the redis stores see them: many commands in, one reply or failure each (async).

One server has a few multiplexed connections, opened on first use; a batch goes to the least busy one. A
failure breaks no other call, and the next call connects again.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from g8node.errors import Unavailable
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.runtime.resp import Arg, Connection, ReplyError

REPLY_BYTES_MAX: Final = 64 << 20
_PENDING_MAX: Final = 1024
"""Commands sent before their answers are awaited: bounds what a server that stands still can pile up."""


class Command(NamedTuple):
    """`key` says which server of a cluster is asked."""

    key: ChunkId
    args: tuple[Arg, ...]


class Servers(Protocol):
    """One server or a cluster of them."""

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        """In order: the reply, or the ReplyError or Unavailable instead of it."""

    async def close(self) -> None:
        """Break the connections."""


@dataclass(frozen=True, slots=True)
class Access:
    """How every server of a store is reached. `handshake`: commands that must succeed on a new connection."""

    handshake: tuple[tuple[Arg, ...], ...] = field(default=(), repr=False)
    tls: bool = False
    authority: str = ""
    """File with the certificates that are trusted; empty: the system's."""
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    connections: int = 2


class Server:
    """One RESP server. `place` is (host, port), or the path of a unix socket."""

    def __init__(self, place: tuple[str, int] | str, access: Access) -> None:
        self._place = place
        self._access = access
        self.name = place if isinstance(place, str) else f"{place[0]}:{place[1]}"
        self._open: list[Connection | None] = [None] * access.connections
        self._connecting: dict[int, asyncio.Task[Connection]] = {}
        self._closed = False

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        return await self.exchange([command.args for command in commands])

    async def exchange(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """`call_many` without keys. The commands of one slice run in order on one connection."""
        replies: list[Any] = []
        for at in range(0, len(commands), _PENDING_MAX):
            part = commands[at : at + _PENDING_MAX]
            try:
                connection = await self._connection()
            except Unavailable as error:
                return replies + [error] * (len(commands) - at)
            replies += await _answers([connection.send(args) for args in part])
        return replies

    async def _connection(self) -> Connection:
        """The least busy one; idle places are filled as long as the others are busy."""
        if self._closed:
            raise Unavailable(f"{self.name}: the store is closed")
        best = min(range(len(self._open)), key=self._load)
        found = self._open[best]
        if found is not None and found.is_open:
            return found
        if best not in self._connecting:
            task = asyncio.ensure_future(self._connect(best))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._connecting[best] = task
        return await asyncio.shield(self._connecting[best])

    def _load(self, place: int) -> tuple[int, int]:
        """An idle open connection first, then a place to connect, then the least busy."""
        found = self._open[place]
        if found is None or not found.is_open:
            return (1, 0)
        return (0, 0) if not found.under_way else (2, found.under_way)

    async def _connect(self, place: int) -> Connection:
        try:
            async with asyncio.timeout(self._access.connect_timeout_s):
                connection = await self._dial()
                try:
                    replies = await _answers([connection.send(args) for args in self._access.handshake])
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError:
            limit_s = self._access.connect_timeout_s
            raise Unavailable(f"{self.name}: no connection within {limit_s:g} s") from None
        except OSError as error:
            raise Unavailable(f"{self.name}: {error.strerror or error}") from error
        finally:
            self._connecting.pop(place, None)
        for reply in replies:
            if isinstance(reply, Exception):
                connection.close()
                hint = "check user, password and namespace" if isinstance(reply, ReplyError) else ""
                raise Unavailable(f"{self.name} refused the connection: {reply}", hint=hint)
        if self._closed:
            connection.close()
            raise Unavailable(f"{self.name}: the store is closed")
        self._open[place] = connection
        return connection

    async def _dial(self) -> Connection:
        loop = asyncio.get_running_loop()

        def made() -> Connection:
            limit_s = self._access.read_timeout_s
            return Connection(self.name, silence_s=limit_s, reply_bytes_max=REPLY_BYTES_MAX)

        if isinstance(self._place, str):
            return (await loop.create_unix_connection(made, self._place))[1]
        host, port = self._place
        if not self._access.tls:
            return (await loop.create_connection(made, host, port))[1]
        context = await blocking.run("disk", tls_context, self._access.authority)
        return (await loop.create_connection(made, host, port, ssl=context, server_hostname=host))[1]

    async def close(self) -> None:
        self._closed = True
        for task in self._connecting.values():
            task.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting.values())
        for connection in self._open:
            if connection is not None:
                connection.close()


async def _answers(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Replies and failures in order. Cancelling gives the futures up; their connection drops the answers."""
    try:
        for future in futures:
            with contextlib.suppress(ReplyError, Unavailable):
                await future
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    return [future.exception() or future.result() for future in futures]


def tls_context(authority: str) -> ssl.SSLContext:
    """Blocks: reads certificates."""
    context = ssl.create_default_context(cafile=authority or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
