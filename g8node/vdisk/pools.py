"""The content pools of a folder (blocking): opened for the first vdisk that needs one, closed with the last.

<folder>/.content/<block size>/    see pool.py
<folder>/<vdisk>/index             its mapping
"""

import threading
from collections.abc import Callable
from typing import Final

from g8node.errors import Unavailable
from g8node.linux.diskfile import Disk
from g8node.vdisk.mapping import Mapping
from g8node.vdisk.pool import Pool
from g8node.vdisk.record import Record

INDEX: Final = "index"
CONTENT: Final = ".content"


class _Known:
    """An open pool, its users, and the deduplicated vdisks of that block size by number.

    `damaged` are vdisks of which nobody knows whether they are among them.
    """

    def __init__(self, records: dict[int, Record], damaged: list[str]) -> None:
        self.records = records
        self.damaged = damaged
        self.users = 0
        self.pool: Pool | None = None


class Pools:
    """See the module. `records` reads what is written down of all vdisks, and the ids of those where that
    fails; `place` tells a vdisk's folder.
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        records: Callable[[], tuple[list[Record], list[str]]],
        place: Callable[[str], str],
    ) -> None:
        self._disk = disk
        self._path = path
        self._records = records
        self._place = place
        self._lock = threading.Lock()
        self._known: dict[int, _Known] = {}

    def block_sizes(self) -> list[int]:
        """For which there are pools on the disk."""
        names = self._disk.names(f"{self._path}/{CONTENT}")
        return sorted(int(name) for name in names if name.isdecimal())

    def acquire(self, block_size: int) -> Pool:
        """Of that block size, until `release`. InvalidArgument and Unavailable for a damaged one."""
        with self._lock:
            known = self._known.get(block_size)
            if known is None:
                known = self._look(block_size)
                known.pool = self._open(block_size, known)
                self._known[block_size] = known
            known.users += 1
            assert known.pool is not None
            return known.pool

    def _look(self, block_size: int) -> _Known:
        records, damaged = self._records()
        mine = (one for one in records if one.storage == "dedup" and one.block_size == block_size)
        return _Known({record.number: record for record in mine}, damaged)

    def _open(self, block_size: int, known: _Known) -> Pool:
        path = f"{self._path}/{CONTENT}/{block_size}"
        for folder in (f"{self._path}/{CONTENT}", path):
            parent, _, name = folder.rpartition("/")
            if name not in self._disk.names(parent):
                self._disk.make_folder(folder)
            self._disk.sync_folder(parent)
        pool = Pool(self._disk, path, block_size, lambda number: self._mapping(known, number))
        pool.open()
        return pool

    def _mapping(self, known: _Known, number: int) -> Mapping | None:
        if (record := known.records.get(number)) is None:
            if known.damaged:  # its changes must not be taken for those of a vdisk that is gone
                raise Unavailable(f"vdisk {known.damaged[0]!r} is damaged, and may have changes in the log")
            return None
        file = self._disk.open(f"{self._place(record.id)}/{INDEX}")
        hidden = record.template_size // record.block_size
        return Mapping(file, number, record.blocks, hidden)

    def release(self, block_size: int) -> None:
        """The last user's is closed, with what it has still to write."""
        with self._lock:
            known = self._known[block_size]
            known.users -= 1
            if known.users:
                return
            del self._known[block_size]
            assert known.pool is not None
            known.pool.close()

    def made(self, record: Record) -> None:
        """A deduplicated vdisk is new, or larger."""
        with self._lock:
            if known := self._known.get(record.block_size):
                known.records[record.number] = record
                assert known.pool is not None
                known.pool.resize(record.number, record.blocks)

    def gone(self, record: Record) -> None:
        """A deduplicated vdisk is being deleted."""
        with self._lock:
            if known := self._known.get(record.block_size):
                known.records.pop(record.number, None)
                assert known.pool is not None
                known.pool.forget(record.number)
