"""A mount namespace that outlives the process that made it (blocking).

An agent keeps its mounts in a mount namespace of its own, which would go with it. A child that only sleeps
keeps the namespace; a file names it by pid and start time, so that the next agent of the same folder finds
both, and takes the namespace over instead of making a new one.
"""

import contextlib
import ctypes
import os
import signal
from typing import Final

from g8node.linux.guard import off_loop

SLEEPER: Final = ("/bin/sleep", "infinity")
_CLONE_NEWNS: Final = 0x00020000

_libc = ctypes.CDLL(None, use_errno=True)


@off_loop
def start_time(pid: int) -> int:
    """When the process was started, in clock ticks since the boot; 0 when there is none of that pid."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


@off_loop
def remember(path: str, pid: int) -> None:
    """Write down who keeps the namespace."""
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{pid} {start_time(pid)}\n")


@off_loop
def keeper(path: str) -> int:
    """The pid of who keeps the namespace that the file speaks of; 0 when it is gone."""
    try:
        with open(path, encoding="ascii") as file:
            pid, since = (int(word) for word in file.read().split())
    except (OSError, ValueError):
        return 0
    return pid if since and start_time(pid) == since else 0


@off_loop
def join(path: str) -> bool:
    """Enter the namespace of the file's keeper, if there is one. Call it before the first thread is made."""
    pid = keeper(path)
    if not pid:
        return False
    here = os.getcwd()
    try:
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if _libc.setns(fd, _CLONE_NEWNS) < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns: {os.strerror(code)}")
    finally:
        os.close(fd)
    os.chdir(here)
    return True


@off_loop
def end(path: str) -> None:
    """Let the namespace go with us."""
    if pid := keeper(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
