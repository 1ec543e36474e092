"""The system clock (blocking): set at once, or moved little by little."""

import ctypes
import math
import os
import time

from g8node.linux.guard import off_loop


class _Timeval(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


@off_loop
def step(offset_s: float) -> None:
    """Add offset_s to the clock at once. Raises OSError."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + offset_s)


@off_loop
def slew(offset_s: float) -> None:
    """Let the clock run faster or slower until offset_s is made up, 0.5 ms each second. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    seconds = math.floor(offset_s)
    delta = _Timeval(seconds, int((offset_s - seconds) * 1e6))
    if libc.adjtime(ctypes.byref(delta), None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"adjtime: {os.strerror(error)}")
