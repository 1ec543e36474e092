"""Driver of the OCI runtime (async): containers and processes in them as children of ours.

Theory of operation. `crun run --detach` and `crun exec --detach` leave the new process behind and end; it
is re-parented to the nearest sub-reaper, which is us, so that the reaper gets its exit code. crun reads
the process and writes the pid through memory files handed down by descriptor, and closes them before the
container's program runs. Standard input and output are crun's own, inherited by the new process. crun itself
runs from sealed memory (linux/sealed.py).
"""

import asyncio
import base64
import contextlib
import errno
import os
import socket
from typing import Any, Final

import msgspec

from g8node.errors import DeadlineExceeded, InvalidArgument, NodeError, NotFound, Unavailable
from g8node.linux.guard import off_loop
from g8node.linux.sealed import Sealed
from g8node.runtime import blocking
from g8node.runtime.process import Child, Reaper

CRUN: Final = "/usr/bin/crun"
_START_TIMEOUT_S: Final = 120.0
_TERMINAL_S: Final = 5.0
_LOG_MAX_BYTES: Final = 64 << 10
_FILTER_MAX_BYTES: Final = 1 << 20
# XDG_RUNTIME_DIR keeps crun from looking for a user session.
_DELETE_TRIES: Final = 5
_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": "/run"}

# crun 1.8 and 1.21 say it differently.
_NOT_EXECUTABLE: Final = ("open executable", "not a regular file", "permission denied", "exec format")


class Streams(msgspec.Struct, frozen=True):
    """Descriptors of the new process's standard streams; they stay the caller's to close."""

    stdin: int
    stdout: int
    stderr: int

    def copy(self) -> "Streams":
        """For a task of its own: a cancelled caller closes its own, and their numbers are used again."""
        with contextlib.ExitStack() as undo:
            fds = []
            for fd in (self.stdin, self.stdout, self.stderr):
                fds.append(os.dup(fd))
                undo.callback(os.close, fds[-1])
            undo.pop_all()
        return Streams(*fds)

    def close(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)


class Crun:
    """One state folder of the runtime."""

    def __init__(self, reaper: Reaper, state: str, *, cgroups: bool) -> None:
        self._reaper = reaper
        self._state = state
        self._base = [CRUN, "--root", state, "--cgroup-manager", "cgroupfs" if cgroups else "disabled"]
        self._program = Sealed(CRUN)
        self._tasks: set[asyncio.Task[None]] = set()
        self._filters: dict[frozenset[str], str] = {}

    async def run(self, name: str, bundle: str, streams: Streams) -> Child:
        """Create and start the container of a bundle; the child is its PID 1.

        Must not be cancelled. Raises NotFound when the program is not in the root, InvalidArgument when it
        cannot be executed.
        """
        await blocking.run("disk", self._program.load)
        return await self._launch(["run", "--bundle", bundle], name, streams, b"")

    async def exec(self, name: str, process: dict[str, Any], streams: Streams) -> Child:
        """Start a process (an OCI `process` object) in a running container. Errors as in `run`."""
        return await self._launch(["exec"], name, streams, msgspec.json.encode(process))

    async def exec_terminal(self, name: str, process: dict[str, Any], streams: Streams) -> tuple[Child, int]:
        """As `exec`, on a terminal of the container's own; its other end is the caller's to close."""
        with contextlib.ExitStack() as held:
            listening, path = await blocking.run("disk", _console_socket, self._state, held)
            data = msgspec.json.encode(process)
            child = await self._launch(["exec", "--console-socket", path], name, streams, data)
            try:
                return child, await blocking.run("disk", _terminal, listening)
            except OSError as error:
                child.signal(9)
                raise Unavailable(f"crun gave no terminal: {error}") from error

    async def delete(self, name: str) -> None:
        """Kill what is left of a container and forget it; nothing happens when crun does not know it."""
        argv = [*self._base, "delete", "--force", name]
        for _ in range(_DELETE_TRIES):
            done = await self._reaper.run(argv, env=_ENV, program=self._program.path)
            if done.code >= 0:
                return
            # Somebody killed crun itself: what it had begun is still there.

    def close(self) -> None:
        """When nothing is started any more."""
        self._program.close()

    def compiled_filter(self, kind: frozenset[str]) -> str:
        """The BPF program of the system call filter for these capabilities, in base64; empty until known."""
        return self._filters.get(kind, "")

    def keep_filter(self, name: str, kind: frozenset[str]) -> None:
        """Take the compiled filter from a running container, in the background.

        libseccomp takes 14 ms to compile ours; given back by `bundle.config` it is loaded as it is.
        """
        if kind not in self._filters:
            task = asyncio.create_task(self._keep_filter(name, kind))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _keep_filter(self, name: str, kind: frozenset[str]) -> None:
        found = await blocking.run("disk", _compiled_filter, f"{self._state}/{name}/seccomp.bpf")
        if found:
            self._filters[kind] = found

    async def _launch(self, verb: list[str], name: str, streams: Streams, process: bytes) -> Child:
        with contextlib.ExitStack() as held, self._reaper.expecting():
            pid_file, log = _memory_file(held, b""), _memory_file(held, b"")
            files = [pid_file, log]
            options = ["--detach", "--pid-file", _path(pid_file)]
            if process:
                files.append(_memory_file(held, process))
                options += ["--process", _path(files[-1])]
            argv = [*self._base, "--log", _path(log), "--log-format", "json", *verb, *options, name]
            crun = await self._reaper.spawn(
                argv,
                env=_ENV,
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                pass_fds=files,
                program=self._program.path,
            )
            try:
                code = await asyncio.wait_for(crun.wait(), _START_TIMEOUT_S)
            except TimeoutError as error:
                crun.signal(9)
                raise DeadlineExceeded(f"crun {verb[0]} did not end within {_START_TIMEOUT_S:g} s") from error
            if code:
                raise _failure(verb[0], code, _contents(log))
            pid = int(_contents(pid_file))
            return self._reaper.adopt(pid, group=_group(pid))


@off_loop
def _console_socket(folder: str, held: contextlib.ExitStack) -> tuple[socket.socket, str]:
    """A socket in `folder` on which crun gives the terminal, and a short path to it."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    held.callback(os.close, fd)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    held.callback(listening.close)
    name = f"tty-{listening.fileno()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=fd)
    listening.bind(f"/proc/self/fd/{fd}/{name}")
    held.callback(os.unlink, f"/proc/self/fd/{fd}/{name}")
    listening.listen(1)
    return listening, f"/proc/{os.getpid()}/fd/{fd}/{name}"


@off_loop
def _terminal(listening: socket.socket) -> int:
    """What crun, which has ended, has sent."""
    listening.settimeout(_TERMINAL_S)
    connection, _ = listening.accept()
    with connection:
        connection.settimeout(_TERMINAL_S)
        _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    if not fds:
        raise OSError(errno.EPROTO, "no descriptor came")
    os.set_inheritable(fds[0], False)
    return fds[0]


@off_loop
def _compiled_filter(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return base64.b64encode(file.read(_FILTER_MAX_BYTES)).decode("ascii")
    except FileNotFoundError:  # the container has ended
        return ""


def _group(pid: int) -> int:
    """A container's PID 1 leads a session; what `exec` starts is in the group that crun was in (1.8)."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:  # it has ended and was reaped
        return pid


def _path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _memory_file(held: contextlib.ExitStack, content: bytes) -> int:
    fd = os.memfd_create("g8-crun", os.MFD_CLOEXEC)
    held.callback(os.close, fd)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _contents(fd: int) -> bytes:
    return os.pread(fd, _LOG_MAX_BYTES, 0)


def _failure(verb: str, code: int, log: bytes) -> NodeError:
    """crun's last words as one of ours."""
    message = ""
    for line in log.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            record = msgspec.json.decode(line, type=dict[str, Any])
            if record.get("level") == "error":
                message = str(record.get("msg", ""))
    text = message or f"crun {verb} ended with code {code}"
    if "No such file or directory" in message and ("executable file" in message or "chdir" in message):
        return NotFound(text)
    if any(words in message.lower() for words in _NOT_EXECUTABLE):
        return InvalidArgument(text)
    if message.startswith("mount `") and message.endswith(("Not a directory", "Is a directory")):
        return InvalidArgument(f"mount: expected a folder for a folder and a file for a file: {text}")
    return Unavailable(text)
