"""Owner of the volumes (async): folders with a name that outlive the containers that have them.

Theory of operation. A volume is there for as long as nobody removes it. One with a size is a file system of
its own, mounted from its first user's start to its last one's end. All work on one volume is done in turn,
and to its end also when its caller has gone.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import msgspec

from g8node.errors import AlreadyExists, Conflict, Exhausted, NotFound, Unavailable
from g8node.node import programs, volumefiles
from g8node.node.volumefiles import Record
from g8node.node.volumespec import Volume
from g8node.runtime import blocking, logs
from g8node.runtime.process import Reaper

log = logs.get("volumes")

T = TypeVar("T")
Row = dict[str, Any]
Bind = tuple[str, str, bool]
"""Folder of the node, path inside, whether it is read-only."""

COUNT_MAX: Final = 1000
_MIXED_BELOW: Final = 1 << 30  # data and metadata share their space, as mkfs.btrfs(8) recommends
_MAKE_S: Final = 300.0


class Volumes:
    """Of one node; `open` when it is known which containers live."""

    def __init__(self, reaper: Reaper, folder: str) -> None:
        """Everything is below `folder`, which is made when it is needed."""
        self._reaper = reaper
        self._folder = folder
        self._users: dict[str, set[int]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Clear away what an earlier run has left half done, or mounted without a user."""
        try:
            for name in await blocking.run("disk", volumefiles.mounted, self._folder) - self._users.keys():
                await blocking.run("disk", volumefiles.hide, self._folder, name)
            await blocking.run("disk", volumefiles.clear, self._folder)
        except OSError as error:
            log.warning("what is left of volumes is not cleared away", reason=str(error))

    async def create(self, name: str, size_bytes: int) -> Row:
        """An empty volume; 0: without a limit. AlreadyExists; Exhausted: no space; Unavailable."""
        return self._row(await self._whole(name, self._create(name, size_bytes, fresh=True)))

    async def list(self) -> "list[Row]":
        """All, by name."""
        names = await blocking.run("disk", volumefiles.names, self._folder)
        records = [await self._read(name) for name in names]
        return [self._row(record) for record in records if record is not None]

    async def get(self, name: str) -> Row:
        """One, with the bytes that are `used` and where it is. NotFound."""
        return await self._whole(name, self._measured(name))

    async def remove(self, name: str) -> None:
        """With all that is in it. NotFound; Conflict while a container has it."""
        await self._whole(name, self._remove(name))

    async def attach(
        self, container: int, wanted: Mapping[str, Volume], undo: AsyncExitStack
    ) -> "tuple[Bind, ...]":
        """Keep them for a container, as path inside -> volume; those that are not there are made.

        `undo` lets go. Conflict: it has another size; Exhausted, Unavailable.
        """
        for volume in wanted.values():
            await self._whole(volume.name, self._attach(container, volume))
            undo.push_async_callback(self._detach, container, volume.name)
        return tuple(
            (volumefiles.data(self._folder, volume.name), path, volume.readonly)
            for path, volume in wanted.items()
        )

    async def _whole(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Do it in its turn and to its end, whatever becomes of the caller."""
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Lock()

        async def whole() -> T:
            async with turn:
                return await work

        task = asyncio.create_task(whole())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _read(self, name: str) -> Record | None:
        try:
            return await blocking.run("disk", volumefiles.read, self._folder, name)
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("a volume is damaged", volume=name, reason=str(error))
            return None

    def _row(self, record: Record) -> Row:
        return {**msgspec.to_builtins(record), "containers": sorted(self._users.get(record.name, ()))}

    async def _create(self, name: str, size_bytes: int, *, fresh: bool) -> Record:
        """`fresh`: it must not exist."""
        found = await self._read(name)
        if found is not None and not fresh:
            if size_bytes and found.size != size_bytes:
                raise Conflict(f"volumes: {name} exists with another size, {found.size or 'no'} bytes")
            return found
        known = await blocking.run("disk", volumefiles.names, self._folder)
        if name in known:
            damaged = ", and is damaged" if found is None else ""
            raise AlreadyExists(f"volume {name} exists{damaged}")
        if len(known) >= COUNT_MAX:
            raise Exhausted(f"there are {len(known)} volumes, expected at most {COUNT_MAX}")
        record = Record(name, size_bytes, time.time_ns() // 1_000_000)
        try:
            made = await blocking.run("disk", volumefiles.begin, self._folder, record)
            if size_bytes:
                await self._format(f"{made}/image", size_bytes)
            await blocking.run("disk", volumefiles.finish, self._folder, name)
        except BaseException:
            await blocking.run("disk", volumefiles.give_up, self._folder, name)
            raise
        log.info("volume made", volume=name, size=size_bytes)
        return record

    async def _format(self, image: str, size_bytes: int) -> None:
        words = ["--quiet", "--nodiscard", "--data", "single", "--metadata", "single"]
        mixed = ["--mixed"] if size_bytes < _MIXED_BELOW else []
        await programs.run(self._reaper, "mkfs.btrfs", *words, *mixed, image, timeout_s=_MAKE_S)

    async def _existing(self, name: str) -> Record:
        record = await self._read(name)
        if record is None:
            raise NotFound(f"volume {name} does not exist")
        return record

    async def _measured(self, name: str) -> Row:
        record = await self._existing(name)
        shown = bool(record.size) and not self._users.get(name)
        if shown:
            await self._show(record)
        try:
            used = await blocking.run("disk", volumefiles.used, self._folder, record)
        finally:
            if shown:
                await blocking.run("disk", volumefiles.hide, self._folder, name)
        return self._row(record) | {"used": used, "path": volumefiles.data(self._folder, name)}

    async def _show(self, record: Record) -> None:
        try:
            await blocking.run("disk", volumefiles.show, self._folder, record.name)
        except OSError as error:
            raise Unavailable(f"volume {record.name} cannot be mounted: {error}") from error

    async def _remove(self, name: str) -> None:
        if name not in await blocking.run("disk", volumefiles.names, self._folder):
            raise NotFound(f"volume {name} does not exist")
        if users := self._users.get(name):
            raise Conflict(f"volume {name} is used by {_containers(users)}", hint="terminate first")
        await blocking.run("disk", volumefiles.remove, self._folder, name)
        log.info("volume removed", volume=name)

    async def _attach(self, container: int, volume: Volume) -> None:
        record = await self._create(volume.name, volume.size or 0, fresh=False)
        if record.size:
            await self._show(record)
        self._users.setdefault(volume.name, set()).add(container)

    async def _detach(self, container: int, name: str) -> None:
        await self._whole(name, self._let_go(container, name))

    async def _let_go(self, container: int, name: str) -> None:
        users = self._users.get(name, set())
        users.discard(container)
        if not users:
            self._users.pop(name, None)
            await blocking.run("disk", volumefiles.hide, self._folder, name)


def _containers(ids: Iterable[int]) -> str:
    listed = ", ".join(str(id) for id in sorted(ids))
    return f"container{'s' if ',' in listed else ''} {listed}"
