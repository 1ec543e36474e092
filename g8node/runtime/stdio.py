"""Standard input and output of a child as pipes (async).

Theory of operation. The loop only waits for readiness; `read` and `write` themselves run in the "pipes" pool,
even though the pipes are non-blocking. The other end may be held by a process that splices a file into the
pipe (busybox `cat` does, by sendfile): the kernel keeps the pipe's mutex while it reads the file, and when
that file lies on our own FUSE session the loop must be free to serve it. O_NONBLOCK does not help: taking the
mutex blocks all the same, and so does the last close(2). Once nobody has the other end any more (POLLHUP),
nobody can hold the mutex, and the loop itself reads what is left: most processes end like that. One read a
turn, so that a chatty process cannot starve the others.
"""

import asyncio
import os
import select
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from g8node.linux.spawn import NULL
from g8node.runtime import blocking
from g8node.runtime.process import Child
from g8node.runtime.readiness import readiness

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


class PipeReader:
    """Hands what arrives on a pipe to `on_data`; `closed` resolves at end of file. Owns the descriptor."""

    def __init__(self, fd: int, on_data: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._on_data = on_data
        self._loop = asyncio.get_running_loop()
        self._readiness = readiness(self._loop)
        self._watched = False
        self._wanted = True
        self._busy = False
        self.closed: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(fd, False)
        self._watch()

    def pause(self) -> None:
        """A read that is under way is still delivered."""
        self._wanted = False
        self._unwatch()

    def resume(self) -> None:
        self._wanted = True
        self._watch()

    def close(self) -> None:
        """Stop reading; what is still in the pipe is lost."""
        if self.closed.done():
            return
        self._unwatch()
        self.closed.set_result(None)
        if not self._busy:
            _close(self._fd)

    def _watch(self) -> None:
        if self._wanted and not (self._watched or self._busy or self.closed.done()):
            self._readiness.watch(self._fd, self._readable)
            self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._readiness.forget(self._fd)
            self._watched = False

    def _readable(self, events: int) -> None:
        if events & select.EPOLLHUP:
            self._deliver(_read(self._fd, self._unwatch))
            return
        self._unwatch()
        self._busy = True
        self._loop.run_in_executor(blocking.pool("pipes"), _read, self._fd).add_done_callback(self._got)

    def _got(self, read: "asyncio.Future[bytes | None]") -> None:
        self._busy = False
        data = None if read.cancelled() else read.result()
        if self.closed.done() and data != b"":
            _close(self._fd)
        self._deliver(data)
        self._watch()

    def _deliver(self, data: bytes | None) -> None:
        if self.closed.done():
            return
        if data:
            self._on_data(data)
        elif data is not None:  # the end, and who read it has closed it
            self.closed.set_result(None)


class PipeWriter:
    """Feeds `data` to a pipe as fast as its reader takes it, then closes it. Owns the descriptor."""

    def __init__(self, fd: int, data: bytes) -> None:
        self._fd = fd
        self._data = memoryview(data)
        self._loop = asyncio.get_running_loop()
        self._done = False
        self._busy = False
        os.set_blocking(fd, False)
        self._loop.add_writer(fd, self._writable)

    def close(self) -> None:
        """What the process has not taken is dropped."""
        if self._done:
            return
        self._done = True
        self._data = memoryview(b"")
        if not self._busy:
            self._loop.remove_writer(self._fd)
            _close(self._fd)

    def _writable(self) -> None:
        self._loop.remove_writer(self._fd)
        self._busy = True
        piece = self._data[: 4 * CHUNK_BYTES]
        writing = self._loop.run_in_executor(blocking.pool("pipes"), write_some, self._fd, piece)
        writing.add_done_callback(self._wrote)

    def _wrote(self, writing: "asyncio.Future[int]") -> None:
        self._busy = False
        if self._done:
            _close(self._fd)
            return
        self._loop.add_writer(self._fd, self._writable)
        sent = -1 if writing.cancelled() else writing.result()
        self._data = self._data[max(sent, 0) :]
        if sent < 0 or not self._data:  # -1: the process closed its stdin, and does not want the rest
            self.close()


def _read(fd: int, at_end: Callable[[], None] | None = None) -> bytes | None:
    """What is there, None when it was nothing after all; b"" at the end, which closes it after `at_end`."""
    data = b""
    try:
        data = os.read(fd, CHUNK_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        pass
    if not data:
        if at_end is not None:
            at_end()
        os.close(fd)
    return data


def _close(fd: int) -> None:
    blocking.pool("pipes").submit(os.close, fd)


def write_some(fd: int, data: bytes | memoryview) -> int:
    """Bytes taken, -1 when nobody reads any more."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except OSError:
        return -1


class Pipes:
    """The three pipes of one run: the child's ends in `child_fds`, ours read and written on the loop."""

    def __init__(
        self, stdin: bytes, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None]
    ) -> None:
        made: list[int] = []
        try:
            for _ in range(3 if stdin else 2):
                made += os.pipe2(os.O_CLOEXEC)
        except OSError:
            for fd in made:
                os.close(fd)
            raise
        out_read, out_write, err_read, err_write = made[:4]
        in_read, in_write = made[4:] or (NULL, -1)
        self.child_fds = (in_read, out_write, err_write)
        self.stdout = PipeReader(out_read, on_stdout)
        self.stderr = PipeReader(err_read, on_stderr)
        self.stdin = PipeWriter(in_write, stdin) if stdin else None

    def open_child_ends(self) -> tuple[int, int, int]:
        """`child_fds` for who cannot make /dev/null of NULL himself; they stay ours."""
        stdin, stdout, stderr = self.child_fds
        if stdin == NULL:
            stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            self.child_fds = (stdin, stdout, stderr)
        return self.child_fds

    def give_child_ends(self) -> tuple[int, int, int]:
        """They are the caller's: only the child keeps them, so that its end is ours."""
        given, self.child_fds = self.child_fds, (-1, -1, -1)
        return given

    def release_child_ends(self) -> None:
        """After a start that did not take them."""
        for fd in self.give_child_ends():
            if fd >= 0:
                _close(fd)

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
            if not reader.closed.done():
                await asyncio.shield(reader.closed)

    def close(self) -> None:
        """Close what is still open on our side; safe to call twice."""
        self.release_child_ends()
        self.stdout.close()
        self.stderr.close()
        if self.stdin is not None:
            self.stdin.close()
