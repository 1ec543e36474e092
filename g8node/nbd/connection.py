"""One client's connection: handshake, then batches of requests (async).

Theory of operation. The socket receives straight into the parser's memory. All requests that one receive
completed are one batch: reads that memory can answer are put one behind the other into one reply and sent
with one call; writes go to the export together; whatever must wait becomes a task and is answered when it is
done, in any order. What is in flight is bounded in bytes and in requests; beyond that requests stay in
`_pending` and the socket is not read, so that the client feels it. The same holds while the client does not
take its replies.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final, cast

from g8node.errors import NodeError, NotFound, Unavailable
from g8node.nbd.commands import perform
from g8node.nbd.export import BatchedExport, DurableExport, Export, errno_of, is_bug
from g8node.nbd.lone import Lone, Wire
from g8node.nbd.owner import Owner
from g8node.nbd.together import ReadReplies, in_lanes
from g8node.runtime import logs
from g8node.wire import nbd
from g8node.wire.kernels import blank
from g8node.wire.nbd import ProtocolError, Replies, Request, RequestParser, Rules
from g8node.wire.nbd_handshake import (
    AskExport,
    AskExports,
    Begin,
    Description,
    End,
    Handshake,
    StartTls,
)

log = logs.get("nbd")

_FLIGHT_BYTES: Final = 16 << 20
_FLIGHT_REQUESTS: Final = 512
_INLINE_BYTES: Final = 256 << 10
"""A longer read is copied by a thread."""
_REPLY_BYTES: Final = 1 << 20
_EXTENTS: Final = 2048
_WEIGHT: Final = 512
"""What a request counts for in `_FLIGHT_BYTES` beside its data."""


class Connection(asyncio.BufferedProtocol):
    """See the module."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._handshake: Handshake | None = Handshake(tls=owner.tls_mode)
        self._scratch: Final = memoryview(bytearray(4096))
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: deque[Request] = deque()
        self._flight_bytes = 0
        self._stalled = False  # the client does not take replies
        self._reading = True
        self._ending = False
        self._secured = False
        self._export: Export | None = None
        self._batched: BatchedExport | None = None
        self._durable: DurableExport | None = None
        self._lone: Lone | None = None
        self._in_order = False
        self.name = ""

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        if not self._owner.joined(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_REPLY_BYTES)
        self._timer = self._loop.call_later(self._owner.handshake_s, self._too_slow)
        self._send_handshake()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch if self._handshake is not None else self._parser.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._handshake is not None:
                self._handshake.feed(self._scratch[:nbytes])
                self._shake()
            elif requests := self._parser.received(nbytes):
                self._pending += requests
                self._work()
        except ProtocolError as error:
            self._drop(error)

    def eof_received(self) -> bool:
        self._end()
        return not self._secured  # closed by us when the last reply is out; TLS cannot be half closed

    def pause_writing(self) -> None:
        self._stalled = True

    def resume_writing(self) -> None:
        self._stalled = False
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = True
        self._pending.clear()
        for timer in (self._timer, self._later):
            if timer is not None:
                timer.cancel()
        if not self._tasks:
            self._gone()

    def close(self) -> None:
        """End as after a client's DISC: what is in flight is still done and answered."""
        self._end()

    def abort(self) -> None:
        """End at once; what is in flight is done and answered to nobody."""
        self._ending = True
        if self._transport is not None:
            self._transport.abort()

    def _drop(self, error: ProtocolError) -> None:
        log.warning("connection dropped", export=self.name, reason=str(error))
        self.abort()

    def _too_slow(self) -> None:
        log.warning("connection dropped", reason=f"no handshake within {self._owner.handshake_s} s")
        self.abort()

    def _end(self) -> None:
        """Close once everything asked for is answered."""
        self._ending = True
        self._pause(True)
        if not self._tasks and not self._pending and self._transport is not None:
            self._transport.close()

    def _gone(self) -> None:
        """The client is away and nothing is in flight: leave the export, then the server."""
        export, self._export = self._export, None
        if export is not None:
            self._start(self._owner.exports.leave(self.name, export, in_order=self._in_order))
        else:
            self._owner.left(self)

    # Tasks

    def _start(self, work: Coroutine[Any, Any, None], weight: int = _WEIGHT) -> None:
        self._flight_bytes += weight
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(
            self._finished if weight == _WEIGHT else lambda one: self._finished(one, weight)
        )

    def _finished(self, task: asyncio.Task[None], weight: int = _WEIGHT) -> None:
        self._tasks.discard(task)
        self._flight_bytes -= weight
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connection failed", export=self.name, exc_info=error)
            self.abort()
        if self._transport is not None and self._transport.is_closing():
            if not self._tasks:
                self._gone()
        elif self._ending and not self._pending:
            self._end()
        elif self._pending or not self._reading:
            self._work()

    def _pause(self, pause: bool) -> None:
        if self._transport is None or self._transport.is_closing() or self._reading is not pause:
            return
        self._reading = not pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # Handshake

    def _shake(self) -> None:
        assert self._handshake is not None
        while isinstance(event := self._handshake.next(), AskExports):
            self._handshake.answer_exports(self._owner.exports.names())
        self._send_handshake()
        self._pause(event is not None)
        if isinstance(event, End):
            self._end()
        elif isinstance(event, AskExport):
            self._start(self._open(event))
        elif isinstance(event, StartTls):
            self._start(self._start_tls())

    def _send_handshake(self) -> None:
        if self._handshake is not None and self._handshake.output and self._transport is not None:
            self._transport.write(bytes(self._handshake.output))
            self._handshake.output.clear()

    async def _open(self, asked: AskExport) -> None:
        """Answer the question with the export, and go on with the handshake or begin."""
        handshake = self._handshake
        assert handshake is not None
        export: Export | None = None
        try:
            try:
                description = await self._owner.exports.describe(asked.name)
                if asked.begins:
                    export = await self._owner.exports.open(asked.name)
                    description = export.describe()
                handshake.answer_export(description)
            except NotFound as error:
                handshake.answer_export(None, str(error))
            except (NodeError, OSError) as error:
                log.warning("export cannot be opened", export=asked.name, reason=str(error))
                handshake.answer_export(None, str(error), shutdown=isinstance(error, Unavailable))
            begin = handshake.next() if export is not None else None
            if isinstance(begin, Begin) and export is not None and not self._ending:
                self._begin(begin, export)
                export = None
            elif not self._ending:
                self._shake()
        except ProtocolError as error:
            self._drop(error)
        finally:
            if export is not None:
                await self._owner.exports.leave(asked.name, export, in_order=False)

    async def _start_tls(self) -> None:
        assert self._transport is not None
        assert self._handshake is not None
        assert self._owner.tls is not None
        zeroes = self._handshake.zeroes
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                self._owner.tls,
                server_side=True,
                ssl_handshake_timeout=self._owner.handshake_s,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            log.warning("connection dropped", reason=f"TLS: {error}")
            self.abort()
            return
        if secured is None:
            return
        self._transport = secured
        self._secured = True
        secured.set_write_buffer_limits(high=_REPLY_BYTES)
        self._handshake = Handshake(tls="done", greet=False, zeroes=zeroes)

    def _begin(self, begin: Begin, export: Export) -> None:
        assert self._handshake is not None
        self._send_handshake()
        rest, self._handshake = self._handshake.rest, None
        if self._timer is not None:
            self._timer.cancel()
        self.name = begin.name
        self._export = export
        self._batched = export if isinstance(export, BatchedExport) else None
        self._durable = export if isinstance(export, DurableExport) else None
        self._set_rules(begin, begin.description)
        if self._transport is not None and not self._secured:
            wire = Wire(self._transport, self._parser, self._rules, self._replies)
            self._lone = Lone.of(export, wire)
        self._pause(False)
        if requests := self._parser.feed(rest):
            self._pending += requests
            self._work()

    def _set_rules(self, begin: Begin, description: Description) -> None:
        payload_max = description.payload_max
        self._rules = Rules(
            size=description.size,
            read_only=bool(description.flags & nbd.FLAG_READ_ONLY),
            structured=begin.structured,
            extended=begin.extended,
            block_status=begin.block_status,
            payload_max=payload_max,
        )
        self._parser = RequestParser(extended=begin.extended, payload_max=payload_max)
        self._replies = Replies(structured=begin.structured, extended=begin.extended)

    # Transmission

    def _work(self) -> None:
        """Take what is pending as far as the bounds allow."""
        export = self._export
        if export is None or self._transport is None or self._transport.is_closing():
            return
        if self._lone is not None and self._is_served_alone(self._lone):
            return
        pending, refusal = self._pending, self._rules.refusal
        reads: list[Request] = []
        writes: list[Request] = []
        size = written = 0
        room = _FLIGHT_BYTES - self._flight_bytes
        while pending and size + written < room and self._may_begin(export):
            request = pending.popleft()
            if error := refusal(request):
                self._transport.write(self._replies.error(request, error, "refused"))
            elif request.kind == nbd.CMD_READ and request.length <= _INLINE_BYTES:
                reads.append(request)
                size += request.length
                if size > _REPLY_BYTES:
                    self._read(export, reads, size)
                    reads, size = [], 0
            elif request.kind == nbd.CMD_WRITE:
                writes.append(request)
                written += request.length + _WEIGHT
            else:
                self._other(export, request)
        if reads:
            self._read(export, reads, size)
        if writes:
            self._start(self._write(export, writes), written)
        self._breathe()

    def _is_served_alone(self, lone: Lone) -> bool:
        """By a thread, already or from now on."""
        if self._pending and lone.takes(self._pending, self._tasks, self._stalled):
            self._pause(True)
            self._start(self._serve_alone(lone, self._pending.popleft()))
        return lone.under_way

    async def _serve_alone(self, lone: Lone, request: Request) -> None:
        try:
            left = await lone.serve(request, lambda: self._ending)
        except ProtocolError as error:
            self._drop(error)
            return
        if left.failure is not None:
            self._fail(*left.failure)
        self._send(left.unsent)
        self._pending += left.requests

    def _other(self, export: Export, request: Request) -> None:
        """What is no part of a batch."""
        if request.kind == nbd.CMD_DISC:
            self._pending.clear()
            self._ending = self._in_order = True
            return
        export.count(request.kind, 1, request.length)
        if request.kind == nbd.CMD_READ:
            self._start(self._read_slowly(export, request), request.length + _WEIGHT)
        else:
            self._start(self._do(export, request))

    def _may_begin(self, export: Export) -> bool:
        """Whether the bounds and the vdisk's limits allow one more request."""
        if self._stalled or self._later is not None or len(self._tasks) >= _FLIGHT_REQUESTS:
            return False
        if not export.limited:
            return True
        request = self._pending[0]
        wait_s = export.pause_s(request.length if request.kind <= nbd.CMD_WRITE else 0)
        if wait_s > 0:
            self._later = self._loop.call_later(wait_s, self._resume)
            return False
        return True

    def _resume(self) -> None:
        self._later = None
        self._work()

    def _breathe(self) -> None:
        """Read the socket only while there is room for what it would give."""
        if self._ending:
            self._end()
        else:
            self._pause(bool(self._pending) or self._flight_bytes >= _FLIGHT_BYTES)

    def _read(self, export: Export, reads: Sequence[Request], size: int) -> None:
        """Answer what is in memory with one write to the socket; the rest waits in tasks."""
        export.count(nbd.CMD_READ, len(reads), size)
        if self._batched is not None:
            self._read_in_lanes(self._batched, reads)
            return
        replies = ReadReplies(self._replies, reads, size)
        done = export.read_many_now(replies.asked)
        if all(done):
            self._send(replies.all)
            return
        for request, reply, is_done in zip(reads, replies.each(), done, strict=True):
            if is_done:
                self._send(reply)
            else:
                self._start(self._read_slowly(export, request), request.length + _WEIGHT)

    def _read_in_lanes(self, export: BatchedExport, reads: Sequence[Request]) -> None:
        for lane in in_lanes(reads, export):
            size = sum(request.length for request in lane)
            self._start(self._read_together(export, lane, size), size + _WEIGHT * len(lane))

    async def _read_together(self, export: BatchedExport, reads: Sequence[Request], size: int) -> None:
        replies = ReadReplies(self._replies, reads, size)
        try:
            errors = await export.read_many(replies.asked)
        except Exception as error:  # noqa: BLE001 - the border to NBD: every failure is a reply
            errors = [error] * len(reads)
        if not any(errors):
            self._send(replies.all)
            return
        for request, reply, failure in zip(reads, replies.each(), errors, strict=True):
            if failure is not None:
                self._fail(request, failure)
            else:
                self._send(reply)

    async def _read_slowly(self, export: Export, request: Request) -> None:
        head = self._replies.data_bytes
        out = blank(head + request.length)
        try:
            await export.read(request.offset, memoryview(out)[head:])
        except Exception as error:  # noqa: BLE001 - the border to NBD: every failure is a reply
            self._fail(request, error)
            return
        self._replies.data_header(out, 0, request.cookie, request.offset, request.length)
        self._send(out)

    async def _write(self, export: Export, writes: Sequence[Request]) -> None:
        size = sum(request.length for request in writes)
        export.count(nbd.CMD_WRITE, len(writes), size)
        data = [(request.offset, request.payload) for request in writes if request.payload is not None]
        at_once = self._durable if all(request.flags & nbd.CMD_FLAG_FUA for request in writes) else None
        try:
            errors = await (at_once.write_durably(data) if at_once else export.write_many(data))
        except Exception as error:  # noqa: BLE001 - as above
            errors = [error] * len(writes)
        for _, payload in data:
            self._parser.recycle(payload)
        done, durable = [], []
        for request, failure in zip(writes, errors, strict=True):
            if failure is not None:
                self._fail(request, failure)
            elif request.flags & nbd.CMD_FLAG_FUA and not at_once:
                durable.append(request)
            else:
                done.append(self._replies.done(request.cookie, request.offset))
        self._send(b"".join(done))
        if durable:
            await self._finish_durably(export, durable)

    async def _finish_durably(self, export: Export, requests: Sequence[Request]) -> None:
        try:
            await export.flush()
        except Exception as error:  # noqa: BLE001 - as above
            for request in requests:
                self._fail(request, error)
            return
        self._send(b"".join(self._replies.done(request.cookie, request.offset) for request in requests))

    async def _do(self, export: Export, request: Request) -> None:
        """All commands but READ, WRITE and DISC."""
        try:
            if request.kind == nbd.CMD_BLOCK_STATUS:
                self._send(await self._status(export, request))
                return
            await perform(export, request)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(request, error)
            return
        self._send(self._replies.done(request.cookie, request.offset))

    async def _status(self, export: Export, request: Request) -> bytes:
        one = bool(request.flags & nbd.CMD_FLAG_REQ_ONE)
        extents = await export.extents(request.offset, request.length, 1 if one else _EXTENTS)
        return self._replies.block_status(request.cookie, request.offset, extents)

    def _fail(self, request: Request, error: Exception) -> None:
        if is_bug(error):
            log.error("bug in an export", export=self.name, exc_info=error)
        else:
            log.warning("request failed", export=self.name, kind=request.kind, reason=str(error))
        self._send(self._replies.error(request, errno_of(error), str(error)))

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        if len(data) and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
