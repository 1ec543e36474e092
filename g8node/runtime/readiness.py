"""Which of many short-lived descriptors can be read, by one epoll of ours (async).

uvloop makes a handle for every reader and asks epoll six times for it, which costs more than the read itself
when a process writes nothing and ends.
"""

import asyncio
import select
from collections.abc import Callable
from weakref import WeakKeyDictionary

_A_TURN = 64

_of: "WeakKeyDictionary[asyncio.AbstractEventLoop, Readiness]" = WeakKeyDictionary()


class Readiness:
    """One per loop, see `readiness`. It does not own the descriptors."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._turn)

    def watch(self, fd: int, call: Callable[[int], None]) -> None:
        """Call it once a turn, with the events (`select.EPOLLIN`, `EPOLLHUP`), while there are any."""
        self._epoll.register(fd, select.EPOLLIN)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """Before it is closed, since a child may have it a little longer."""
        del self._calls[fd]
        self._epoll.unregister(fd)

    def _turn(self) -> None:
        ready = [(fd, self._calls[fd], events) for fd, events in self._epoll.poll(0, _A_TURN)]
        for fd, call, events in ready:
            if self._calls.get(fd) is call:  # else forgotten by one of the others, and the number reused
                call(events)


def readiness(loop: asyncio.AbstractEventLoop) -> Readiness:
    """That of the loop."""
    found = _of.get(loop)
    if found is None:
        found = _of[loop] = Readiness(loop)
    return found
