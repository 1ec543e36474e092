"""Writes to files by threads that never need the interpreter (async).

A trip to a thread of Python's and back takes two changes of who holds the GIL, which cost more than a write
of 4 KiB does; and while the loop holds it, such a thread cannot even begin.
"""

import asyncio
import itertools
from weakref import WeakKeyDictionary

from g8node.linux import _batch

Write = tuple[int, memoryview]

_of: "WeakKeyDictionary[asyncio.AbstractEventLoop, Writes]" = WeakKeyDictionary()


class Writes:
    """One per loop, see `writes`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._outbox, done = _batch.make_outbox()
        self._tokens = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[int]]] = {}
        loop.add_reader(done, self._done)

    def write(self, fd: int, writes: list[Write]) -> "asyncio.Future[list[int]]":
        """Each (offset, data) in order: errno, or 0 where all was written.

        What is under way is written also when nobody waits for it any more; `fd` must stay open for it.
        """
        token = next(self._tokens)
        _batch.submit(self._outbox, token, fd, writes)
        answer = self._waiting[token] = asyncio.get_running_loop().create_future()
        return answer

    def _done(self) -> None:
        for token, errors in _batch.finished(self._outbox):
            answer = self._waiting.pop(token)
            if not answer.done():
                answer.set_result(errors)


def writes(loop: asyncio.AbstractEventLoop) -> Writes:
    """That of the loop."""
    found = _of.get(loop)
    if found is None:
        found = _of[loop] = Writes(loop)
    return found
