"""reboot(2), and the flush that precedes it (blocking)."""

import ctypes
import os

from g8node.linux.guard import off_loop
from g8node.linux.mount import mounts

_libc = ctypes.CDLL(None, use_errno=True)

RESTART = 0x01234567
POWER_OFF = 0x4321FEDC
CAD_OFF = 0x00000000

_DISKS = frozenset({"btrfs", "ext4", "ext3", "ext2", "xfs", "vfat"})


@off_loop
def flush_disks() -> None:
    """syncfs(2) on every disk file system, and only those: sync(2) would wait for our own FUSE mount."""
    for entry in mounts():
        if entry.fstype in _DISKS:
            fd = os.open(entry.target, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _libc.syncfs(fd)
            finally:
                os.close(fd)


def reboot(command: int) -> None:
    """reboot(2); does not return when the command ends the machine. Raises OSError."""
    if _libc.reboot(ctypes.c_uint(command)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"reboot: {os.strerror(code)}")
