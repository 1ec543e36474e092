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

from g8node.errors import NodeError, NotFound
from g8node.runtime import logs
from g8node.vdisk.cluster.blocks import Blocks
from g8node.vdisk.cluster.events import INVALID_CONFIG, Event, Tell
from g8node.vdisk.cluster.export import ClusterVdisk, describe
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


class ClusterVdisks:
    """`update` with the first configuration, then with every new one; `close` at the end."""

    def __init__(self, *, patience: Patience | None = None, tell: Tell | None = None) -> None:
        self._patience = patience or Patience()
        self._told = tell
        self._vdisks: dict[str, Vdisk] = {}
        self._opened: dict[str, _Opened] = {}
        self._busy: dict[str, asyncio.Lock] = {}

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

    async def leave(self, name: str, export: Any) -> None:
        """With the last connection, the vdisk is flushed and closed."""
        vdisk = export.record.id
        async with self._lock(vdisk):
            opened = self._opened[vdisk]
            opened.users -= 1
            if opened.users == 0:
                del self._opened[vdisk]
                await self._close(vdisk, opened)

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
