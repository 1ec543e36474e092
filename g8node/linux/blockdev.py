"""Loop devices, for kernels that cannot mount EROFS from a file (before 6.12) (blocking)."""

import errno
import fcntl
import os
import struct
from typing import Final

from g8node.linux.guard import off_loop

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
_DIRECT_IO: Final = 16
_BLOCK: Final = 4096
_ATTEMPTS: Final = 16


@off_loop
def loop_attach(path: str) -> tuple[int, str]:
    """A read-only loop device over the file: (its descriptor, its path).

    It frees itself when the last user is gone, so close the descriptor once it is mounted.
    """
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, _config(backing))
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


def _config(backing: int) -> bytearray:
    """struct loop_config of linux/loop.h: u32 fd, u32 block_size, struct loop_info64, 8 x u64."""
    config = bytearray(304)
    struct.pack_into("<II", config, 0, backing, _BLOCK)
    struct.pack_into("<I", config, 8 + 52, _READ_ONLY | _AUTOCLEAR | _DIRECT_IO)
    return config
