"""One multiplexed connection to redis-server's unix socket (async).

Calls made in one turn of the loop leave in one write and are answered in order, so thousands of callers share
a connection (design 2: 85k calls/s against 12k/s of a client with one exchange at a time). A blocking command
would hold up the others: it needs a Link of its own. Nothing is retried here, because only the caller knows
whether a command may run twice: when the connection breaks, every call under way raises Unavailable.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any, Final, Protocol, cast

import hiredis

from g8node.errors import Unavailable

RETRY_S: Final = 0.02

Arg = bytes | str | int | float


class ReplyError(Exception):
    """redis answered with an error; `str()` is its text, its first word the kind."""

    @property
    def kind(self) -> str:
        return str(self).partition(" ")[0]


class Waiter(Protocol):
    """What an answer is given to: a future, or something cheaper."""

    def done(self) -> bool: ...

    def set_result(self, reply: Any, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=ReplyError)
        self._waiting: deque[Waiter] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(Unavailable("redis closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:  # False: not enough data; RESP2 has no other False
            self._answer(reply)

    def _answer(self, reply: Any) -> None:
        future = self._waiting.popleft()
        if future.done():
            return
        if isinstance(reply, ReplyError):
            future.set_exception(Unavailable(str(reply)) if reply.kind == "LOADING" else reply)
        else:
            future.set_result(reply)

    @property
    def under_way(self) -> int:
        return len(self._waiting)

    def call(self, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(args, future)
        return future

    def send(self, args: tuple[Any, ...], waiter: Waiter) -> None:
        if not self.is_open:  # lost between the connecting and the call: nobody would answer
            waiter.set_exception(Unavailable("redis closed the connection"))
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(hiredis.pack_command(args))
        self._waiting.append(waiter)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and self.is_open:
            with contextlib.suppress(RuntimeError):  # uvloop: closed, and connection_lost is about to say so
                self._transport.write(b"".join(out))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Link:
    """Connects on the first call, and again after a break."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    @property
    def under_way(self) -> int:
        """Calls that wait for their answer."""
        return self._connection.under_way if self._connection is not None else 0

    async def call(self, *args: Arg) -> Any:
        """The reply; ReplyError when redis refuses, Unavailable without a connection or while redis loads.

        Unavailable may come after redis has run the command. Cancelling does not take the command back.
        """
        connection = self._connection
        if connection is None or not connection.is_open:
            connection = await self._connected()
        return await connection.call(args)

    def send(self, args: tuple[Arg, ...], waiter: Waiter) -> bool:
        """The same without a task: `waiter` gets the reply or the error. False without a connection."""
        connection = self._connection
        if connection is None or not connection.is_open:
            return False
        connection.send(args, waiter)
        return True

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

    async def _connected(self) -> _Connection:
        if self._closed:
            raise Unavailable("the connection to redis is closed")
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Connection:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_unix_connection(_Connection, self._socket)
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
