"""A client that waits for the disk with each request, served by a thread (async; in the thread blocking).

Theory of operation. A database or a guest's journal writes, has it on the disk, and only then writes on. For
such a client each change of threads counts: from the loop to one that may wait for the disk and back took
longer than the disk. So when a connection has had a few durable requests, each of them alone, the loop
stops to read it and gives it to a thread, which receives, writes, syncs and answers. It gives the
connection back as soon as there is anything else: two requests at once, another command, a failure, half a
reply that does not fit the socket, a pause of the client, another connection that wants the disk; and always
after a quarter of a second. All that is left then is done by the loop, in order.
"""

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from g8node.linux.guard import off_loop
from g8node.nbd.export import Export, LoneExport
from g8node.runtime import blocking
from g8node.wire import nbd
from g8node.wire.nbd import Replies, Request, RequestParser, Rules

_LONE_MAX: Final = blocking.SIZES["lone"]
_STREAK: Final = 4
"""Durable requests one after the other, before a thread is worth it."""
_SESSION_S: Final = 0.25
_PAUSE_S: Final = 0.02
_SPIN_S: Final = 50e-6
"""A client that was quicker than this is not waited for asleep: to wake up takes as long."""


class Left(NamedTuple):
    """What the loop goes on with, in this order."""

    failure: tuple[Request, Exception] | None = None
    unsent: bytes = b""
    requests: Sequence[Request] = ()


class Wire(NamedTuple):
    """The connection's own."""

    transport: asyncio.Transport
    parser: RequestParser
    rules: Rules
    replies: Replies


class Lone:
    """One connection. While it is `under_way` nobody else touches the wire."""

    threads = 0
    """Under way, of all servers: they share the threads, and who had to wait for one would not be served."""

    def __init__(self, export: Export, alone: LoneExport, wire: Wire) -> None:
        self._export = export
        self._alone = alone
        self._transport, self._parser, self._rules, self._replies = wire
        self._streak = 0
        self._client: socket.socket
        self._is_quick = False
        self._flushes = self._writes = self._written = 0
        self.under_way = False

    @classmethod
    def of(cls, export: Export, wire: Wire) -> "Lone | None":
        """None when the export cannot be served so."""
        return cls(export, export, wire) if isinstance(export, LoneExport) else None

    # On the loop

    def takes(self, pending: Sequence[Request], tasks: Collection[asyncio.Task[None]], stalled: bool) -> bool:
        """Whether a thread is to go on with what is pending, the only request; `serve` must follow.

        `tasks` are under way, or done; `stalled`: the client does not take its replies.
        """
        if self.under_way or stalled or not self._is_simple(pending) or not all(one.done() for one in tasks):
            self._streak = 0
            return False
        if pending[0].kind == nbd.CMD_FLUSH or pending[0].flags & nbd.CMD_FLAG_FUA:
            self._streak += 1
        if self._streak < _STREAK or self._export.limited or Lone.threads >= _LONE_MAX:
            return False
        if self._transport.get_write_buffer_size() or not self._alone.take():
            return False
        fd = self._transport.get_extra_info("socket").fileno()
        try:
            self._client = socket.socket(fileno=os.dup(fd))  # the transport may close its own at any time
        except OSError:  # no descriptor is left: the loop needs none
            self._alone.give_back()
            self._streak = 0
            return False
        Lone.threads += 1
        self.under_way = True
        return True

    async def serve(self, request: Request, ending: Callable[[], bool]) -> Left:
        """Have a thread go on from `request`, until `ending()`. Raises ProtocolError as the parser does."""
        try:
            with self._client as client:
                return await blocking.run("lone", self._serve, client, request, ending)
        finally:
            self.under_way = False
            Lone.threads -= 1
            self._alone.give_back()
            self._export.count(nbd.CMD_FLUSH, self._flushes, 0)
            self._export.count(nbd.CMD_WRITE, self._writes, self._written)
            self._flushes = self._writes = self._written = 0

    # In the thread

    def _is_simple(self, requests: Sequence[Request]) -> bool:
        return (
            len(requests) == 1
            and requests[0].kind in (nbd.CMD_WRITE, nbd.CMD_FLUSH)
            and not self._rules.refusal(requests[0])
        )

    @off_loop
    def _serve(self, client: socket.socket, request: Request, ending: Callable[[], bool]) -> Left:
        end = time.monotonic() + _SESSION_S
        requests = [request]
        client.setblocking(False)
        while self._is_simple(requests):
            try:
                reply = self._do(requests[0])
            except Exception as error:  # noqa: BLE001 - the loop answers it
                return Left(failure=(requests[0], error))
            self._parser.all_returned()
            if unsent := _send(client, reply):
                return Left(unsent=unsent)
            if self._alone.wanted:
                self._streak = 0
                return Left()
            if ending() or time.monotonic() > end:
                return Left()
            requests = self._receive(client, end)
        return Left(requests=requests)

    def _do(self, request: Request) -> bytes:
        """The reply."""
        _, flags, cookie, offset, length, payload = request
        if payload is None:
            self._flushes += 1
            self._alone.flush_here()
        else:
            self._writes += 1
            self._written += length
            try:
                self._alone.write_here(offset, payload, durable=bool(flags & nbd.CMD_FLAG_FUA))
            finally:
                self._parser.recycle(payload)
        return self._replies.done(cookie, offset)

    def _receive(self, client: socket.socket, end: float) -> list[Request]:
        """What is complete next; nothing when the client pauses or is gone, which the loop finds out, too."""
        requests: list[Request] = []
        began = time.monotonic()
        while not requests and time.monotonic() < end:
            if not self._is_quick and not _wait(client):
                break
            try:
                count = client.recv_into(self._parser.buffer())
            except BlockingIOError:
                self._is_quick = time.monotonic() < began + _SPIN_S
                continue
            except ConnectionError:
                break
            if not count:
                break
            requests = self._parser.received(count)
        self._is_quick = time.monotonic() < began + _SPIN_S
        return requests


def _wait(client: socket.socket) -> bool:
    """Asleep, until there is something to receive; False for a client that pauses."""
    waiting = select.poll()
    waiting.register(client, select.POLLIN)
    return bool(waiting.poll(_PAUSE_S * 1000))


def _send(client: socket.socket, reply: bytes) -> bytes:
    """What the socket has no room for."""
    try:
        return reply[os.write(client.fileno(), reply) :]
    except (BlockingIOError, ConnectionError):  # of the latter the loop finds out, too
        return reply
