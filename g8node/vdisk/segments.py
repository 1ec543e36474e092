"""The files of a content pool (blocking): numbered slots, filled in order and never a second time.

    seg.000000     groups of [256 entries of 64 bytes][256 blocks]; 2^22 slots; seg.000001 the next, ...

A slot has an entry and room for one block; room that is not needed stays a hole. What nobody refers to any
more is punched, and its slot is not used again: the number of a slot means one content for ever.
"""

import errno
import threading
from collections.abc import Callable, Sequence
from typing import Final

from g8node.linux.diskfile import Disk, DiskFile
from g8node.vdisk.encrypted import UNIT, Xts
from g8node.vdisk.entries import ENTRY

GROUP: Final = 256
SLOTS: Final = 1 << 22
_HEADER: Final = GROUP * ENTRY
_PREFIX: Final = "seg."
_INLINE: Final = 64 << 10
"""Bytes that are decrypted on the loop at most."""

Buffer = bytes | bytearray | memoryview


class Segments:
    """See the module. Slots are appended by one thread at a time; all else may be done by many.

    With a `key`, blocks (not entries) lie encrypted: AES-256-XTS in units of 4 KiB at most, whose numbers
    follow from the slot's, so that no number is used for two contents.
    """

    def __init__(self, disk: Disk, path: str, block_size: int, key: bytes = b"") -> None:
        self._xts = Xts(key, min(block_size, UNIT)) if key else None
        self._disk = disk
        self._path = path
        self._block = block_size
        self._stride = _HEADER + GROUP * block_size
        self._files: dict[int, DiskFile] = {}
        self._dirty: set[int] = set()
        self._syncing = threading.Lock()

    def open(self) -> None:
        """All that are there."""
        for name in self._disk.names(self._path):
            if name.startswith(_PREFIX):
                self._files[int(name[len(_PREFIX) :])] = self._disk.open(f"{self._path}/{name}")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def numbers(self) -> list[int]:
        return sorted(self._files)

    def _name(self, number: int) -> str:
        return f"{self._path}/{_PREFIX}{number:06d}"

    def _make(self, number: int) -> DiskFile:
        file = self._disk.open(self._name(number), create=True)
        self._disk.sync_folder(self._path)
        self._files[number] = file
        return file

    def _file(self, slot: int) -> DiskFile:
        """EIO when it is missing."""
        file = self._files.get(slot // SLOTS)
        if file is None:
            raise OSError(errno.EIO, f"{self._name(slot // SLOTS)}: missing")
        return file

    def _header(self, slot: int) -> int:
        """Offset of the group that a slot is in."""
        return slot % SLOTS // GROUP * self._stride

    def _data(self, slot: int) -> int:
        return self._header(slot) + _HEADER + slot % GROUP * self._block

    def append(self, slot: int, entries: Sequence[bytes], blocks: Sequence[Buffer]) -> None:
        """Write slots from `slot` on; the first of them have blocks."""
        while entries:
            count = GROUP - slot % GROUP
            number = slot // SLOTS
            file = self._files.get(number) or self._make(number)
            if blocks:
                data = b"".join(blocks[:count])
                file.write(self._data(slot), self._xts.seal(self._unit(slot), data) if self._xts else data)
            file.write(self._header(slot) + slot % GROUP * ENTRY, b"".join(entries[:count]))
            self._dirty.add(number)  # after the fact: a sync under way need not cover it
            entries, blocks, slot = entries[count:], blocks[count:], slot + len(entries[:count])

    def sync(self) -> None:
        """What was written before survives a power loss when this returns."""
        with self._syncing:
            for number in list(self._dirty):
                self._dirty.discard(
                    number
                )  # before the fact: what is written from now on is for the next one
                if file := self._files.get(number):
                    file.sync()

    def _unit(self, slot: int) -> int:
        """The number of the first unit of a block."""
        return slot * self._block // min(self._block, UNIT)

    def _whole(self, at: int, length: int) -> tuple[int, memoryview]:
        """Where the units begin that a range of a block lies in, and room for them."""
        assert self._xts is not None
        start = at // self._xts.unit * self._xts.unit
        return start, memoryview(bytearray(-(-(at + length) // self._xts.unit) * self._xts.unit - start))

    def read_now(self, slot: int, at: int, into: memoryview) -> bool:
        """A part of a block, from its byte `at` on; False when it is not in memory."""
        file = self._files.get(slot // SLOTS)
        if file is None:
            return False
        if self._xts is None:
            return file.read_now(self._data(slot) + at, into)
        start, data = self._whole(at, len(into))
        if len(data) > _INLINE or not file.read_now(self._data(slot) + start, data):
            return False
        self._xts.open(self._unit(slot) + start // self._xts.unit, data)
        into[:] = data[at - start : at - start + len(into)]
        return True

    def read(self, slot: int, at: int, into: memoryview) -> None:
        """From byte `at` of a block on, also over the blocks of the next slots of its group."""
        if self._xts is None:
            self._file(slot).read(self._data(slot) + at, into)
            return
        start, data = self._whole(at, len(into))
        self._file(slot).read(self._data(slot) + start, data)
        self._xts.open(self._unit(slot) + start // self._xts.unit, data)
        into[:] = data[at - start : at - start + len(into)]

    def cache(self, slot: int) -> None:
        self._file(slot).cache(self._data(slot), self._block)

    def entry(self, slot: int) -> bytes:
        """64 bytes; zeros where there is none."""
        file = self._files.get(slot // SLOTS)
        data = bytearray(ENTRY)
        if file is not None:
            file.read(self._header(slot) + slot % GROUP * ENTRY, memoryview(data))
        return bytes(data)

    def entries(self, slot: int) -> bytes:
        """All entries of a slot's group."""
        file = self._files.get(slot // SLOTS)
        data = bytearray(_HEADER)
        if file is not None:
            file.read(self._header(slot), memoryview(data))
        return bytes(data)

    def set_entries(self, slot: int, entries: bytes) -> None:
        """Other entries for some slots of one group."""
        self._file(slot).write(self._header(slot) + slot % GROUP * ENTRY, entries)
        self._dirty.add(slot // SLOTS)

    def remove(self, number: int, wait: Callable[[], None]) -> None:
        """Remove a file that nobody will ask for again; who uses it now is waited for."""
        file = self._files.pop(number)
        self._disk.unlink(self._name(number))
        self._disk.sync_folder(self._path)
        wait()
        with self._syncing:
            file.close()

    def punch(self, slot: int, count: int) -> None:
        """Give the space of some blocks of one group back."""
        self._file(slot).punch(self._data(slot), count * self._block)

    def forget(self, slot: int, count: int) -> None:
        """Give the entries of some slots of one group back."""
        self._file(slot).punch(self._header(slot) + slot % GROUP * ENTRY, count * ENTRY)

    def discard(self, slot: int, count: int) -> None:
        """Entries and blocks of some slots of one group, if they are there."""
        file = self._files.get(slot // SLOTS)
        if file is not None and self._header(slot) < file.size():
            self.forget(slot, count)
            self.punch(slot, count)
            self._dirty.add(slot // SLOTS)
