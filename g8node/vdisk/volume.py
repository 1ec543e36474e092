"""The bytes of a deduplicated vdisk (blocking): a `DiskFile` over a mapping and the pool of its blocks.

A block of zeros is no block. Changing a part of a block means to read it, change it and put it; when somebody
else has put the block meanwhile, all that is done again, so that two who change different parts of
one block lose nothing. Content that is missing is an error, never zeros: no block in the pool is all zeros,
so what reads as zeros there was lost.

A block that is absent shows the template's, and is put on the first read (unless it was written meanwhile).
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from g8node.errors import NodeError
from g8node.linux.diskfile import DiskFile, Read, read_each_now
from g8node.vdisk.mapping import ABSENT, CLEARED, Mapping
from g8node.vdisk.pool import Pool
from g8node.vdisk.segments import GROUP, Buffer
from g8node.vdisk.zeros import ZEROS, is_zero

_SINGLE_CLEARS: Final = 16384
"""Blocks; longer ranges are cleared with one entry, which costs a checkpoint."""
_RUN: Final = 1 << 20
_CACHED: Final = 4096
_EXTENTS: Final = 64

Changes = dict[int, Buffer | None]


class Volume:
    """See the module. `left` is called when it is closed."""

    def __init__(
        self,
        pool: Pool,
        mapping: Mapping,
        left: Callable[[], None],
        *,
        template: DiskFile | None = None,
        adopts: bool = True,
    ) -> None:
        self._pool = pool
        self._mapping = mapping
        self._block = pool.block_size
        self._left = left
        self._template = template
        self._adopts = adopts

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(block, byte of it, start, end) of a range's pieces."""
        start = 0
        while start < length:
            block, at = divmod(offset + start, self._block)
            end = min(length, start + self._block - at)
            yield block, at, start, end
            start = end

    # Reading

    def read_now(self, offset: int, into: memoryview) -> bool:
        return all(
            self._block_now(block, at, into[start:end])
            for block, at, start, end in self._pieces(offset, len(into))
        )

    def read_many_now(self, reads: list[Read]) -> list[bool]:
        return read_each_now(self, reads)

    def _block_now(self, block: int, at: int, into: memoryview) -> bool:
        value = self._mapping.get_now(block)
        if value is None:
            return False
        if value > CLEARED:
            return self._pool.segments.read_now(value, at, into) and not is_zero(into)
        if value == ABSENT and block < self._mapping.template_blocks:
            return False
        into[:] = ZEROS[: len(into)]
        return True

    def read(self, offset: int, into: memoryview) -> None:
        with self._pool.grace:
            first = offset // self._block
            count = (offset + len(into) - 1) // self._block - first + 1
            values = self._mapping.range(first, count)
            pieces = list(self._pieces(offset, len(into)))
            at = 0
            while at < count:
                end = self._run(first, values, at)
                self._read_run(values[at], first + at, pieces[at:end], into)
                at = end

    def _kind(self, block: int, value: int) -> int:
        """0 zeros, 1 the template's, 2 in the pool."""
        if value > CLEARED:
            return 2
        return int(value == ABSENT and block < self._mapping.template_blocks)

    def _run(self, first: int, values: Sequence[int], at: int) -> int:
        """Where the run ends that can be read in one go."""
        kind = self._kind(first + at, values[at])
        end = at + 1
        most = min(len(values), at + max(1, _RUN // self._block))
        while end < most and self._kind(first + end, values[end]) == kind:
            if kind == 2 and (values[end] != values[end - 1] + 1 or values[end] % GROUP == 0):
                break
            end += 1
        return end

    def _read_run(
        self, value: int, block: int, pieces: Sequence[tuple[int, int, int, int]], into: memoryview
    ) -> None:
        kind = self._kind(block, value)
        _, at, start, _ = pieces[0]
        end = pieces[-1][3]
        if kind == 0:
            into[start:end] = bytes(end - start)
        elif kind == 1:
            self._read_template(block, len(pieces), at, into[start:end])
        else:
            self._pool.segments.read(value, at, into[start:end])
            for number, (_, _, one, other) in enumerate(pieces):
                if is_zero(into[one:other]):
                    self._must_be_there(value + number)

    def _must_be_there(self, slot: int) -> None:
        """EIO when a whole block is zeros, which no content is."""
        data = memoryview(bytearray(self._block))
        self._pool.segments.read(slot, 0, data)
        if is_zero(data):
            raise OSError(errno.EIO, f"the content of slot {slot} is missing")

    def _read_template(self, block: int, count: int, at: int, into: memoryview) -> None:
        data = memoryview(bytearray(count * self._block))
        self._fill_from_template(block, data)
        into[:] = data[at : at + len(into)]
        if not self._adopts:
            return
        whole = {block + number: data[number * self._block :][: self._block] for number in range(count)}
        found: Changes = {one: content for one, content in whole.items() if not is_zero(content)}
        try:
            self._put(found, dict.fromkeys(found, ABSENT))
        except (OSError, NodeError):
            return  # the next read tries again

    def _fill_from_template(self, block: int, into: memoryview) -> None:
        if self._template is None:
            raise OSError(errno.EIO, "the template is missing")
        self._template.read(block * self._block, into)

    # Writing

    def write(self, offset: int, data: Buffer) -> None:
        (error,) = self.write_many([(offset, memoryview(data))])
        if error is not None:
            raise error

    def write_many(self, writes: Sequence[tuple[int, memoryview]]) -> list[Exception | None]:
        """What became of each."""
        with self._pool.grace:
            while True:
                changes: Changes = {}
                expected: dict[int, int] = {}
                errors = [self._plan(offset, data, changes, expected) for offset, data in writes]
                try:
                    if self._put(changes, expected):
                        return errors
                except (OSError, NodeError) as error:
                    return [error] * len(writes)

    def _plan(
        self, offset: int, data: memoryview, changes: Changes, expected: dict[int, int]
    ) -> Exception | None:
        """Add a write to what is to be put; nothing of it when a block's other part cannot be read."""
        planned: Changes = {}
        seen: dict[int, int] = {}
        try:
            for block, at, start, end in self._pieces(offset, len(data)):
                piece: Buffer = data[start:end]
                if end - start < self._block:
                    piece = self._merged(block, at, piece, changes, seen)
                planned[block] = None if is_zero(piece) else piece
        except (OSError, NodeError) as error:
            return error
        changes |= planned
        expected |= seen
        return None

    def _merged(
        self, block: int, at: int, piece: Buffer, changes: Changes, seen: dict[int, int]
    ) -> bytearray:
        """The whole block with a part changed."""
        if block in changes:
            now = changes[block]
            data = bytearray(self._block) if now is None else bytearray(now)
        else:
            seen[block] = self._mapping.get(block)
            data = bytearray(self._block)
            self._fill(block, seen[block], memoryview(data))
        data[at : at + len(piece)] = piece
        return data

    def _fill(self, block: int, value: int, into: memoryview) -> None:
        """A whole block that has a value."""
        kind = self._kind(block, value)
        if kind == 1:
            self._fill_from_template(block, into)
        elif kind == 2:
            self._pool.segments.read(value, 0, into)
            if is_zero(into):
                raise OSError(errno.EIO, f"the content of slot {value} is missing")

    def _put(self, changes: Changes, expected: dict[int, int]) -> bool:
        """In pieces that the pool takes; those that were put stay put when this is False."""
        most = self._pool.window // 4
        if len(changes) <= most:
            return not changes or self._pool.put(self._mapping, changes, expected)
        blocks = list(changes)
        for start in range(0, len(blocks), most):
            some = blocks[start : start + most]
            guard = {block: expected[block] for block in some if block in expected}
            if not self._pool.put(self._mapping, {block: changes[block] for block in some}, guard):
                return False
        return True

    def punch(self, offset: int, length: int) -> None:
        end = offset + length
        first = -(-offset // self._block)
        last = end // self._block
        if first >= last:
            self._write_zeros(offset, length)
            return
        self._write_zeros(offset, first * self._block - offset)
        self._write_zeros(last * self._block, end - last * self._block)
        with self._pool.grace:
            if last - first > _SINGLE_CLEARS:
                self._pool.clear(self._mapping, first, last - first)
            else:
                values = enumerate(self._mapping.range(first, last - first), first)
                self._put(dict.fromkeys(block for block, value in values if self._kind(block, value)), {})

    def _write_zeros(self, offset: int, length: int) -> None:
        if length:
            self.write(offset, bytes(length))

    def zero(self, offset: int, length: int, *, fast: bool) -> None:
        """There is no space to keep: blocks take it when they are written."""
        self.punch(offset, length)

    def truncate(self, size: int) -> None:
        """A larger size, for which the mapping's file has room."""
        self._mapping.resize(size // self._block)

    def size(self) -> int:
        return self._mapping.blocks * self._block

    def sync(self) -> None:
        self._pool.sync()

    @property
    def due(self) -> bool:
        """Whether it is time for `settle`."""
        return self._pool.due

    def settle(self) -> None:
        """Bring the pool's mappings up to date."""
        self._pool.checkpoint_if_idle()

    def cache(self, offset: int, length: int) -> None:
        first = offset // self._block
        count = min(_CACHED, -(-(offset + length) // self._block) - first)
        with self._pool.grace:
            for value in self._mapping.range(first, count):
                if value > CLEARED:
                    self._pool.segments.cache(value)

    def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
        first = offset // self._block
        last = -(-(offset + length) // self._block)
        found: list[tuple[int, bool]] = []
        at = first
        for blocks, value in self._mapping.states(first, last - first):
            for size, data in self._extents(at, blocks, value):
                if found and found[-1][1] == data:
                    found[-1] = found[-1][0] + size, data
                elif len(found) == count:
                    return _cut(found, offset - first * self._block, length)
                else:
                    found.append((size, data))
            at += blocks
        return _cut(found, offset - first * self._block, length)

    def _extents(self, block: int, blocks: int, value: int) -> Iterator[tuple[int, bool]]:
        """Of a run that has one value."""
        shown = max(0, min(block + blocks, self._mapping.template_blocks) - block) if value == ABSENT else 0
        if shown and self._template is None:
            yield shown * self._block, True
        elif shown and self._template is not None:
            done, end = block * self._block, (block + shown) * self._block
            while done < end:
                for size, data in self._template.extents(done, end - done, _EXTENTS):
                    yield size, data
                    done += size
        if blocks > shown:
            yield (blocks - shown) * self._block, value > CLEARED

    def problems(self) -> Iterator[str]:
        """Blocks whose content is not what it was."""
        at = 0
        while (piece := self._mapping.pieces(at)) is not None:
            end, values = piece
            for block, value in enumerate(values, end - len(values)):
                if value > CLEARED and (problem := self._problem(value)):
                    yield f"block {block}: {problem}"
            at = end

    def _problem(self, slot: int) -> str:
        with self._pool.grace:
            entry = self._pool.content(slot)
            if entry is None:
                return f"slot {slot} is missing"
            try:
                return "" if self._pool.digest(slot) == entry.digest else f"slot {slot} is damaged"
            except OSError as error:
                return str(error.strerror)

    def close(self) -> None:
        left, self._left = self._left, _nothing
        left()


def _nothing() -> None:
    """What is left to do for a volume that is closed."""


def _cut(found: list[tuple[int, bool]], skip: int, length: int) -> list[tuple[int, bool]]:
    """Extents without the first `skip` bytes, and `length` at most."""
    cut = []
    for size, data in found:
        size, skip = size - min(size, skip), skip - min(size, skip)
        size = min(size, length)
        length -= size
        if size:
            cut.append((size, data))
    return cut
