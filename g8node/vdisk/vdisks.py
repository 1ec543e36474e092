"""The vdisks of a node (async): made, listed, grown, removed, and opened once for all their connections."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from g8node.errors import Conflict, InvalidArgument, NodeError, NotFound
from g8node.linux.diskfile import Disk, KernelDisk
from g8node.runtime import blocking, logs
from g8node.vdisk import collecting
from g8node.vdisk.dedup import DedupVdisk
from g8node.vdisk.folder import Folder
from g8node.vdisk.limits import Limits
from g8node.vdisk.parts import Parts
from g8node.vdisk.plain import PlainVdisk, describe
from g8node.vdisk.record import Record, check_id, fresh_number
from g8node.vdisk.volume import Volume
from g8node.wire.nbd_handshake import Description

log = logs.get("vdisk")


@dataclass
class _Opened:
    vdisk: PlainVdisk
    parts: Parts | Volume
    users: int = 0
    in_order: bool = True
    """Whether all who have left said that they go."""


@dataclass
class _Turn:
    """Whose it is to change a vdisk; there as long as somebody has it, waits for it, or is about to go on."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Vdisks:
    """The exports of an NBD server. One process at a time uses a folder of vdisks."""

    def __init__(
        self, path: str, disk: Disk | None = None, *, key: bytes = b"", makes_folder: bool = True
    ) -> None:
        """`key`: the master key of encrypted vdisks. `makes_folder`: if it is not there."""
        self.folder = Folder(disk or KernelDisk(), path, key)
        self._makes_folder = makes_folder
        self._lock_fd = -1
        self._records: dict[str, Record] = {}
        self._opened: dict[str, _Opened] = {}
        self._turns: dict[str, _Turn] = {}
        self._collecting = asyncio.Lock()

    async def start(self) -> None:
        """Conflict when another process has the folder, NotFound when there is none and it must not be made.

        A damaged vdisk is logged and left alone.
        """
        self._lock_fd = await blocking.run("disk", self.folder.lock, make=self._makes_folder)
        await blocking.run("disk", self.folder.sweep)
        for vdisk in await blocking.run("disk", self.folder.ids):
            try:
                self._records[vdisk] = await blocking.run("disk", self.folder.record, vdisk)
            except (NodeError, OSError) as error:
                log.error("vdisk cannot be read", vdisk=vdisk, reason=str(error))

    async def close(self) -> None:
        """Flush and close all; every failure is logged, the first one raised at the end."""
        failures: list[Exception] = []
        for vdisk, opened in list(self._opened.items()):
            try:
                await opened.vdisk.close()
            except (NodeError, OSError) as error:
                log.error("vdisk could not be flushed", vdisk=vdisk, reason=str(error))
                failures.append(error)
        self._opened.clear()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        if failures:
            raise failures[0]

    @contextlib.asynccontextmanager
    async def _alone(self, vdisk: str) -> AsyncIterator[None]:
        """One change of a vdisk at a time."""
        turn = self._turns.setdefault(vdisk, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[vdisk]

    def get(self, vdisk: str) -> Record:
        """NotFound."""
        check_id(vdisk)
        if (record := self._records.get(vdisk)) is None:
            raise NotFound(f"vdisk {vdisk!r} does not exist")
        return self._as_served(record)

    def _as_served(self, record: Record) -> Record:
        """Nobody writes to what others show."""
        if not record.read_only and self._showing(record.id):
            return msgspec.structs.replace(record, read_only=True)
        return record

    def _showing(self, vdisk: str) -> list[str]:
        """Whose template it is."""
        return [record.id for record in self._records.values() if record.template == vdisk]

    def records(self) -> list[Record]:
        return [self._records[vdisk] for vdisk in sorted(self._records)]

    # What an NBD server asks

    def names(self) -> Sequence[tuple[str, str]]:
        return [(record.id, f"{record.type} vdisk") for record in self.records()]

    async def describe(self, name: str) -> Description:
        return describe(self._named(name))

    def _named(self, name: str) -> Record:
        """The empty name means the only vdisk there is."""
        if not name and len(self._records) == 1:
            name = next(iter(self._records))
        if name not in self._records:
            raise NotFound("no such export")
        return self._as_served(self._records[name])

    async def open(self, name: str) -> PlainVdisk:
        vdisk = self._named(name).id
        async with self._alone(vdisk):
            record = self.get(vdisk)
            opened = self._opened.get(vdisk)
            if opened is None:
                parts = await blocking.run("disk", self.folder.open, record)
                try:
                    file = await blocking.run("disk", self.folder.plain, record, parts)
                except (NodeError, OSError):
                    await blocking.run("disk", parts.close)
                    raise
                export = DedupVdisk(parts, record) if isinstance(parts, Volume) else PlainVdisk(file, record)
                opened = self._opened[vdisk] = _Opened(export, parts)
            opened.users += 1
            return opened.vdisk

    async def leave(self, name: str, export: Any, *, in_order: bool) -> None:
        """With the last connection, the vdisk is flushed and closed; a `tmp` one is emptied.

        Not if one of its clients has vanished (`in_order` is false): that one may come back for its data.
        """
        vdisk = next(one for one, opened in self._opened.items() if opened.vdisk is export)
        async with self._alone(vdisk):
            opened = self._opened[vdisk]
            opened.users -= 1
            opened.in_order &= in_order
            if opened.users == 0:
                del self._opened[vdisk]
                try:
                    await opened.vdisk.close()
                except (NodeError, OSError) as error:
                    log.error("vdisk could not be flushed", vdisk=vdisk, reason=str(error))
                if opened.in_order and opened.vdisk.counters.changes and self._records[vdisk].type == "tmp":
                    await self._empty(self._records[vdisk])

    async def _empty(self, record: Record) -> None:
        try:
            self._records[record.id] = await blocking.run("disk", self.folder.renew, record)
        except (NodeError, OSError) as error:
            log.error("vdisk could not be emptied", vdisk=record.id, reason=str(error))

    # What people ask

    async def create(self, record: Record, *, encrypted: bool = False) -> Record:
        """AlreadyExists, InvalidArgument; NotFound for its template, Conflict while that is written to."""
        if encrypted:
            record = self.folder.sealed(record)
        check_id(record.id)
        async with contextlib.AsyncExitStack() as alone:
            for name in sorted({record.id, record.template or record.id}):
                await alone.enter_async_context(self._alone(name))
            record = self._numbered(self._with_template(record))
            await blocking.run("disk", self.folder.create, record)
            self._records[record.id] = record
        return record

    def _numbered(self, record: Record) -> Record:
        number = fresh_number() if record.storage == "dedup" else 0
        return msgspec.structs.replace(record, number=number, created=int(time.time()))

    def _with_template(self, record: Record) -> Record:
        if not record.template:
            return record
        if record.template == record.id:
            raise InvalidArgument("template: expected another vdisk")
        template = self.get(record.template)
        if template.seal is not None and record.seal is None:
            raise InvalidArgument("template: expected one that is not encrypted, as the vdisk is not")
        if template.block_size != record.block_size:
            raise InvalidArgument(f"template: expected block size {record.block_size}")
        if template.size > record.size:
            raise InvalidArgument(f"size: expected at least the template's {template.size} bytes")
        if not template.read_only:
            self._refuse_open(template.id)
        return msgspec.structs.replace(record, template_size=template.size)

    def counters(self) -> dict[str, dict[str, int]]:
        """What each open vdisk has done."""
        return {vdisk: opened.vdisk.counters.table() for vdisk, opened in self._opened.items()}

    async def info(self, vdisk: str) -> dict[str, Any]:
        """The record, with `used` bytes on the disk, `connections`, and `counters` while it is open."""
        record = self.get(vdisk)
        used = await blocking.run("disk", self.folder.used, record)
        opened = self._opened.get(vdisk)
        more = {
            "used": used,
            "connections": opened.users if opened else 0,
            "counters": opened.vdisk.counters.table() if opened else {},
        }
        table: dict[str, Any] = msgspec.to_builtins(record)
        table["encrypted"] = table.pop("seal") is not None
        del table["number"], table["template_size"]
        return table | more

    async def resize(self, vdisk: str, size: int) -> Record:
        """Grow, also while it is in use; clients see it when they connect again. Conflict for less."""
        async with self._alone(vdisk):
            record = self._records[self.get(vdisk).id]
            grown = await blocking.run("disk", self.folder.grow, record, size)
            self._records[vdisk] = grown
            if opened := self._opened.get(vdisk):
                await blocking.run("disk", self.folder.open_more, grown, opened.parts)
                opened.vdisk.change(self._as_served(grown))
            return grown

    async def limit(self, vdisk: str, limits: Limits) -> Record:
        """Other limits, at once and for good."""
        async with self._alone(vdisk):
            record = msgspec.structs.replace(self._records[self.get(vdisk).id], limits=limits)
            await blocking.run("disk", self.folder.save, record)
            self._records[vdisk] = record
            if opened := self._opened.get(vdisk):
                opened.vdisk.change(self._as_served(record))
            return record

    async def delete(self, vdisk: str) -> None:
        """Conflict while it is in use."""
        async with self._alone(vdisk):
            self.get(vdisk)
            self._refuse_open(vdisk)
            if showing := self._showing(vdisk):
                raise Conflict(f"vdisk {vdisk!r} is the template of {', '.join(showing[:3])}")
            del self._records[vdisk]
            await blocking.run("disk", self.folder.delete, vdisk)

    async def copy(self, vdisk: str, target: str) -> Record:
        """A new vdisk with the same bytes. Conflict while somebody may change them."""
        check_id(target)
        if vdisk == target:
            raise Conflict(f"target: expected another name than {vdisk!r}")
        first, second = sorted((vdisk, target))
        async with self._alone(first), self._alone(second):
            source = self.get(vdisk)
            if not source.read_only:
                self._refuse_open(vdisk)
            record = msgspec.structs.replace(
                self._numbered(source), id=target, read_only=False, template="", template_size=0
            )
            if source.seal is not None:
                record = self.folder.sealed(record)
            await blocking.run("vdisk", self.folder.copy, source, record)
            self._records[target] = record
            return record

    def _refuse_open(self, vdisk: str) -> None:
        if vdisk in self._opened:
            users = self._opened[vdisk].users
            raise Conflict(f"vdisk {vdisk!r} has {users} connections", hint="disconnect them first")

    async def check(self, vdisk: str) -> list[str]:
        """Read all there is; what is wrong, for a person."""
        self.get(vdisk)
        return await blocking.run("vdisk", self.folder.problems, vdisk)

    async def gc(self, bytes_s: int = 0) -> list[dict[str, Any]]:
        """Give back the space of content that no vdisk refers to; what was done, by pool.

        `bytes_s`: bytes read and given back a second; 0 as fast as it goes. Writers go on meanwhile. Conflict
        while another one runs. A pool that cannot be collected has the reason as its `problem`, and so has
        one that keeps more than it would because of a damaged vdisk.
        """
        if self._collecting.locked():
            raise Conflict("a collection is running")
        async with self._collecting:
            names = await blocking.run("disk", self.folder.pools.names)
            return [await collecting.collect(self.folder, name, bytes_s) for name in names]
