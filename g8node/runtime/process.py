"""One reaper owns SIGCHLD and every child (async).

Theory of operation. A child is started by `subprocess.Popen` in a thread (the GIL is given back around
exec from Python 3.12 on; on 3.11 it is kept, so argv[0] and the working directory must lie on the root
file system: callers that need another directory go through a shell or `crun`). From then on the Popen
object is out of the game: the reaper's `waitid(P_ALL)` collects every child, ours by pid, orphans
re-parented to us without asking. A child can die before `spawn` has filed its pid; while anybody is
`expecting` a pid, exits of unknown pids are kept for them instead of being forgotten.

asyncio's and uvloop's subprocess support must never be used beside it: uvloop takes SIGCHLD away.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from g8node.errors import DeadlineExceeded, InvalidArgument
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
        return await asyncio.shield(self.exited)

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


class Reaper:
    """Starts children and collects them. One per process, made on the loop thread."""

    def __init__(self, *, orphans: bool) -> None:
        """`orphans`: also adopt and reap what is re-parented to us (PID 1, sub-reaper in agent mode)."""
        self._orphans = orphans
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._expecting = 0
        self._early: dict[int, int] = {}

    def install(self) -> None:
        """Take SIGCHLD. `signal.signal`, because uvloop refuses a SIGCHLD handler of its own API."""
        loop = asyncio.get_running_loop()
        if self._orphans and os.getpid() != 1:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        def wake(*_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self.sweep)

        signal.signal(signal.SIGCHLD, wake)
        self.sweep()

    def uninstall(self) -> None:
        """Give SIGCHLD back (tests; an agent that ends)."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Exec argv[0] in a session of its own, cwd `/`. Raises OSError when it cannot be executed.

        The fds given stay the caller's to close. Cancelling does not lose the child: the start is
        finished in the background and the child is killed.
        """
        starting = asyncio.ensure_future(self._spawn(argv, env, stdin, stdout, stderr, pass_fds))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_kill_unwanted)
            raise

    async def _spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        stdin: int,
        stdout: int,
        stderr: int,
        pass_fds: Sequence[int],
    ) -> Child:
        # The thread must own its descriptors: a cancelled caller closes its own while Popen may still wait.
        with contextlib.ExitStack() as held:
            fds = [_hold(held, fd) for fd in (stdin, stdout, stderr)]
            with self.expecting():
                popen = await blocking.run("exec", _start, argv, env, fds, pass_fds)
                return self.adopt(popen)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """While inside, exits of unknown pids are kept, so that a following `adopt` cannot come too late."""
        self._expecting += 1
        try:
            yield
        finally:
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
            if not self._orphans and (info := _wait(os.P_PID, pid)) is not None:
                self._exited(info)
        return Child(pid, exited, group)

    def sweep(self) -> None:
        """Collect every child that has exited. Cheap when there is none."""
        if self._orphans:
            while (info := _wait(os.P_ALL, 0)) is not None:
                self._exited(info)
            return
        for pid in list(self._exits):
            if (info := _wait(os.P_PID, pid)) is not None:
                self._exited(info)

    def _exited(self, info: "os.waitid_result") -> None:
        code = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
        exited = self._exits.pop(info.si_pid, None)
        if exited is None:
            if self._expecting:
                self._early[info.si_pid] = code
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
    ) -> Completed:
        """Run a short helper to its end and return its output. Killed with its group after `timeout_s`."""
        with contextlib.ExitStack() as held:
            stdin = _memfd(held, input)
            stdout, stderr = _memfd(held), _memfd(held)
            child = await self.spawn(
                argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds
            )
            try:
                code = await asyncio.wait_for(child.wait(), timeout_s)
            except TimeoutError as error:
                raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:g} s") from error
            finally:
                child.signal(signal.SIGKILL)
            return Completed(code, _contents(stdout), _contents(stderr))


def _start(
    argv: Sequence[str], env: Mapping[str, str] | None, fds: Sequence[int], pass_fds: Sequence[int]
) -> int:
    if not argv or not argv[0].startswith("/"):
        raise InvalidArgument(f"argv[0] must be an absolute path, not {argv[:1]}")
    popen = subprocess.Popen(
        list(argv),
        cwd="/",
        env=None if env is None else dict(env),
        stdin=fds[0],
        stdout=fds[1],
        stderr=fds[2],
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )
    popen.returncode = 0  # ours to reap, not Popen's
    return popen.pid


def _wait(kind: int, which: int) -> "os.waitid_result | None":
    try:
        return os.waitid(kind, which, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None


def _kill_unwanted(starting: "asyncio.Future[Child]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().signal(signal.SIGKILL)


def _hold(held: contextlib.ExitStack, fd: int) -> int:
    if fd < 0:
        return fd  # subprocess.DEVNULL
    copy = os.dup(fd)
    held.callback(os.close, copy)
    return copy


def _memfd(held: contextlib.ExitStack, content: bytes = b"") -> int:
    fd = os.memfd_create("g8-pipe", os.MFD_CLOEXEC)
    held.callback(os.close, fd)
    if content:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _contents(fd: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, _OUTPUT_MAX_BYTES), 0)
