"""One multiplexed connection to a server that speaks RESP (async).

Commands sent in one turn of the loop leave in one write and are answered in order, so many callers share a
connection (design 2: 85k calls/s against 12k/s of a client with one exchange at a time). Nothing is retried
here, because only the caller knows whether a command may run twice: when the connection breaks, every call
under way raises Unavailable. A caller that is cancelled leaves its answer to be dropped; the order holds.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any, Protocol, cast

import hiredis

from g8node.errors import Unavailable

Arg = bytes | str | int | float


class ReplyError(Exception):
    """The server answered with an error; `str()` is its text, its first word the kind."""

    @property
    def kind(self) -> str:
        return str(self).partition(" ")[0]


class Waiter(Protocol):
    """What gets an answer: a future, or something cheaper."""

    def done(self) -> bool: ...

    def set_result(self, reply: Any, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class ReplyTooLarge(Unavailable):
    """The connection was closed because the answer to this command exceeds the limit."""


class Connection(asyncio.Protocol):
    """`name` is used in messages. No limit on silence or size of a reply unless given.

    `silence_s`: with commands under way and nothing received for so long the connection is closed.
    """

    def __init__(self, name: str = "redis", *, silence_s: float = 0.0, reply_bytes_max: int = 0) -> None:
        self._name = name
        self._silence_s = silence_s
        self._reply_bytes_max = reply_bytes_max
        self._reader = hiredis.Reader(replyError=ReplyError)
        self._waiting: deque[Waiter] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._unfinished_bytes = 0
        self._why: Unavailable | None = None
        self.is_open = False

    @property
    def under_way(self) -> int:
        """Commands without an answer yet."""
        return len(self._waiting)

    @property
    def silent_s(self) -> float:
        """For how long nothing was heard with commands under way; 0 without any."""
        return asyncio.get_running_loop().time() - self._heard if self._waiting else 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, deque()
        first = self._why or Unavailable(f"{self._name} closed the connection")
        for future in waiting:
            if not future.done():
                future.set_exception(first)
                # Only the oldest command's answer can have been too large.
                first = Unavailable(first.message)

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._unfinished_bytes += len(data)
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:  # not enough data; RESP2 has no other False
                self._unfinished_bytes = 0
                self._answer(reply)
        except (hiredis.ProtocolError, IndexError) as error:  # or an answer that nobody asked for
            self._break(Unavailable(f"{self._name} does not speak RESP: {error}"))
            return
        if 0 < self._reply_bytes_max < self._unfinished_bytes:
            self._break(ReplyTooLarge(f"{self._name}: an answer of more than {self._reply_bytes_max} bytes"))

    def _answer(self, reply: Any) -> None:
        future = self._waiting.popleft()
        if future.done():
            return
        if isinstance(reply, ReplyError):
            future.set_exception(Unavailable(str(reply)) if reply.kind == "LOADING" else reply)
        else:
            future.set_result(reply)

    def send(self, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """The reply to come: ReplyError when the server refuses, Unavailable when the connection breaks."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send_for(future, args)
        return future

    def send_for(self, waiter: Waiter, args: tuple[Any, ...]) -> None:
        """The same for who waits otherwise; errors may come before this returns."""
        if not self.is_open:  # lost between the connecting and the call: nobody would answer
            waiter.set_exception(Unavailable(f"{self._name} closed the connection"))
            return
        loop = asyncio.get_running_loop()
        if not self._out:
            loop.call_soon(self._flush)
        if not self._waiting:
            self._heard = loop.time()
            self._watch()
        self._out.append(hiredis.pack_command(args))
        self._waiting.append(waiter)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and self.is_open:
            with contextlib.suppress(RuntimeError):  # uvloop: closed, and connection_lost is about to say so
                self._transport.write(b"".join(out))

    def _watch(self) -> None:
        """Have the silence measured while anything is under way."""
        if self._silence_s and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._heard + self._silence_s, self._listen)

    def _listen(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        if asyncio.get_running_loop().time() - self._heard >= self._silence_s:
            self._break(Unavailable(f"{self._name} has not answered for {self._silence_s:g} s"))
        else:
            self._watch()

    def _break(self, why: Unavailable) -> None:
        self._why = self._why or why
        self.close()

    def close(self) -> None:
        """Break the connection; calls under way raise Unavailable."""
        if self._transport is not None:
            self._transport.abort()
