"""Reads that never wait for a disk (may run on the loop, unlike the rest of this package).

`RWF_NOWAIT` answers from the page cache or says EAGAIN. tmpfs and ramfs do not know the flag, and do not
need it: their pages are always in memory (the node has no swap).
"""

import ctypes
import errno
import os
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_RAM_MAGIC: Final = frozenset((0x01021994, 0x858458F6))  # TMPFS_MAGIC, RAMFS_MAGIC of linux/magic.h


def in_memory(fd: int) -> bool:
    """Whether the file lies on tmpfs or ramfs."""
    buffer = (ctypes.c_long * 32)()  # struct statfs begins with long f_type
    if _libc.fstatfs(fd, buffer) < 0:
        raise OSError(ctypes.get_errno(), "fstatfs")
    return buffer[0] & 0xFFFFFFFF in _RAM_MAGIC


def pread_now(fd: int, length: int, offset: int, *, memory: bool) -> bytearray:
    """All `length` bytes at once, or BlockingIOError when a disk would have to be read.

    `memory` is what `in_memory` said of the descriptor.
    """
    buffer = bytearray(length)
    try:
        got = os.preadv(fd, [buffer], offset, 0 if memory else os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise BlockingIOError(errno.EAGAIN, "the file system cannot read without waiting") from None
        raise
    if got != length:
        raise BlockingIOError(errno.EAGAIN, "only a part is in memory")
    return buffer
