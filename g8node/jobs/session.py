"""One client of the gate: its socket, its protocol version, who it is (async)."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from g8node.jobs.model import Caller
from g8node.runtime import logs
from g8node.wire.resp import Error, Limits, ProtocolError, Reply, RequestParser, encode

log = logs.get("gate")

BEFORE_AUTH: Final = Limits(args=16, arg_bytes=8 << 10, total_bytes=16 << 10)
AFTER_AUTH: Final = Limits(args=1024, arg_bytes=16 << 20, total_bytes=64 << 20)
AUTH_S: Final = 30.0
"""How long a client may stay without AUTH."""

_BUSY_BYTES = 1 << 20  # more than this behind a request that is being served stays in the socket

_TURN_S = 0.005
"""A client with more requests at hand lets the others have their turn."""

Handle = Callable[["Session", list[bytes]], Awaitable[Reply]]


class Session(asyncio.Protocol):
    """Requests are served one after another, in order. `handle` is the gate's."""

    def __init__(
        self, handle: Handle, opened: Callable[["Session"], None], closed: Callable[["Session"], None]
    ) -> None:
        self.caller: Caller | None = None
        self.protocol = 2
        self.name = b""
        self.id = 0
        self.address = ""
        self.closing = False
        self.certificate: object = None
        self._is_lost = False
        self._handle = handle
        self._opened = opened
        self._closed = closed
        self._parser = RequestParser(BEFORE_AUTH)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._idle = True

    def admit(self, caller: Caller) -> None:
        """The client has proved who it is."""
        self.caller = caller
        self._parser.limits = AFTER_AUTH
        if self._timer is not None:
            self._timer.cancel()

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
        self._task = asyncio.create_task(self._serve(), name=f"gate client {self.id}")

    def refuse(self, text: str) -> None:
        """Say why and hang up."""
        if self._transport is not None:
            self._write(encode(Error(text)))
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # uvloop: closed, and connection_lost is about to say so
                self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        if self.caller is None:
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        self._more.set()
        if not self._idle and self._parser.buffered > _BUSY_BYTES and self._transport is not None:
            self._transport.pause_reading()
            self._reading = False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._closed(self)

    async def _serve(self) -> None:
        assert self._transport is not None  # start() comes after connection_made
        turn_ends = 0.0
        try:
            while not self.closing:
                # What a request waits for may be there already, and then nothing below lets the loop go on.
                if time.monotonic() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time.monotonic() + _TURN_S
                request = self._parser.next()
                if request is None:
                    await self._wait_for_more()
                    continue
                self._idle = False
                self._write(encode(await self._handle(self, request), self.protocol))
                await self._writable.wait()
        except ProtocolError as error:
            self._write(encode(Error(f"ERR Protocol error: {error}")))
        except Exception as error:  # the border of the client: its connection ends, not the gate
            log.error("bug while serving a client", exc_info=error)
            self._write(encode(Error("ERR 500 internal error")))
        with contextlib.suppress(RuntimeError):  # the loop may be closing
            self._transport.close()

    async def _wait_for_more(self) -> None:
        self._idle = True
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        self._more.clear()
        await self._more.wait()
