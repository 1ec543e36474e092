"""The set of pyfuse3's worker tasks (async).

pyfuse3's own nursery keeps the task of every worker that ever ran, for as long as the session lives, and lets
asyncio complain about each one that died of EAGAIN (style 2, hazard d: a reader was killed between poll and
read; another worker has taken over by then). A node's session lives for months.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from g8node.runtime import logs

log = logs.get("g8ufs.session")


class Workers:
    """What pyfuse3 needs of a trio nursery. Leaving it waits for all tasks."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> "Workers":
        return self

    async def __aexit__(self, *_: object) -> None:
        while self.tasks:
            self._ended.clear()
            await self._ended.wait()

    def start_soon(self, run: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str = "") -> None:
        task = asyncio.create_task(run(*args), name=name)
        task.name = name  # type: ignore[attr-defined]  # pyfuse3 reads trio's attribute
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        self._ended.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            log.debug("a FUSE worker ended", error=str(error))
        elif error is not None:
            log.error("a FUSE worker failed", error=repr(error))
