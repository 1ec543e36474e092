"""A plain vdisk (async): its bytes lie in sparse files, and the page cache is its cache.

A write is answered when the kernel has it: it survives the end of this process. A flush is one fdatasync,
shared by all who ask at once.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from g8node.linux.diskfile import DirectFile, DiskFile, errors_of
from g8node.runtime import blocking
from g8node.runtime.writes import writes as writes_of
from g8node.vdisk import abilities
from g8node.vdisk.batches import Batches
from g8node.vdisk.commit import GroupCommit
from g8node.vdisk.limits import Counters, Throttle
from g8node.vdisk.record import Record
from g8node.vdisk.zeros import is_zero
from g8node.wire import nbd
from g8node.wire.nbd_handshake import Description

_PAGE: Final = 4096
_PUNCH_BYTES: Final = 64 << 10
"""Shorter zeros over data are written: that is quicker, and does not tear the file into pieces."""


def describe(record: Record) -> Description:
    """What a client is told of one."""
    return abilities.describe(record, readable=nbd.FLAG_SEND_CACHE, writable=nbd.FLAG_SEND_FAST_ZERO)


class PlainVdisk:
    """An export (see nbd.export) over one `DiskFile`, which it owns."""

    def __init__(self, file: DiskFile, record: Record, lanes: int = 1) -> None:
        """`lanes`: batches of writes that are done at once."""
        self._file = file
        self._direct = file if isinstance(file, DirectFile) else None
        self._batches = Batches(self._write_batch, lanes)
        self.change(record)
        self.counters = Counters()
        self.count = self.counters.count
        self.read_many_now = file.read_many_now
        self.commits = GroupCommit(file.sync)

    def describe(self) -> Description:
        return describe(self.record)

    def change(self, record: Record) -> None:
        """Other limits from now on; another size for those who connect from now on."""
        self.record = record
        throttle = Throttle(record.limits)
        self.limited, self.pause_s = throttle.limited, throttle.pause_s

    async def read(self, offset: int, into: memoryview) -> None:
        await blocking.run("vdisk", self._file.read, offset, into)

    async def write_many(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        self.commits.check()
        errors = await self._batches.put(writes)
        self.commits.changed()
        return errors

    async def write_durably(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        if self.commits.idle:
            return await self.commits.together(lambda: self._write_all(writes))
        errors = await self.write_many(writes)
        await self.flush()
        return errors

    # By one thread, see nbd.export.LoneExport

    def take(self) -> bool:
        return self.commits.hold()

    def give_back(self) -> None:
        self.commits.release()

    @property
    def wanted(self) -> bool:
        return self.limited or self.commits.wanted

    def write_here(self, offset: int, data: memoryview, *, durable: bool) -> None:
        self.commits.check()
        (error,) = self._write_all([(offset, data)])
        if error is not None:
            raise error
        if durable:
            self.commits.sync_here()

    def flush_here(self) -> None:
        self.commits.sync_here()

    async def _write_batch(self, writes: list[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        fd = self._direct.writable_fd if self._direct is not None else -1
        if fd < 0 or not all(data[0] or data[-1] for _, data in writes):  # else none of them is all zeros
            return await blocking.run("vdisk", self._write_all, writes)
        return errors_of(await writes_of(asyncio.get_running_loop()).write(fd, writes))

    def _write_all(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        outcomes: dict[int, Exception | None] = {}
        for number, (offset, data) in enumerate(writes):
            if is_zero(data):
                try:
                    if self._stays_thin(offset, len(data)):
                        outcomes[number] = None
                except OSError as error:
                    outcomes[number] = error
        if not outcomes:
            return self._file.write_many(writes)
        left = [number for number in range(len(writes)) if number not in outcomes]
        outcomes |= zip(left, self._file.write_many([writes[number] for number in left]), strict=True)
        return [outcomes[number] for number in range(len(writes))]

    def _stays_thin(self, offset: int, length: int) -> bool:
        """Zeros of whole pages: leave a hole alone, give the space of a long range back."""
        if offset % _PAGE or length % _PAGE:
            return False
        if length >= _PUNCH_BYTES:
            self._file.punch(offset, length)
            return True
        return self._file.extents(offset, length, 1) == [(length, False)]

    async def zero(self, offset: int, length: int, *, keep: bool, fast: bool) -> None:
        self.commits.check()
        if keep:
            await blocking.run("vdisk", self._file.zero, offset, length, fast=fast)
        else:
            await blocking.run("vdisk", self._file.punch, offset, length)
        self.commits.changed()

    async def trim(self, offset: int, length: int) -> None:
        await self.zero(offset, length, keep=False, fast=False)

    async def cache(self, offset: int, length: int) -> None:
        await blocking.run("vdisk", self._file.cache, offset, length)

    async def flush(self) -> None:
        await self.commits.commit()

    async def extents(self, offset: int, length: int, count: int) -> Sequence[tuple[int, int]]:
        found = await blocking.run("vdisk", self._file.extents, offset, length, count)
        return [(size, 0 if data else nbd.STATE_HOLE | nbd.STATE_ZERO) for size, data in found]

    async def close(self) -> None:
        """Flush what is not yet, then give the files back."""
        try:
            if self.commits.dirty and not self.record.read_only and self.commits.failed is None:
                await self.commits.commit()
        finally:
            await blocking.run("vdisk", self._file.close)
