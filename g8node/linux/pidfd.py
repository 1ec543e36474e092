"""Ending a process that is not our child (blocking): pidfd_open(2) holds it, so its number stays its own."""

import os
import select
import signal
from collections.abc import Callable

from g8node.linux.guard import off_loop


@off_loop
def kill(pid: int, is_it: Callable[[], bool], limit_s: float) -> bool:
    """SIGKILL to the process, if `is_it` holds while it is held, and wait for its end.

    False when it is another one or gone. Raises OSError.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_it():
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll(limit_s * 1000)
        return True
    except ProcessLookupError:  # it has ended by itself
        return False
    finally:
        os.close(fd)
