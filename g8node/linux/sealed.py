"""A program that is started from sealed memory (blocking).

An OCI runtime must not be written to by the container whose processes it becomes (CVE-2019-5736). So crun
copies or binds its own file and executes itself again from there, at every call, unless it runs from a memory
file that nobody can write to: then the dynamic linker does its work once and not twice.
"""

import contextlib
import errno
import fcntl
import os
import threading
from typing import Final

from g8node.linux.guard import off_loop

_MFD_EXEC: Final = 0x10  # Linux 6.3; before, all memory files were executable
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Sealed:
    """`path` executes what lies at `original`."""

    def __init__(self, original: str) -> None:
        self.path = original
        self._original = original
        self._fd = -1
        self._version = (0, 0, 0)
        self._lock = threading.Lock()

    @off_loop
    def load(self) -> None:
        """Copy the program unless it is that of the last time. Where memory has no programs, `path` stays."""
        with self._lock:
            found = os.stat(self._original)
            version = (found.st_dev, found.st_ino, found.st_mtime_ns)
            if version == self._version:
                return
            with contextlib.suppress(OSError):
                self._take(_copy(self._original))
            self._version = version

    def _take(self, fd: int) -> None:
        """For as long as we live under one number: somebody may be about to execute it."""
        if self._fd >= 0:
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
            return
        self._fd = fd
        path = f"/proc/{os.getpid()}/fd/{fd}"
        if os.path.samestat(os.stat(path), os.fstat(fd)):  # else /proc is of others
            self.path = path

    def close(self) -> None:
        """When nobody executes it any more."""
        self.path = self._original
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _copy(path: str) -> int:
    """A sealed memory file with that content; OSError when the kernel wants no programs there."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(os.path.basename(path), flags | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create(os.path.basename(path), flags)
    try:
        with open(path, "rb") as file, open(fd, "wb", closefd=False) as copy:
            copy.write(file.read())
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        if not os.fstat(fd).st_mode & 0o111:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except BaseException:
        os.close(fd)
        raise
    return fd
