"""A process that a client talks with while it runs: raw output, input that comes in pieces (async).

Theory of operation. Output becomes messages of the job as it is read, without levels in it; a client follows
them on `stream:<id>`. Input comes by `job.input`, whose calls are taken in the order in which they were sent,
into a bounded queue: who sends faster than the process reads is refused and may try again. On a terminal both
directions are one descriptor, the other end of the container's pty; its end of input is the character that
the terminal takes for it.
"""

import asyncio
import codecs
import contextlib
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from g8node.errors import Conflict, Exhausted
from g8node.jobs.job import Job
from g8node.jobs.model import Level
from g8node.jobs.outcome import Outcome
from g8node.jobs.runs import KILLED_CODE, Store, Tail
from g8node.runtime import blocking
from g8node.runtime.process import Child
from g8node.runtime.stdio import PipeReader, write_some

if TYPE_CHECKING:
    from g8node.jobs.runs import Valve

QUEUE_BYTES: Final = 1 << 20
DRAIN_S: Final = 1.0
"""How long after its end others may keep the output open."""

_PIECE_BYTES: Final = 64 << 10
_END_OF_INPUT: Final = b"\x04"


class Input:
    """Feeds what comes in pieces to a descriptor, in order; owns the descriptor."""

    def __init__(self, fd: int, *, terminal: bool) -> None:
        self._fd = fd
        self._terminal = terminal
        self._queue = bytearray()
        self._ending = False
        self._closed = False
        self._busy = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)

    def write(self, data: bytes, *, close: bool) -> None:
        """Exhausted when too much waits, Conflict after the end of input."""
        if self._closed or self._ending:
            raise Conflict("the input has ended")
        if len(self._queue) + len(data) > QUEUE_BYTES:
            raise Exhausted("the process does not read its input", hint="try again later")
        self._queue += data
        self._ending = close
        if close and self._terminal:
            self._queue += _END_OF_INPUT
        self._next()

    def _next(self) -> None:
        if self._busy or self._closed:
            return
        if self._queue:
            self._busy = True
            self._loop.add_writer(self._fd, self._writable)
        elif self._ending and not self._terminal:
            self.close()

    def _writable(self) -> None:
        self._loop.remove_writer(self._fd)
        piece = bytes(self._queue[:_PIECE_BYTES])
        writing = self._loop.run_in_executor(blocking.pool("pipes"), write_some, self._fd, piece)
        writing.add_done_callback(self._wrote)

    def _wrote(self, writing: "asyncio.Future[int]") -> None:
        self._busy = False
        if self._closed:
            blocking.pool("pipes").submit(os.close, self._fd)
            return
        sent = -1 if writing.cancelled() else writing.result()
        if sent < 0:  # nobody reads any more
            self.close()
            return
        del self._queue[:sent]
        self._next()

    def close(self) -> None:
        """What the process has not taken is dropped."""
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        if not self._busy:
            blocking.pool("pipes").submit(os.close, self._fd)
        elif self._loop.remove_writer(self._fd):  # it was still waiting for room
            self._busy = False
            blocking.pool("pipes").submit(os.close, self._fd)


class Session:
    """The run of a job whose process has started; `run` is its whole life."""

    def __init__(self, job: Job, child: Child, valve: "Valve") -> None:
        self._job = job
        self._child = child
        self._valve = valve
        self._input: Input | None = None
        self._terminal = -1
        self._readers: list[PipeReader] = []
        self._tails = {level: Tail(Store()) for level in (Level.STDOUT, Level.STDERR)}

    @property
    def pid(self) -> int:
        return self._child.pid

    def signal(self, number: int) -> bool:
        return self._child.signal(number)

    def write(self, data: bytes, *, close: bool) -> None:
        """For the process. Conflict when it has no input, or no more."""
        if self._input is None:
            raise Conflict(f"job {self._job.id!r} takes no input")
        self._input.write(data, close=close)

    def resize(self, rows: int, columns: int) -> None:
        """Conflict when it has no terminal."""
        if self._terminal < 0:
            raise Conflict(f"job {self._job.id!r} has no terminal")
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def on_terminal(self, fd: int, rows: int, columns: int) -> None:
        """Take the other end of its terminal."""
        self._terminal = os.dup(fd)
        os.set_inheritable(self._terminal, False)
        self.resize(rows, columns)
        self._input = Input(os.dup(fd), terminal=True)
        self._read(fd, Level.STDOUT)

    def on_pipes(self, stdin: int, stdout: int, stderr: int) -> None:
        """Take our ends of its pipes; stdin is -1 for one without input."""
        self._input = Input(stdin, terminal=False) if stdin >= 0 else None
        self._read(stdout, Level.STDOUT)
        self._read(stderr, Level.STDERR)

    def _read(self, fd: int, level: Level) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def got(data: bytes) -> None:
            if text := decoder.decode(data):
                self._tails[level].add(text)
                self._job.emit(level, text)
            if self._job.request.stream and self._valve.is_shut:
                self._valve.hold(self)

        self._readers.append(PipeReader(fd, got))

    def pause(self) -> None:
        """Leave further output where it is."""
        for reader in self._readers:
            reader.pause()

    def resume(self) -> None:
        for reader in self._readers:
            reader.resume()

    async def run(self) -> Outcome:
        """To the end of the process and of its output; cancelling kills it."""
        try:
            self._job.attach(self)
            code = await self._child.wait()
            await self._drained()
        finally:
            self._job.run = None
            self._child.signal(9)
            self._close()
        ok = code == 0
        self._job.end(Level.STDOUT if ok else Level.STDERR, "", ok=ok)
        streams = (self._tails[Level.STDOUT].text(), self._tails[Level.STDERR].text())
        status = 0 if ok else KILLED_CODE if code < 0 else 1000 + code
        killer = -code if code < 0 else UNSET
        return Outcome("SUCCESS" if ok else "ERROR", status, streams=streams, signal=killer)

    async def _drained(self) -> None:
        """What it has written is read, unless others keep the output open for DRAIN_S.

        In two waits: a loop that stood still for longer finds its timer before what lies in the pipes.
        """
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S / 2):
                    for reader in self._readers:
                        await asyncio.shield(reader.closed)
                return

    def _close(self) -> None:
        if self._input is not None:
            self._input.close()
        for reader in self._readers:
            reader.close()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
