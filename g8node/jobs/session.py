"""One client of the gate: its socket, its protocol version, who it is (async).

Theory of operation. Requests are served in order, and so are their answers sent. What one exchange with redis
answers needs no task: such requests of a pipeline travel together, each with a Slot in a queue that keeps the
order. A request that has to wait for something else gets a task, which begins when all slots before it are
filled; until it has ended, no further request is taken.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from g8node.jobs.link import ReplyError
from g8node.jobs.model import Caller
from g8node.runtime import logs
from g8node.wire.resp import Error, Limits, ProtocolError, Reply, RequestParser, encode

log = logs.get("gate")

BEFORE_AUTH: Final = Limits(args=16, arg_bytes=8 << 10, total_bytes=16 << 10)
AFTER_AUTH: Final = Limits(args=1024, arg_bytes=16 << 20, total_bytes=64 << 20)
AUTH_S: Final = 30.0
"""How long a client may stay without AUTH."""

_BUSY_BYTES = 1 << 20  # more than this behind a request that is being served stays in the socket
_TURN: Final = 64
"""A client with more requests at hand lets the others have their turn."""

_SLOTS: Final = 256

Handle = Callable[["Session", list[bytes]], Awaitable[Reply]]
Quick = Callable[["Session", list[bytes]], bool]
"""Takes a request that one exchange with redis answers (`Session.slot`); False for any other."""

Again = Callable[["Slot"], None]


class Slot:
    """The place of an answer in the order of requests. Redis's link fills it as it fills a future."""

    __slots__ = ("_session", "data", "question")

    def __init__(self, session: "Session", question: tuple[str | bytes, ...]) -> None:
        self.question = question
        self.data: bytes | None = None
        self._session = session

    def done(self) -> bool:
        return self.data is not None

    def set_result(self, reply: Any) -> None:
        self.data = encode(reply, self._session.protocol)
        self._session.filled()

    def set_exception(self, error: BaseException) -> None:
        """An error of redis is an answer; without an answer, the exchange is tried again."""
        if isinstance(error, ReplyError):
            self.set_result(Error(str(error)))
        else:
            self._session.again(self)


_NOT_SERVED, _OVER, _TASK, _UNREAD, _TURN_OVER, _FULL = (1 << bit for bit in range(6))
"""What holds the next request: not taken by the gate yet; hung up; an earlier request; a client that does not
read; the turn of the others; too many answers under way."""


class Session(asyncio.Protocol):
    """`quick`, `again` and `handle` are the gate's: what is not quick is handled in a task."""

    def __init__(
        self,
        quick: Quick,
        again: Again,
        handle: Handle,
        opened: Callable[["Session"], None],
        closed: Callable[["Session"], None],
    ) -> None:
        self.caller: Caller | None = None
        self.protocol = 2
        self.name = b""
        self.id = 0
        self.address = ""
        self.closing = False
        self.certificate: object = None
        self.again = again
        self._quick = quick
        self._handle = handle
        self._opened = opened
        self._closed = closed
        self._parser = RequestParser(BEFORE_AUTH)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._slots: deque[Slot | bytes] = deque()
        self._emptied: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._held = _NOT_SERVED
        self._is_lost = False
        self._is_reading = True
        self._will_flush = False

    def admit(self, caller: Caller) -> None:
        """The client has proved who it is."""
        self.caller = caller
        self._parser.limits = AFTER_AUTH
        if self._timer is not None:
            self._timer.cancel()

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._is_lost:  # a TLS client that left while its handshake was being finished
            return
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.certificate = transport.get_extra_info("peercert")
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else "local"
        self._timer = asyncio.get_running_loop().call_later(AUTH_S, self._expire)
        self._opened(self)

    def start(self) -> None:
        """Begin to serve (the gate has taken the client)."""
        self._held &= ~_NOT_SERVED
        self._pump()

    def refuse(self, text: str) -> None:
        """Say why and hang up."""
        self._write(encode(Error(text)))
        self._hang_up()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # uvloop: closed, and connection_lost is about to say so
                self._transport.write(data)

    def _hang_up(self) -> None:
        self._held |= _OVER
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # the loop may be closing
                self._transport.close()

    def _expire(self) -> None:
        if self.caller is None:
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        self._pump()
        if self._held and self._parser.buffered > _BUSY_BYTES and self._transport is not None:
            self._transport.pause_reading()
            self._is_reading = False

    def pause_writing(self) -> None:
        self._held |= _UNREAD

    def resume_writing(self) -> None:
        self._held &= ~_UNREAD
        self._pump()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self._held |= _OVER
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._closed(self)

    # Requests

    def _pump(self) -> None:
        """Take requests for as long as nothing holds them."""
        try:
            for _ in range(_TURN):
                if self._held:
                    return
                if (request := self._parser.next()) is None:
                    self._read_on()
                    return
                if not self._quick(self, request):
                    self._held |= _TASK
                    self._task = asyncio.create_task(self._serve(request), name=f"gate client {self.id}")
                    return
        except ProtocolError as error:
            self._held |= _OVER
            self.closing = True
            self._slots.append(encode(Error(f"ERR Protocol error: {error}")))
            self.filled()
            return
        self._held |= _TURN_OVER
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._held &= ~_TURN_OVER
        self._pump()

    def _read_on(self) -> None:
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    def slot(self, question: tuple[str | bytes, ...]) -> Slot:
        """A place for redis's answer to the request that is being taken."""
        slot = Slot(self, question)
        self._slots.append(slot)
        if len(self._slots) >= _SLOTS:
            self._held |= _FULL
        return slot

    def filled(self) -> None:
        """Some slot has its answer: one alone goes out at once, those of a pipeline together."""
        if len(self._slots) == 1:
            self._flush()
        elif not self._will_flush:
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._will_flush = False
        self._flush()

    def _flush(self) -> None:
        """Send what is ready, up to the first slot that is not."""
        out: list[bytes] = []
        slots = self._slots
        while slots:
            first = slots[0]
            data = first if isinstance(first, bytes) else first.data
            if data is None:
                break
            out.append(data)
            slots.popleft()
        if out and not self._is_lost:
            self._write(out[0] if len(out) == 1 else b"".join(out))
        if not slots:
            if self._emptied is not None and not self._emptied.done():
                self._emptied.set_result(None)
            if self.closing and self._task is None:
                self._hang_up()
            elif not self._is_reading:
                self._pump()
        if self._held & _FULL and len(slots) < _SLOTS // 2:
            self._held &= ~_FULL
            self._pump()

    async def _serve(self, request: list[bytes]) -> None:
        """One request that takes its time."""
        try:
            if self._slots:
                self._emptied = asyncio.get_running_loop().create_future()
                await self._emptied
            self._write(encode(await self._handle(self, request), self.protocol))
        except Exception as error:  # the border of the client: its connection ends, not the gate
            log.error("bug while serving a client", exc_info=error)
            self._write(encode(Error("ERR 500 internal error")))
            self.closing = True
        self._task = self._emptied = None
        if self.closing:
            self._hang_up()
        else:
            self._held &= ~_TASK
            self._pump()
