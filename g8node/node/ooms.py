"""Out of memory in containers' control groups, as it happens (async)."""

import asyncio
from collections.abc import Callable
from typing import Final

from g8node.linux import cgroup
from g8node.linux.inotify import Inotify
from g8node.runtime import blocking

_EVENTS: Final = "memory.events"


class Ooms:
    """`told(id, killed)` for every container in which the kernel killed, with how many it were since."""

    def __init__(self, told: Callable[[int, int], None]) -> None:
        self._told = told
        self._inotify: Inotify | None = None
        self._groups: dict[int, str] = {}
        self._counts: dict[int, int] = {}
        self._watches: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        self._inotify = Inotify()
        asyncio.get_running_loop().add_reader(self._inotify.fd, self._changed)

    async def close(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._inotify.close()
            self._inotify = None

    async def add(self, id: int, group: str) -> None:
        """Watch the group of a container that has just started; one that is gone again is not watched."""
        if self._inotify is None:
            return
        self._groups[id], self._counts[id] = group, 0
        try:
            watch = await blocking.run("disk", self._inotify.add, f"{cgroup.MOUNT}/{group}/{_EVENTS}")
        except OSError:
            return
        self._watches[watch] = id
        await self._look(id)

    async def settle(self, id: int) -> None:
        """When the container has ended and its group is still there: tell what was not yet told."""
        await self._look(id)
        self._groups.pop(id, None)
        self._counts.pop(id, None)
        for watch in [watch for watch, other in self._watches.items() if other == id]:
            del self._watches[watch]
            if self._inotify is not None:
                await blocking.run("disk", self._inotify.remove, watch)

    def _changed(self) -> None:
        assert self._inotify is not None
        for watch in self._inotify.read():
            if (id := self._watches.get(watch)) is not None:
                task = asyncio.create_task(self._look(id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _look(self, id: int) -> None:
        if (group := self._groups.get(id)) is None:
            return
        events = await blocking.run("disk", cgroup.table, group, _EVENTS)
        killed = events.get("oom_kill", 0)
        if id in self._counts and killed > (before := self._counts[id]):
            self._counts[id] = killed
            self._told(id, killed - before)
