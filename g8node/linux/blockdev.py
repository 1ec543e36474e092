"""Loop devices: for volumes, and for kernels that cannot mount EROFS from a file (before 6.12) (blocking)."""

import contextlib
import errno
import fcntl
import os
import struct
from typing import Final

from g8node.linux.guard import off_loop

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_GET_STATUS64: Final = 0x4C05
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
_DIRECT_IO: Final = 16
_BLOCK: Final = 4096
_ATTEMPTS: Final = 16


@off_loop
def loop_attach(path: str, *, writable: bool = False) -> tuple[int, str]:
    """A loop device over the file: (its descriptor, its path).

    It frees itself when the last user is gone, so close the descriptor once it is mounted.
    """
    mode = os.O_RDWR if writable else os.O_RDONLY
    backing = os.open(path, mode | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            fd = os.open(device, mode | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, _config(backing, 0 if writable else _READ_ONLY))
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:  # another process took the free device first
                    raise
            else:
                return fd, device
        raise OSError(errno.EBUSY, "no free loop device", path)
    finally:
        os.close(control)
        os.close(backing)


@off_loop
def loop_find(path: str) -> tuple[int, str] | None:
    """The loop device that is over the file already, as `loop_attach`; None when there is none."""
    wanted = os.stat(path)
    for name in os.listdir("/sys/block"):
        if name.startswith("loop") and os.path.exists(f"/sys/block/{name}/loop"):
            with contextlib.suppress(OSError):  # freed meanwhile
                fd = os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC)
                if _backing(fd) == (wanted.st_dev, wanted.st_ino):
                    return fd, f"/dev/{name}"
                os.close(fd)
    return None


def _backing(fd: int) -> tuple[int, int]:
    """(device, inode) of its file; zeros when it has none."""
    info = bytearray(232)  # struct loop_info64 begins with u64 lo_device, u64 lo_inode
    try:
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, info)
    except OSError:
        return 0, 0
    device, inode = struct.unpack_from("<QQ", info)
    return device, inode


def _config(backing: int, flags: int) -> bytearray:
    """struct loop_config of linux/loop.h: u32 fd, u32 block_size, struct loop_info64, 8 x u64."""
    config = bytearray(304)
    struct.pack_into("<II", config, 0, backing, _BLOCK)
    struct.pack_into("<I", config, 8 + 52, flags | _AUTOCLEAR | _DIRECT_IO)
    return config
