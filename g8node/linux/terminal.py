"""Terminals that the node writes on: virtual ones, serial lines (blocking, never waits)."""

import contextlib
import fcntl
import os
import re
import struct
import termios
from typing import Final

_VT_ACTIVATE: Final = 0x5606
_ACTIVE: Final = "/sys/class/tty/console/active"
_USUAL: Final = (80, 24)


def active_consoles() -> list[str]:
    """Where the kernel's messages go, as `tty0` or `ttyS0`; the last is /dev/console."""
    try:
        with open(_ACTIVE, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


class Terminal:
    """An open terminal. A write that it does not take at once is an OSError, as is one that hung up."""

    def __init__(self, device: str) -> None:
        self._fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not os.isatty(self._fd):
            os.close(self._fd)
            raise OSError(f"{device} is no terminal")
        self._number = int(match[1]) if (match := re.fullmatch(r"/dev/tty(\d+)", device)) else 0

    def show(self) -> None:
        """Bring a virtual terminal to the front; others have no front."""
        if self._number:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fd, _VT_ACTIVATE, self._number)

    def size(self) -> tuple[int, int]:
        """Columns and lines now; what does not know has 80 and 24."""
        with contextlib.suppress(OSError):
            lines, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(8)))
            if lines and columns:
                return columns, lines
        return _USUAL

    def write(self, text: str) -> None:
        data = text.encode("ascii", errors="replace")
        if os.write(self._fd, data) < len(data):
            raise BlockingIOError("the terminal takes no more")

    def close(self) -> None:
        os.close(self._fd)
