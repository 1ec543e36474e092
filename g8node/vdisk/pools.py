"""The content pools of a folder (blocking): opened for the first vdisk that needs one, closed with the last.

<folder>/.content/<block size>/             see pool.py
<folder>/.content/<block size>-<domain>/    of encrypted vdisks, for each master key (see seal.py)
<folder>/<vdisk>/index                      its mapping
"""

import re
import threading
from collections.abc import Callable
from typing import Final

from g8node.errors import Unavailable
from g8node.linux.diskfile import Disk
from g8node.vdisk.mapping import Mapping
from g8node.vdisk.pool import Pool
from g8node.vdisk.record import Record
from g8node.vdisk.seal import pool_keys

INDEX: Final = "index"
CONTENT: Final = ".content"
_NAME: Final = re.compile(r"([0-9]{3,6})(?:-([0-9a-f]{32}))?", re.ASCII)


def parts_of(name: str) -> tuple[int, str]:
    """The block size and the key's domain, or "", of a pool."""
    size, _, domain = name.partition("-")
    return int(size), domain


class _Known:
    """An open pool, its users, and the deduplicated vdisks that are in it by number.

    `damaged` are vdisks of which nobody knows whether they are among them.
    """

    def __init__(self, records: dict[int, Record], damaged: list[str]) -> None:
        self.records = records
        self.damaged = damaged
        self.users = 0
        self.pool: Pool | None = None


class Pools:
    """See the module. `records` reads what is written down of all vdisks, and the ids of those where that
    fails; `place` tells a vdisk's folder. `key`: the master key, or b"".
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        records: Callable[[], tuple[list[Record], list[str]]],
        place: Callable[[str], str],
        key: bytes,
    ) -> None:
        self._key = key
        self._disk = disk
        self._path = path
        self._records = records
        self._place = place
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def names(self) -> list[str]:
        """Of the pools on the disk."""
        return [name for name in self._disk.names(f"{self._path}/{CONTENT}") if _NAME.fullmatch(name)]

    def acquire(self, name: str) -> Pool:
        """Of that name, until `release`. InvalidArgument, Unavailable: it is damaged, or there is no key."""
        with self._lock:
            known = self._known.get(name)
            if known is None:
                known = self._look(name)
                known.pool = self._open(name, known)
                self._known[name] = known
            known.users += 1
            assert known.pool is not None
            return known.pool

    def _look(self, name: str) -> _Known:
        records, damaged = self._records()
        mine = (one for one in records if one.storage == "dedup" and one.pool == name)
        return _Known({record.number: record for record in mine}, damaged)

    def _open(self, name: str, known: _Known) -> Pool:
        block_size, domain = parts_of(name)
        keys = pool_keys(self._key, domain) if domain else (b"", b"")
        path = f"{self._path}/{CONTENT}/{name}"
        for folder in (f"{self._path}/{CONTENT}", path):
            parent, _, last = folder.rpartition("/")
            if last not in self._disk.names(parent):
                self._disk.make_folder(folder)
            self._disk.sync_folder(parent)
        pool = Pool(self._disk, path, block_size, lambda number: self._mapping(known, number), keys)
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

    def release(self, name: str) -> None:
        """The last user's is closed, with what it has still to write."""
        with self._lock:
            known = self._known[name]
            known.users -= 1
            if known.users:
                return
            del self._known[name]
            assert known.pool is not None
            known.pool.close()

    def made(self, record: Record) -> None:
        """A deduplicated vdisk is new, or larger."""
        with self._lock:
            if known := self._known.get(record.pool):
                known.records[record.number] = record
                assert known.pool is not None
                known.pool.resize(record.number, record.blocks)

    def gone(self, record: Record) -> None:
        """A deduplicated vdisk is being deleted."""
        with self._lock:
            if known := self._known.get(record.pool):
                known.records.pop(record.number, None)
                assert known.pool is not None
                known.pool.forget(record.number)
