"""A plain vdisk over a template (blocking): a `DiskFile` that shows another one where it has nothing itself.

Which blocks are its own is in `owned`. A block becomes that when it is first written, zeroed or trimmed, and,
by the way, when it is read (copy on first read). Whenever the power goes, a block that is its own has old or
new bytes in each sector. So before the bit of a block is set, its bytes are synced; only where the template
reads as zeros, as the empty file does, that is not needed. First writes therefore take a sync, one for all of
a batch; copies of what was read wait for the next flush.

A template that is missing is an error, never zeros.
"""

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from g8node.errors import NodeError
from g8node.linux.diskfile import DiskFile, Read, Write, read_each_now
from g8node.vdisk.owned import Owned
from g8node.vdisk.pool import runs
from g8node.vdisk.zeros import is_zero

_RUN: Final = 1 << 20
_ADOPTED: Final = 65536
"""Blocks that were copied and are not synced, beyond which they are."""


class Overlay:
    """See the module. It owns its files. `adopts`: what it reads of the template becomes its own."""

    def __init__(
        self, inner: DiskFile, owned: Owned, template: DiskFile | None, block: int, *, adopts: bool
    ) -> None:
        self._inner = inner
        self._owned = owned
        self._template = template
        self._block = block
        self._shown = owned.blocks * block
        self._adopts = adopts
        self._lock = threading.Lock()  # whoever makes blocks its own
        self._syncing = threading.Lock()
        self._adopted: set[int] = set()
        self._failed: BaseException | None = None

    def _blocks(self, offset: int, length: int) -> tuple[int, int]:
        """(first, count) of a range's blocks that may show the template."""
        first = offset // self._block
        end = min(-(-(offset + length) // self._block), self._owned.blocks)
        return first, max(0, end - first)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, bytes, own) of a range's pieces."""
        end = offset + length
        first, count = self._blocks(offset, length)
        for blocks, own in self._owned.runs(first, count):
            first += blocks
            stop = min(first * self._block, end)
            yield offset, stop - offset, own
            offset = stop
        if offset < end:
            yield offset, end - offset, True

    # Reading

    def read_now(self, offset: int, into: memoryview) -> bool:
        return self._owned.all_now(*self._blocks(offset, len(into))) and self._inner.read_now(offset, into)

    def read_many_now(self, reads: list[Read]) -> list[bool]:
        return read_each_now(self, reads)

    def read(self, offset: int, into: memoryview) -> None:
        for at, length, own in self._pieces(offset, len(into)):
            piece = into[at - offset : at - offset + length]
            if own:
                self._inner.read(at, piece)
            else:
                for start in range(0, length, _RUN):
                    self._read_template(at + start, piece[start : start + _RUN])

    def _read_template(self, offset: int, into: memoryview) -> None:
        first, count = self._blocks(offset, len(into))
        data = memoryview(bytearray(count * self._block))
        self._fill(first, data)
        start = offset - first * self._block
        into[:] = data[start : start + len(into)]
        if self._adopts:
            self._adopt(first, data)

    def _fill(self, block: int, into: memoryview) -> None:
        """Whole blocks of the template."""
        if self._template is None:
            raise OSError(errno.EIO, "the template is missing")
        self._template.read(block * self._block, into)

    def _adopt(self, first: int, data: memoryview) -> None:
        """Keep blocks that were read; when somebody is at it, or it fails, the next read may do it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            pieces = range(0, len(data), self._block)
            whole = {first + at // self._block: data[at : at + self._block] for at in pieces}
            fresh = [
                block
                for block, content in whole.items()
                if not (block in self._adopted or self._owned.all_now(block, 1) or is_zero(content))
            ]
            errors = self._inner.write_many([(block * self._block, whole[block]) for block in fresh])
            self._adopted.update(block for block, error in zip(fresh, errors, strict=True) if error is None)
            many = len(self._adopted) > _ADOPTED
        finally:
            self._lock.release()
        if many:
            self.sync()

    # Writing

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        (error,) = self.write_many([(offset, memoryview(data))])
        if error is not None:
            raise error

    def write_many(self, writes: Sequence[Write]) -> list[Exception | None]:
        if all(self._owned.all_now(*self._blocks(offset, len(data))) for offset, data in writes):
            return self._inner.write_many(writes)
        with self._lock:
            try:
                return self._first_writes(writes)
            except (OSError, NodeError) as error:
                return [error] * len(writes)

    def _first_writes(self, writes: Sequence[Write]) -> list[Exception | None]:
        """The rest of blocks that are written in part, the writes, a sync, and only then the bits."""
        outcomes: dict[int, Exception | None] = {}
        filled: set[int] = set()
        for number, (offset, data) in enumerate(writes):
            try:
                self._fill_edges(offset, len(data), filled)
            except (OSError, NodeError) as error:
                outcomes[number] = error
        good = [number for number in range(len(writes)) if number not in outcomes]
        outcomes |= zip(good, self._inner.write_many([writes[number] for number in good]), strict=True)
        fresh: list[tuple[int, int]] = []
        for number in good:
            if outcomes[number] is None:
                fresh += self._foreign(writes[number][0], len(writes[number][1]))
        if any(self._shows_data(*run) for run in fresh):
            self._sync(self._inner)
        for run in fresh:
            self._owned.add(*run)
        return [outcomes[number] for number in range(len(writes))]

    def _foreign(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(first, count) of the blocks of a range that are not its own."""
        first, count = self._blocks(offset, length)
        for blocks, own in self._owned.runs(first, count):
            if not own:
                yield first, blocks
            first += blocks

    def _fill_edges(self, offset: int, length: int, filled: set[int]) -> None:
        """Copy blocks that a write changes in part, if they are not its own."""
        first, count = self._blocks(offset, length)
        edges = set()
        if count and offset % self._block:
            edges.add(first)
        if count and offset + length < (first + count) * self._block:
            edges.add(first + count - 1)
        for block in edges - filled:
            (_, own), *_ = self._owned.runs(block, 1)
            if not own:
                data = memoryview(bytearray(self._block))
                self._fill(block, data)
                self._inner.write(block * self._block, data)
                filled.add(block)

    def _shows_data(self, first: int, count: int) -> bool:
        """Whether the template may be other than zeros in some blocks."""
        length = count * self._block
        return self._template is None or self._template.extents(first * self._block, length, 1) != [
            (length, False)
        ]

    def punch(self, offset: int, length: int) -> None:
        self._clear(offset, length, self._inner.punch)

    def zero(self, offset: int, length: int, *, fast: bool) -> None:
        self._clear(offset, length, lambda at, count: self._inner.zero(at, count, fast=fast))

    def _clear(self, offset: int, length: int, clear: Callable[[int, int], None]) -> None:
        """Whole blocks at once: a bit that comes before the zeros shows what was there, or zeros."""
        end = offset + length
        start = min(-(-offset // self._block) * self._block, end)
        stop = max(end // self._block * self._block, start)
        if start > offset:
            self.write(offset, bytes(start - offset))
        if stop > start:
            with self._lock:
                clear(start, stop - start)
                first, count = self._blocks(start, stop - start)
                if count:
                    self._owned.add(first, count)
        if end > stop:
            self.write(stop, bytes(end - stop))

    def sync(self) -> None:
        with self._lock:
            adopted, self._adopted = self._adopted, set()
        self._sync(self._inner)
        with self._lock:
            for first, count in runs(sorted(adopted)):
                self._owned.add(first, count)
        self._sync(self._owned)

    def _sync(self, file: DiskFile | Owned) -> None:
        """One at a time: others are about the same bytes.

        The first failure is final: what it lost would not be missed by the next one.
        """
        with self._syncing:
            if self._failed is not None:
                raise OSError(errno.EIO, f"an earlier sync failed: {self._failed}")
            try:
                file.sync()
            except BaseException as error:
                self._failed = error
                raise

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)

    def size(self) -> int:
        return self._inner.size()

    def cache(self, offset: int, length: int) -> None:
        for at, count, own in self._pieces(offset, length):
            file = self._inner if own else self._template
            if file is not None:
                file.cache(at, count)

    def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
        found: list[tuple[int, bool]] = []
        for at, piece, own in self._pieces(offset, length):
            file = self._inner if own else self._template
            end = at + piece
            while at < end:
                if len(found) > count:
                    return found[:count]
                some = [(piece, True)] if file is None else file.extents(at, end - at, count)
                for size, data in some:
                    if found and found[-1][1] == data:
                        found[-1] = found[-1][0] + size, data
                    else:
                        found.append((size, data))
                    at += size
        return found[:count]

    def close(self) -> None:
        """What was copied and is not synced is lost, or kept."""
        try:
            if self._adopted and self._failed is None:
                self.sync()
        except OSError:
            pass
        finally:
            for file in (self._inner, self._owned, self._template):
                if file is not None:
                    file.close()
