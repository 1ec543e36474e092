"""One reaper owns SIGCHLD and every child (async).

Theory of operation. A child is started by a thread of `linux.spawn`, which waits for its exec; there are few
of them, so argv[0] lies on the root file system, callers that need another directory go through a shell or
`crun`. The reaper's `wait4(-1)` collects every child, ours by pid, orphans re-parented to us without
asking. A child can die before `spawn` has filed its pid; while anybody is `expecting` a pid, exits of unknown
pids are kept for them instead of being forgotten.

asyncio's and uvloop's subprocess support must never be used beside it: uvloop takes SIGCHLD away.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from g8node.errors import DeadlineExceeded, InvalidArgument
from g8node.linux.spawn import NULL, Spawner, packed_env, reap, watch
from g8node.runtime import blocking

_PR_SET_CHILD_SUBREAPER = 36
_OUTPUT_MAX_BYTES = 16 << 20


class Child:
    """A process that the reaper will collect; `group` is its process group.

    `exited` resolves to the exit status, or -N for signal N.
    """

    __slots__ = ("exited", "group", "pid")

    def __init__(self, pid: int, exited: asyncio.Future[int], group: int = 0) -> None:
        self.pid = pid
        self.exited = exited
        self.group = group or pid

    async def wait(self) -> int:
        """The exit code; safe to cancel and to call from several tasks."""
        return self.exited.result() if self.exited.done() else await asyncio.shield(self.exited)

    @property
    def running(self) -> bool:
        return not self.exited.done()

    def signal(self, number: int, *, group: bool = True) -> bool:
        """Signal the process group, or the process alone. False once it exited: the pid may be reused."""
        if self.exited.done():
            return False
        try:
            if group:
                os.killpg(self.group, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Completed:
    """What a short helper process left behind."""

    code: int
    stdout: bytes
    stderr: bytes


class _Start(NamedTuple):
    """A start under way; `fds` are the caller's again if it fails."""

    child: "asyncio.Future[Child]"
    program: str
    fds: Sequence[int]


class Reaper:
    """Starts children and collects them. One per process, made on the loop thread."""

    def __init__(self, *, orphans: bool) -> None:
        """`orphans`: also adopt and reap what is re-parented to us (PID 1, sub-reaper in agent mode)."""
        self._orphans = orphans
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._expecting = 0
        self._early: dict[int, int] = {}
        self._spawner = Spawner()
        self._tokens = itertools.count()
        self._starts: dict[int, _Start] = {}
        self._deaths = -1

    def install(self) -> None:
        """Take SIGCHLD, in C: uvloop's API refuses it, and a handler in Python costs seven system calls."""
        loop = asyncio.get_running_loop()
        if self._orphans and os.getpid() != 1:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        self._deaths = watch(True)
        loop.add_reader(self._deaths, self._ended)
        loop.add_reader(self._spawner.fd, self._started)
        self.sweep()

    def uninstall(self) -> None:
        """Give SIGCHLD back (tests; an agent that ends)."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(watch(False))
        loop.remove_reader(self._spawner.fd)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | bytes | None = None,
        stdin: int = NULL,
        stdout: int = NULL,
        stderr: int = NULL,
        pass_fds: Sequence[int] = (),
        search: str | None = None,
        program: str | None = None,
        give: bool = False,
    ) -> Child:
        """Exec argv[0] in a session of its own, cwd `/`. Raises OSError when it cannot be executed.

        argv[0] is an absolute path on the root file system, or a name that is looked up in the folders of
        `search` (as PATH); OSError SLOW when that finds what only `linux.launch` may start. With `program`,
        that path is executed in place of argv[0]. `env` may be what `packed_env` gave. The fds given stay the
        caller's to close; with `give` they are ours, and the caller's again when it could not be started.
        Cancelling does not lose the child: the start is finished in the background and the child is killed.
        """
        if not argv or argv[0].startswith("/") is (search is not None):
            raise InvalidArgument(f"argv[0] must be an absolute path, not {argv[:1]}")
        if not isinstance(env, bytes):
            env = packed_env(os.environ if env is None else env)
        fds = (stdin, stdout, stderr)
        if not give:  # a cancelled caller may close its own before the start
            fds = _copies(fds)
        token = next(self._tokens)
        try:
            self._spawner.submit(
                token,
                argv,
                env,
                fds,
                search=search,
                program=program,
                pass_fds=pass_fds,
                keep_on_failure=give,
            )
        except BaseException:
            if not give:
                _close(fds)
            raise
        start = self._starts[token] = _Start(
            asyncio.get_running_loop().create_future(), argv[0], fds if give else ()
        )
        self._expecting += 1
        return await start.child

    def _started(self) -> None:
        """Answers of the spawner: tell who waits."""
        for token, pid, error in self._spawner.answers():
            start = self._starts.pop(token)
            if pid:
                child = self.adopt(pid)
                if start.child.done():  # cancelled
                    child.signal(signal.SIGKILL)
                else:
                    start.child.set_result(child)
            elif start.child.done():
                if start.fds:
                    blocking.pool("pipes").submit(_close, start.fds)
            else:
                start.child.set_exception(OSError(error, os.strerror(error), start.program))
            self._expected()

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """While inside, exits of unknown pids are kept, so that a following `adopt` cannot come too late."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expected()

    def _expected(self) -> None:
        self._expecting -= 1
        if not self._expecting:
            self._early.clear()

    def adopt(self, pid: int, *, group: int = 0) -> Child:
        """Follow a process that is, or is about to become, our child (e.g. what `crun` left behind)."""
        if pid in self._exits:
            return Child(pid, self._exits[pid], group)
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        early = self._early.pop(pid, None)
        # A process of that pid that can still be seen is a later one: the kept exit is of its predecessor.
        if early is not None and not os.path.exists(f"/proc/{pid}"):
            exited.set_result(early)
        else:
            self._exits[pid] = exited
            # Without orphans nobody looks at a pid that is not filed: it may have died, its SIGCHLD is gone.
            if not self._orphans and (ended := reap(pid)) is not None:
                self._exited(*ended)
        return Child(pid, exited, group)

    def _ended(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._deaths)
        self.sweep()

    def sweep(self) -> None:
        """Collect every child that has exited. Cheap when there is none."""
        if self._orphans:
            while (ended := reap(-1)) is not None:
                self._exited(*ended)
            return
        for pid in list(self._exits):
            if (ended := reap(pid)) is not None:
                self._exited(*ended)

    def _exited(self, pid: int, code: int) -> None:
        exited = self._exits.pop(pid, None)
        if exited is None:
            if self._expecting:
                self._early[pid] = code
        elif not exited.done():
            exited.set_result(code)

    async def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        pass_fds: Sequence[int] = (),
        program: str | None = None,
    ) -> Completed:
        """Run a short helper to its end and return its output. Killed with its group after `timeout_s`."""
        with contextlib.ExitStack() as held:
            stdin = _memfd(held, input)
            stdout, stderr = _memfd(held), _memfd(held)
            child = await self.spawn(
                argv,
                env=env,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=pass_fds,
                program=program,
            )
            try:
                code = await asyncio.wait_for(child.wait(), timeout_s)
            except TimeoutError as error:
                raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:g} s") from error
            finally:
                child.signal(signal.SIGKILL)
            return Completed(code, _contents(stdout), _contents(stderr))


def _copies(fds: tuple[int, int, int]) -> tuple[int, int, int]:
    made: list[int] = []
    try:
        for fd in fds:
            made.append(fd if fd == NULL else os.dup(fd))
    except OSError:
        _close(made)
        raise
    first, second, third = made
    return first, second, third


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd != NULL:
            os.close(fd)


def _memfd(held: contextlib.ExitStack, content: bytes = b"") -> int:
    fd = os.memfd_create("g8-pipe", os.MFD_CLOEXEC)
    held.callback(os.close, fd)
    if content:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _contents(fd: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, _OUTPUT_MAX_BYTES), 0)
