"""A disk in memory that remembers what was synced, and makes what a power loss may leave of it.

After a crash each 512 bytes of a file are what they were at its last sync, or what any later write (hole, new
size) made of them: kept, dropped, torn, reordered. Of the changes of a folder's names since its last sync a
first part is there. `sync=False` is a disk whose flushes do nothing, to see that the tests would notice.
"""

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from g8node.linux.diskfile import Read, Write, read_each_now, write_each
from g8node.vdisk.collect import Collection
from g8node.vdisk.pool import Pool

SECTOR = 512


@dataclass
class _Inode:
    """A file: the durable content, and all versions that each sector may have after a crash."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def change(self, offset: int, data: bytes) -> None:
        if len(self.data) < offset + len(data):
            self.resize(offset + len(data))
        self.data[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            now = bytes(self.data[sector * SECTOR : (sector + 1) * SECTOR])
            self.versions.setdefault(sector, []).append(now)

    def resize(self, size: int) -> None:
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data += bytes(size - len(self.data))
        self.sizes.append(size)

    def sync(self) -> None:
        self.durable = bytes(self.data)
        self.versions.clear()
        self.sizes.clear()

    def crashed(self, dice: random.Random) -> "_Inode":
        size = dice.choice([len(self.durable), *self.sizes])
        data = bytearray(self.durable[:size].ljust(size, b"\0"))
        for sector, versions in self.versions.items():
            start = sector * SECTOR
            if start < size and (version := dice.choice([None, *versions])) is not None:
                end = min(start + SECTOR, size)
                data[start:end] = version[: end - start].ljust(end - start, b"\0")
        assert len(data) == size
        return _Inode(data=data, durable=bytes(data))


class _Folder:
    def __init__(self) -> None:
        self.names: dict[str, _Inode | _Folder] = {}
        self.durable: list[dict[str, _Inode | _Folder]] = [{}]  # the synced state, then each change

    def changed(self) -> None:
        self.durable.append(dict(self.names))

    def sync(self) -> None:
        self.durable = [dict(self.names)]

    def crashed(self, dice: random.Random, done: dict[int, "_Inode | _Folder"]) -> "_Folder":
        left = _Folder()
        done[id(self)] = left
        for name, one in dice.choice(self.durable).items():
            if id(one) not in done:
                done[id(one)] = one.crashed(dice, done) if isinstance(one, _Folder) else one.crashed(dice)
            left.names[name] = done[id(one)]
        left.sync()
        return left


class MemoryFile:
    """A `DiskFile`."""

    def __init__(self, inode: _Inode, disk: "MemoryDisk") -> None:
        self._inode = inode
        self._disk = disk

    def read_now(self, offset: int, into: memoryview) -> bool:
        self.read(offset, into)
        return True

    def read_many_now(self, reads: list[Read]) -> list[bool]:
        return read_each_now(self, reads)

    def read(self, offset: int, into: memoryview) -> None:
        into[:] = bytes(self._inode.data[offset : offset + len(into)]).ljust(len(into), b"\0")

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        with self._disk.lock:
            self._disk.count()
            self._inode.change(offset, bytes(data))

    def write_many(self, writes: Sequence[Write]) -> list[Exception | None]:
        return write_each(self, writes)

    def punch(self, offset: int, length: int) -> None:
        length = min(length, len(self._inode.data) - offset)
        if length > 0:
            self.write(offset, bytes(length))

    def zero(self, offset: int, length: int, *, fast: bool) -> None:
        self.punch(offset, length)

    def truncate(self, size: int) -> None:
        with self._disk.lock:
            self._disk.count()
            self._inode.resize(size)

    def size(self) -> int:
        return len(self._inode.data)

    def sync(self) -> None:
        with self._disk.lock:
            self._disk.count()
            if self._disk.syncs:
                self._inode.sync()

    def cache(self, offset: int, length: int) -> None:
        pass

    def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
        return [(length, True)]

    def close(self) -> None:
        pass


class PowerLost(Exception):
    """The disk has done all operations it was to do."""


class MemoryDisk:
    """A `Disk`. After `operations` changes the power is lost: everything raises."""

    def __init__(self, root: _Folder | None = None, *, syncs: bool = True) -> None:
        self._root = root or _Folder()
        self.syncs = syncs
        self.operations = 1 << 60
        self.lock = (
            threading.Lock()
        )  # the power may go in one thread while another one is at its last operation

    def count(self) -> None:
        if self.operations <= 0:
            raise PowerLost
        self.operations -= 1

    def crash(self, dice: random.Random) -> "MemoryDisk":
        """A disk as the next boot may find it."""
        with self.lock:
            return MemoryDisk(self._root.crashed(dice, {}))

    def _find(self, path: str) -> "_Inode | _Folder":
        here: _Inode | _Folder = self._root
        for name in path.strip("/").split("/") if path.strip("/") else []:
            if not isinstance(here, _Folder) or name not in here.names:
                raise FileNotFoundError(2, "no such file", path)
            here = here.names[name]
        return here

    def _parent(self, path: str) -> tuple[_Folder, str]:
        folder, _, name = path.rstrip("/").rpartition("/")
        found = self._find(folder)
        assert isinstance(found, _Folder)
        return found, name

    def open(self, path: str, *, create: bool = False) -> MemoryFile:
        if create:
            self.count()
            folder, name = self._parent(path)
            if name in folder.names:
                raise FileExistsError(17, "exists", path)
            folder.names[name] = _Inode()
            folder.changed()
        found = self._find(path)
        assert isinstance(found, _Inode)
        return MemoryFile(found, self)

    def make_folder(self, path: str) -> None:
        self.count()
        folder, name = self._parent(path)
        assert name not in folder.names
        folder.names[name] = _Folder()
        folder.changed()

    def replace(self, old: str, new: str) -> None:
        self.count()
        folder, name = self._parent(old)
        target, new_name = self._parent(new)
        assert folder is target, "renames stay in a folder"
        target.names[new_name] = folder.names.pop(name)
        folder.changed()

    def unlink(self, path: str) -> None:
        self.count()
        folder, name = self._parent(path)
        del folder.names[name]
        folder.changed()

    def remove_folder(self, path: str) -> None:
        folder, name = self._parent(path)
        found = folder.names[name]
        assert isinstance(found, _Folder)
        assert not found.names, "not empty"
        self.unlink(path)

    def names(self, path: str) -> list[str]:
        try:
            found = self._find(path)
        except FileNotFoundError:
            return []
        assert isinstance(found, _Folder)
        return sorted(found.names)

    def sync_folder(self, path: str) -> None:
        self.count()
        found = self._find(path)
        assert isinstance(found, _Folder)
        if self.syncs:
            found.sync()


def collect(pool: Pool, numbers: Iterable[int], between: Callable[[], object] = lambda: None) -> Collection:
    """A whole collection over the vdisks with these numbers; `between` is called between its steps."""
    run = Collection(pool)
    run.begin()
    for number in numbers:
        at: int | None = 0
        while at is not None:
            at, _ = run.mark(number, at)
            between()
    run.settle()
    for first, count in run.groups():
        between()
        run.sweep(first, count)
        between()
    for bucket in range(run.buckets()):
        run.drop_hints(bucket)
    run.end()
    return run


class Oracle:
    """Of each sector of a vdisk, the values that a client may find after a crash."""

    def __init__(self, sectors: int) -> None:
        self.now = [bytes(SECTOR)] * sectors
        self.allowed = [{value} for value in self.now]

    def wrote(self, offset: int, data: bytes) -> None:
        for start in range(0, len(data), SECTOR):
            sector = (offset + start) // SECTOR
            self.now[sector] = data[start : start + SECTOR]
            self.allowed[sector].add(self.now[sector])

    def flushed(self) -> None:
        self.allowed = [{value} for value in self.now]

    def wrong(self, found: bytes) -> int:
        """How many sectors have what they must not have."""
        values = (found[at : at + SECTOR] for at in range(0, len(found), SECTOR))
        return sum(value not in allowed for value, allowed in zip(values, self.allowed, strict=True))

    def found(self, content: bytes) -> None:
        """After a crash: that is it now."""
        self.now = [content[at : at + SECTOR] for at in range(0, len(content), SECTOR)]
        self.flushed()
