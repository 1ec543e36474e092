"""Processes that are not our children, held by pidfd_open(2), so their numbers stay theirs (blocking)."""

import os
import select
import signal
from collections.abc import Callable

from g8node.linux.guard import off_loop


@off_loop
def ended(fd: int, limit_s: float) -> bool:
    """Wait until the process of the pidfd has ended, all of its threads."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(limit_s * 1000))


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
        ended(fd, limit_s)
        return True
    except ProcessLookupError:  # it has ended by itself
        return False
    finally:
        os.close(fd)
