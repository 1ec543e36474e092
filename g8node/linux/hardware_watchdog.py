"""/dev/watchdog: a timer that restarts the machine unless it is fed (blocking, never waits).

See the kernel's Documentation/watchdog/watchdog-api.rst.
"""

import contextlib
import fcntl
import os
import struct
from typing import Final

_SET_TIMEOUT: Final = 0xC0045706
_GET_TIMEOUT: Final = 0x80045707
_GET_SUPPORT: Final = 0x80285700
_MAGIC_CLOSE: Final = b"V"


class HardwareWatchdog:
    """An open device: its timer runs from now on. Raises OSError when there is none or it is in use."""

    def __init__(self, device: str, timeout_s: int) -> None:
        self._fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        self.timeout_s = timeout_s
        """What the device made of it, which may be less."""
        self.identity = ""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, _SET_TIMEOUT, struct.pack("i", timeout_s))
        with contextlib.suppress(OSError):
            (self.timeout_s,) = struct.unpack("i", fcntl.ioctl(self._fd, _GET_TIMEOUT, bytes(4)))
        with contextlib.suppress(OSError):
            about = struct.unpack("II32s", fcntl.ioctl(self._fd, _GET_SUPPORT, bytes(40)))
            self.identity = about[2].split(b"\0")[0].decode(errors="replace")

    def feed(self) -> None:
        """Start the timer anew."""
        with contextlib.suppress(OSError):
            os.write(self._fd, b"\0")

    def close(self) -> None:
        """Stop the timer (a device that knows no way back goes on) and close."""
        with contextlib.suppress(OSError):
            os.write(self._fd, _MAGIC_CLOSE)
        os.close(self._fd)
