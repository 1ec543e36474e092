"""Changes of single files by inotify(7) (blocking to watch; reading what happened never waits)."""

import ctypes
import errno
import os
import struct
from typing import Final

from g8node.linux.guard import off_loop

_MODIFY: Final = 0x2
_CLOEXEC: Final = 0o2000000
_NONBLOCK: Final = 0o4000
_HEADER: Final = struct.Struct("iIII")
_READ_BYTES: Final = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Owns `fd`, which is readable when something happened."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(_CLOEXEC | _NONBLOCK), "inotify_init1")

    @off_loop
    def add(self, path: str) -> int:
        """Watch the file for changes: the number by which `read` names it. OSError."""
        return _checked(_libc.inotify_add_watch(self.fd, os.fsencode(path), _MODIFY), path)

    @off_loop
    def remove(self, number: int) -> None:
        """Nothing happens when the file has gone before."""
        _libc.inotify_rm_watch(self.fd, number)

    def read(self) -> set[int]:
        """The numbers of what has changed since the last call."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return set()
        changed, at = set(), 0
        while at + _HEADER.size <= len(data):
            number, mask, _, length = _HEADER.unpack_from(data, at)
            if mask & _MODIFY:
                changed.add(number)
            at += _HEADER.size + length
        return changed

    def close(self) -> None:
        os.close(self.fd)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno() or errno.EIO
        raise OSError(code, os.strerror(code), what)
    return result
