"""Supervision of the node's long-lived tasks, and the back-off that all restarts share (async)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from g8node.runtime import logs

log = logs.get("supervise")


@dataclass(slots=True)
class Backoff:
    """Delays between restarts (spec core0-protocol 3.3): 2 s, x1.5 each time, at most 300 s.

    It falls back to the first delay when the previous exit is longer ago than twice the last delay.
    """

    first_s: float = 2.0
    factor: float = 1.5
    ceiling_s: float = 300.0
    _last_s: float = 0.0
    _ended: float = field(default=float("-inf"))

    def next(self, now: float) -> float:
        """The delay before the next start, given that the last run ended at `now` (monotonic seconds)."""
        if now - self._ended > 2 * self._last_s:
            self._last_s = self.first_s
        else:
            self._last_s = min(self._last_s * self.factor, self.ceiling_s)
        self._ended = now
        return self._last_s


@dataclass(slots=True)
class TaskStatus:
    """What `core.state` shows of a supervised task."""

    name: str
    running: bool = True  # False in the pause before a restart, too
    restarts: int = 0
    last_error: str = ""


class Supervisor:
    """Owns the node's subsystems: an unhandled error is logged and the subsystem restarts; the loop lives."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._status: dict[str, TaskStatus] = {}

    def start(
        self, name: str, run: Callable[[], Awaitable[None]], *, first_s: float = 0.1, ceiling_s: float = 30.0
    ) -> None:
        """Keep `run()` running: it ends for good when it returns, an exception restarts it after a while."""
        status = self._status[name] = TaskStatus(name)
        backoff = Backoff(first_s=first_s, factor=2.0, ceiling_s=ceiling_s)
        self._tasks[name] = asyncio.create_task(self._keep(status, run, backoff), name=name)

    async def _keep(self, status: TaskStatus, run: Callable[[], Awaitable[None]], backoff: Backoff) -> None:
        while True:
            status.running = True
            try:
                await run()
            except BaseException as error:
                # A CancelledError that nobody asked of us came out of the subsystem's own doing.
                if isinstance(error, GeneratorExit) or _is_cancelled():
                    raise
                status.running = False
                status.restarts += 1
                status.last_error = f"{type(error).__name__}: {error}"
                delay_s = backoff.next(time.monotonic())
                log.error(
                    f"subsystem {status.name} failed, is started again",
                    subsystem=status.name,
                    reason=status.last_error,
                    delay_s=round(delay_s, 1),
                    exc_info=error,
                )
                await asyncio.sleep(delay_s)
            else:
                status.running = False
                return

    def status(self) -> list[TaskStatus]:
        return list(self._status.values())

    async def stop(self, name: str) -> None:
        """End one subsystem and wait for it."""
        task = self._tasks.pop(name, None)
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        self._status[name].running = False

    async def close(self) -> None:
        """End all of them, the youngest first."""
        for name in reversed(list(self._tasks)):
            await self.stop(name)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
