"""Standard input and output of a child as pipes on the event loop (async).

Reads are non-blocking and one chunk a loop turn, so that a chatty process cannot starve the others.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from g8node.runtime.process import Child

CHUNK_BYTES = 32 << 10

Start = Callable[[int, int, int], Awaitable[Child]]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that a command wants run as its job (spec core0-protocol 3.2).

    `argv[0]` is looked up in the node's PATH, `env` is added to the node's environment. With `start`, the
    process is started elsewhere (inside a container): it gets the stdin, stdout and stderr descriptors, which
    stay the manager's to close, and returns the child whose exit ends the run; argv is then only shown. A
    NodeError or OSError from `start` is a spawn failure.
    """

    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: str = "/"
    stdin: bytes = b""
    start: Start | None = None


@dataclass(slots=True)
class PipeReader:
    """Hands what arrives on a pipe to `on_data`; `closed` resolves at end of file. Owns the descriptor."""

    fd: int
    on_data: Callable[[bytes], None]
    closed: asyncio.Future[None] = field(init=False)
    _reading: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        os.set_blocking(self.fd, False)
        self.resume()

    def pause(self) -> None:
        if self._reading:
            asyncio.get_running_loop().remove_reader(self.fd)
            self._reading = False

    def resume(self) -> None:
        if not self._reading and not self.closed.done():
            asyncio.get_running_loop().add_reader(self.fd, self._readable)
            self._reading = True

    def close(self) -> None:
        """Stop reading; what is still in the pipe is lost."""
        if self.closed.done():
            return
        self.pause()
        os.close(self.fd)
        self.closed.set_result(None)

    def _readable(self) -> None:
        try:
            data = os.read(self.fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.on_data(data)
        else:
            self.close()


@dataclass(slots=True)
class PipeWriter:
    """Feeds `data` to a pipe as fast as its reader takes it, then closes it. Owns the descriptor."""

    fd: int
    data: bytes
    _done: bool = field(init=False, default=False)
    _sent: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        os.set_blocking(self.fd, False)
        asyncio.get_running_loop().add_writer(self.fd, self._writable)

    def close(self) -> None:
        if not self._done:
            self._done = True
            asyncio.get_running_loop().remove_writer(self.fd)
            os.close(self.fd)
            self.data = b""

    def _writable(self) -> None:
        try:
            self._sent += os.write(self.fd, memoryview(self.data)[self._sent : self._sent + 4 * CHUNK_BYTES])
        except BlockingIOError:
            return
        except OSError:  # the process closed its stdin: what it did not want is dropped
            self.close()
            return
        if self._sent >= len(self.data):
            self.close()


class Pipes:
    """The three pipes of one run: the child's ends in `child_fds`, ours read and written on the loop."""

    def __init__(
        self, stdin: bytes, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None]
    ) -> None:
        with contextlib.ExitStack() as undo:
            out_read, out_write = _pipe(undo)
            err_read, err_write = _pipe(undo)
            if stdin:
                in_read, in_write = _pipe(undo)
            else:
                in_read, in_write = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
            undo.pop_all()
        self.child_fds = (in_read, out_write, err_write)
        self.stdout = PipeReader(out_read, on_stdout)
        self.stderr = PipeReader(err_read, on_stderr)
        self.stdin = PipeWriter(in_write, stdin) if stdin else None

    def release_child_ends(self) -> None:
        """After the start: only the child keeps them, so that its end is our end of file."""
        for fd in self.child_fds:
            os.close(fd)
        self.child_fds = (-1, -1, -1)

    def pause(self) -> None:
        """Leave further output in the pipes: the process waits when they are full."""
        self.stdout.pause()
        self.stderr.pause()

    def resume(self) -> None:
        self.stdout.resume()
        self.stderr.resume()

    async def drained(self) -> None:
        """Both outputs are at end of file. Safe to cancel."""
        for reader in (self.stdout, self.stderr):
            await asyncio.shield(reader.closed)

    def close(self) -> None:
        """Close what is still open on our side; safe to call twice."""
        if self.child_fds[0] >= 0:
            self.release_child_ends()
        self.stdout.close()
        self.stderr.close()
        if self.stdin is not None:
            self.stdin.close()


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, read)
    undo.callback(os.close, write)
    return read, write
