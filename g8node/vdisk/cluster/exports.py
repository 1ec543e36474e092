"""The vdisks of a configuration as exports of an NBD server (async), also while the configuration changes.

A vdisk that is in use takes a new configuration between two requests: what is under way ends, then its
servers are opened as the new configuration has them. What cannot be opened is tried again, and requests fail
until then.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from g8node.errors import Conflict, NodeError, NotFound
from g8node.runtime import logs
from g8node.vdisk.abilities import describe
from g8node.vdisk.cluster import offline
from g8node.vdisk.cluster.blocks import Blocks
from g8node.vdisk.cluster.collect import GRACE_S, ClusterCollection, Collected
from g8node.vdisk.cluster.events import INVALID_CONFIG, Event, Tell
from g8node.vdisk.cluster.export import ClusterVdisk
from g8node.vdisk.cluster.locks import Locks
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.open import open_blocks
from g8node.vdisk.cluster.settings import Configuration, Vdisk
from g8node.vdisk.cluster.switch import SwitchedBlocks
from g8node.wire.nbd_handshake import Description

log = logs.get("vdisk")


@dataclass
class _Opened:
    vdisk: ClusterVdisk
    blocks: SwitchedBlocks
    users: int = 0
    in_order: bool = True
    """Whether all who have left said that they go."""


class ClusterVdisks:
    """`update` with the first configuration, then with every new one; `close` at the end."""

    def __init__(self, *, patience: Patience | None = None, tell: Tell | None = None) -> None:
        self._patience = patience or Patience()
        self._told = tell
        self._vdisks: dict[str, Vdisk] = {}
        self._opened: dict[str, _Opened] = {}
        self._busy: dict[str, asyncio.Lock] = {}
        self._collecting = asyncio.Lock()

    def tell(self, event: Event) -> None:
        """Into the log, and to whoever else wants to know."""
        log.warning("event", status=event.status, subject=event.subject, data=event.data)
        if self._told is not None:
            self._told(event)

    # What an NBD server asks

    def names(self) -> Sequence[tuple[str, str]]:
        return [(one.id, f"{one.static.type} vdisk") for _, one in sorted(self._vdisks.items())]

    async def describe(self, name: str) -> Description:
        vdisk = self._named(name)
        return describe(vdisk.static.record(vdisk.id))

    def _named(self, name: str) -> Vdisk:
        """The empty name means the only vdisk there is."""
        if not name and len(self._vdisks) == 1:
            return next(iter(self._vdisks.values()))
        if name not in self._vdisks:
            raise NotFound("no such export")
        return self._vdisks[name]

    def _lock(self, vdisk: str) -> asyncio.Lock:
        return self._busy.setdefault(vdisk, asyncio.Lock())

    async def open(self, name: str) -> ClusterVdisk:
        vdisk = self._named(name).id
        async with self._lock(vdisk):
            opened = self._opened.get(vdisk)
            if opened is None:
                config = self._named(vdisk)
                blocks = SwitchedBlocks(await self._open_blocks(config, Locks()))
                opened = self._opened[vdisk] = _Opened(
                    ClusterVdisk(blocks, config.static.record(vdisk)), blocks
                )
            opened.users += 1
            return opened.vdisk

    async def _open_blocks(self, config: Vdisk, locks: Locks) -> Blocks:
        return await open_blocks(config, locks, patience=self._patience, tell=self.tell)

    async def leave(self, name: str, export: Any, *, in_order: bool) -> None:
        """With the last connection, the vdisk is flushed and closed; see `Vdisks.leave` for `tmp` ones."""
        vdisk = export.record.id
        async with self._lock(vdisk):
            opened = self._opened[vdisk]
            opened.users -= 1
            opened.in_order &= in_order
            if opened.users == 0:
                del self._opened[vdisk]
                await self._close(vdisk, opened)
                if opened.in_order and opened.vdisk.counters.changes and export.record.type == "tmp":
                    await self._empty(vdisk)

    async def _empty(self, vdisk: str) -> None:
        if (config := self._vdisks.get(vdisk)) is None:
            return
        try:
            await offline.remove(config, patience=self._patience, tell=self.tell)
        except (NodeError, OSError) as error:
            log.error("vdisk could not be emptied", vdisk=vdisk, reason=str(error))

    async def _close(self, vdisk: str, opened: _Opened) -> None:
        try:
            await opened.vdisk.close()
        except (NodeError, OSError) as error:
            log.error("vdisk could not be flushed", vdisk=vdisk, reason=str(error))

    # Configuration

    async def update(self, new: Configuration) -> None:
        """A vdisk that is gone from the configuration is served to those who have it open."""
        old, self._vdisks = self._vdisks, new.vdisks
        for vdisk in list(self._opened):
            if vdisk in new.vdisks and new.vdisks[vdisk] != old.get(vdisk):
                async with self._lock(vdisk):
                    if vdisk in self._opened:
                        self._change(new.vdisks[vdisk], self._opened[vdisk])

    def _change(self, config: Vdisk, opened: _Opened) -> None:
        """Other servers, other states, a larger size; anything else needs the vdisk closed."""
        now = opened.vdisk.record
        wanted = config.static.record(config.id)
        if (wanted.block_size, wanted.type) != (now.block_size, now.type) or wanted.size < now.size:
            log.error("vdisk in use keeps its size, type and block size", vdisk=config.id)
            self.tell(Event("etcd", INVALID_CONFIG, {"key": config.id, "vdiskID": config.id}))
            wanted = msgspec.structs.replace(now, size=max(now.size, wanted.size))
        opened.vdisk.change(wanted)
        opened.blocks.switch(lambda: self._open_blocks(config, opened.blocks.locks))

    # What people ask

    def get(self, vdisk: str) -> Vdisk:
        """NotFound."""
        if vdisk not in self._vdisks:
            raise NotFound(f"vdisk {vdisk!r} is not in the configuration")
        return self._vdisks[vdisk]

    def info(self, vdisk: str) -> dict[str, Any]:
        """What the node's own vdisks tell of themselves as well, as far as it is known. NotFound."""
        config = self.get(vdisk)
        record = config.static.record(vdisk)
        opened = self._opened.get(vdisk)
        table: dict[str, Any] = msgspec.to_builtins(record)
        del table["seal"], table["number"], table["template_size"]
        return table | {
            "encrypted": False,
            "storage": "dedup" if record.type == "boot" else "plain",
            "template": config.static.template,
            "cluster": config.nbd.storage,
            "used": 0,
            "connections": opened.users if opened else 0,
            "counters": opened.vdisk.counters.table() if opened else {},
        }

    def _refuse_open(self, vdisk: str) -> None:
        if vdisk in self._opened:
            users = self._opened[vdisk].users
            raise Conflict(f"vdisk {vdisk!r} has {users} connections", hint="disconnect them first")

    async def delete(self, vdisk: str) -> None:
        """Take all that it has off its servers. NotFound; Conflict while it is in use or shown."""
        async with self._lock(vdisk):
            config = self.get(vdisk)
            self._refuse_open(vdisk)
            for other in self._vdisks.values():
                if other.static.template == vdisk and other.template == config.storage:
                    raise Conflict(f"vdisk {vdisk!r} is the template of {other.id!r}")
            await offline.remove(config, patience=self._patience, tell=self.tell)

    async def copy(self, vdisk: str, target: Vdisk) -> None:
        """Give `target` the bytes of a vdisk. NotFound; Conflict while in use; see `offline.copy`."""
        if vdisk == target.id:
            raise Conflict(f"target: expected another name than {vdisk!r}")
        first, second = sorted((vdisk, target.id))
        async with self._lock(first), self._lock(second):
            config = self.get(vdisk)
            if not config.static.read_only:
                self._refuse_open(vdisk)
            self._refuse_open(target.id)
            await offline.copy(config, target, patience=self._patience, tell=self.tell)

    async def collect(self, cluster: str, *, bytes_s: int = 0, grace_s: float = GRACE_S) -> Collected:
        """Remove content that no vdisk names. NotFound, Conflict, Unavailable; see `collect`."""
        if self._collecting.locked():
            raise Conflict("a collection is running")
        async with self._collecting:
            here = [one for one in self._vdisks.values() if one.nbd.storage == cluster]
            if not here:
                raise NotFound(f"cluster: no vdisk of the configuration lies on {cluster!r}")
            clones = [one for one in self._vdisks.values() if one.nbd.template == cluster]
            slaves = [one.slave for one in here if one.slave is not None]
            others = [one for clone in clones for one in (clone.storage, clone.slave) if one is not None]
            run = ClusterCollection(
                here[0].storage,
                slaves,
                others,
                patience=self._patience,
                tell=self.tell,
                bytes_s=bytes_s,
                grace_s=grace_s,
            )
            return await run.run()

    def states(self) -> list[dict[str, Any]]:
        """Every vdisk: what it is, what it has done, how its servers are."""
        rows = []
        for name, config in sorted(self._vdisks.items()):
            opened = self._opened.get(name)
            rows.append(
                {
                    "id": name,
                    "type": config.static.type,
                    "size": config.static.record(name).size,
                    "tags": _tags(config),
                    "connections": opened.users if opened else 0,
                    "counters": opened.vdisk.counters.table() if opened else {},
                    "servers": opened.blocks.states() if opened else [],
                }
            )
        return rows

    async def close(self) -> None:
        """Flush and close all; failures are logged."""
        for vdisk, opened in list(self._opened.items()):
            await self._close(vdisk, opened)
        self._opened.clear()


def _tags(config: Vdisk) -> str:
    """Where it lies, as the original's figures say it."""
    template = f",templateCluster={config.nbd.template}" if config.nbd.template else ""
    return f"cluster={config.nbd.storage}{template}"
