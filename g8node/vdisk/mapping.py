"""Which slot of the pool each block of a vdisk has (blocking): 8 bytes a block in a sparse file.

    0 absent: zeros, or what the template has    1 cleared: zeros    other: the slot

What changed since the last checkpoint is in memory (and in the pool's log): `_current`, and `_frozen` while a
checkpoint writes it. Changes are made by one thread at a time; reads need no lock, because a value leaves
a place only after it is in the next one.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from g8node.linux.diskfile import DiskFile

ABSENT: Final = 0
CLEARED: Final = 1
WIDTH: Final = 8

_VALUE: Final = struct.Struct("<Q")
_PAGE: Final = 512
_PIECE: Final = 8192
"""Blocks looked at in one go."""
_EXTENTS: Final = 64


class Mapping:
    """See the module. `template_blocks` of it show a template as long as they are absent."""

    def __init__(self, file: DiskFile, number: int, blocks: int, template_blocks: int = 0) -> None:
        self._file = file
        self.number = number
        self.blocks = blocks
        self.template_blocks = template_blocks
        self._current: dict[int, int] = {}
        self._frozen: dict[int, int] = {}
        self._unsynced = False

    def close(self) -> None:
        self._file.close()

    def get(self, block: int) -> int:
        """The value of one block."""
        if (value := self._current.get(block)) is None and (value := self._frozen.get(block)) is None:
            data = bytearray(WIDTH)
            self._file.read(block * WIDTH, memoryview(data))
            value = int.from_bytes(data, "little")
        return value

    def get_now(self, block: int) -> int | None:
        """The same without waiting for a disk; None when that is not possible."""
        if (value := self._current.get(block)) is None and (value := self._frozen.get(block)) is None:
            data = bytearray(WIDTH)
            if not self._file.read_now(block * WIDTH, memoryview(data)):
                return None
            value = int.from_bytes(data, "little")
        return value

    def is_zero(self, block: int) -> bool:
        """Whether it reads as zeros, whatever a template holds."""
        value = self.get(block)
        return value == CLEARED or (value == ABSENT and block >= self.template_blocks)

    def range(self, first: int, count: int) -> "array[int]":
        """The values of some blocks."""
        current, frozen = self._current, self._frozen  # before the file: see the module
        values = array("Q", bytes(count * WIDTH))
        self._file.read(first * WIDTH, memoryview(values).cast("B"))
        for changes in (frozen, current):
            if len(changes) < count:
                for block, value in changes.copy().items():  # others may add to it
                    if first <= block < first + count:
                        values[block - first] = value
            else:
                for at in range(count):
                    values[at] = changes.get(first + at, values[at])
        return values

    def set(self, block: int, value: int) -> None:
        self._current[block] = value

    def states(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """(blocks, value) of the runs of a range; one of slots has one of their numbers as its value."""
        end = first + count
        changed = sorted(block for block in {**self._frozen, **self._current} if first <= block < end)
        at = first
        while at < end:
            for length, data in self._file.extents(at * WIDTH, (end - at) * WIDTH, _EXTENTS):
                stop = at + max(1, length // WIDTH)
                while at < stop:
                    till = stop if data else min([stop, *changed[bisect_left(changed, at) :][:1]])
                    if till > at and not data:
                        yield till - at, ABSENT
                    else:
                        till = min(stop, at + _PIECE) if data else at + 1
                        for value, run in groupby(self.range(at, till - at), key=lambda one: min(one, 2)):
                            yield sum(1 for _ in run), value
                    at = till

    def pieces(self, at: int) -> "tuple[int, array[int]] | None":
        """For a walk over all that the file holds: where the piece from `at` on ends, and its values."""
        while at < self.blocks:
            for length, data in self._file.extents(at * WIDTH, (self.blocks - at) * WIDTH, 2):
                blocks = max(1, length // WIDTH)
                if data:
                    count = min(blocks, 16 * _PIECE)
                    return at + count, self.range(at, count)
                at += blocks
        return None

    # Checkpoints

    def freeze(self) -> bool:
        """Begin a checkpoint; False when there is nothing to do."""
        self._frozen = self._frozen | self._current
        self._current = {}
        return bool(self._frozen) or self._unsynced

    def write_frozen(self) -> None:
        """Put them into the file, page by page. The slots must be on the disk by now."""
        self._unsynced = True
        changes = self._frozen
        for page, run in groupby(sorted(changes), key=lambda block: block // _PAGE):
            first = page * _PAGE
            values = array("Q", bytes(min(_PAGE, self.blocks - first) * WIDTH))
            self._file.read(first * WIDTH, memoryview(values).cast("B"))
            for block in run:
                values[block - first] = changes[block]
            self._file.write(first * WIDTH, values.tobytes())

    def sync(self) -> None:
        self._unsynced = False
        self._file.sync()

    def thaw(self) -> None:
        """The checkpoint is written down."""
        self._frozen = {}

    def clear(self, first: int, count: int) -> None:
        """Make a long range read as zeros, in the file itself; nothing may be frozen.

        That it may reach the disk before the log has it does no harm: a range that nobody flushed may be
        cleared in any part of it.
        """
        end = first + count
        self._unsynced = True
        for block in [block for block in self._current if first <= block < end]:
            del self._current[block]
        hidden = min(end, max(first, self.template_blocks))
        for at in range(first, hidden, _PIECE):
            blocks = min(_PIECE, hidden - at)
            self._file.write(at * WIDTH, _VALUE.pack(CLEARED) * blocks)
        if end > hidden:
            self._file.punch(hidden * WIDTH, (end - hidden) * WIDTH)

    def resize(self, blocks: int) -> None:
        """More blocks than before."""
        self.blocks = blocks
