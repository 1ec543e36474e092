"""Waiting until all who began before now are done (blocking), as RCU does."""

import threading
from types import TracebackType


class Grace:
    """`with grace:` around the use of what somebody may take away; `wait` before taking it away."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._epoch = 0
        self._users = [0, 0]
        self._mine = threading.local()

    def __enter__(self) -> None:
        with self._changed:
            side = self._epoch & 1
            self._users[side] += 1
        self._stack().append(side)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        side = self._stack().pop()
        with self._changed:
            self._users[side] -= 1
            if not self._users[side]:
                self._changed.notify_all()

    def _stack(self) -> list[int]:
        stack: list[int] | None = getattr(self._mine, "stack", None)
        if stack is None:
            stack = self._mine.stack = []
        return stack

    def wait(self) -> None:
        """For one waiter at a time: until none is left of those who are in now."""
        with self._changed:
            side = self._epoch & 1
            self._epoch += 1
            self._changed.wait_for(lambda: not self._users[side])
