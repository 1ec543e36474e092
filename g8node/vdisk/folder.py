"""A folder of vdisks (blocking): what is made, grown and removed survives a power loss whole or not at all.

    <folder>/.lock                  held by the one process that uses it
    <folder>/<id, quoted>/vdisk.json
    <folder>/<id, quoted>/data.000  the first TiB, sparse; data.001 the next one, ...
    <folder>/<id, quoted>/owned     of a plain one with a template, see owned.py
    <folder>/<id, quoted>/index     of a deduplicated one, see mapping.py
    <folder>/.content/              the contents of deduplicated ones, see pools.py
    <folder>/.new.*  .gone.*        being made or removed when the power went; swept at the next open
    <folder>/.old.*                 being replaced by an empty one then; back at the next open, if need be

A vdisk appears by the rename of a finished folder, and disappears by a rename, too.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Final

import msgspec

from g8node.errors import AlreadyExists, Conflict, InvalidArgument, NodeError, NotFound, Unavailable
from g8node.linux.diskfile import Disk, DiskFile, read_whole, write_whole
from g8node.linux.guard import off_loop
from g8node.runtime import logs
from g8node.vdisk.encrypted import EncryptedFile
from g8node.vdisk.mapping import WIDTH, Mapping
from g8node.vdisk.overlay import Overlay
from g8node.vdisk.owned import Owned, file_size
from g8node.vdisk.parts import Parts, part_sizes
from g8node.vdisk.pools import INDEX, Pools
from g8node.vdisk.record import (
    Record,
    check_id,
    decode,
    encode,
    folder_name,
    fresh_number,
    id_of_folder,
)
from g8node.vdisk.seal import new_seal, vdisk_key
from g8node.vdisk.volume import Volume

log = logs.get("vdisk")

RECORD: Final = "vdisk.json"
OWNED: Final = "owned"
_PARTS: Final = "data."
_OLD: Final = ".old."
_RECORD_BYTES_MAX: Final = 1 << 20
_COPY_BYTES: Final = 1 << 20
_EXTENTS: Final = 1024


class Folder:
    """See the module. Paths are absolute; the caller serialises changes of one vdisk."""

    def __init__(self, disk: Disk, path: str, key: bytes = b"") -> None:
        """`key`: the master key of encrypted vdisks, if there are any."""
        self._disk = disk
        self._key = key
        self.path = path.rstrip("/")
        self.pools = Pools(disk, self.path, self._records, self._at, key)

    @off_loop
    def lock(self, *, make: bool = True) -> int:
        """Be the folder's only user until the descriptor is closed. Conflict; NotFound if not made."""
        if make:
            self._make()
        try:
            fd = os.open(f"{self.path}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            raise NotFound(f"{self.path}: there is no such folder") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise Conflict(f"{self.path} is in use by another process") from error
        return fd

    def _make(self) -> None:
        """If need be; a new folder must not be lost with the vdisks in it."""
        made = self.path
        while not os.path.exists(made):
            made = os.path.dirname(made)
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        while made != self.path:
            self._disk.sync_folder(made)
            made = f"{made.rstrip('/')}/{self.path[len(made) :].lstrip('/').partition('/')[0]}"

    def sweep(self) -> None:
        """Remove what was being made, removed or replaced when an earlier process ended."""
        names = self._disk.names(self.path)
        for name in names:
            vdisk = name.removeprefix(_OLD)
            if vdisk != name and vdisk not in names:
                self._disk.replace(f"{self.path}/{name}", f"{self.path}/{vdisk}")
                self._disk.sync_folder(self.path)
            elif name.startswith((".new.", ".gone.", _OLD)):
                self._remove(f"{self.path}/{name}")

    def ids(self) -> list[str]:
        return sorted(id_of_folder(name) for name in self._disk.names(self.path) if name[0] != ".")

    def _at(self, vdisk: str) -> str:
        check_id(vdisk)
        return f"{self.path}/{folder_name(vdisk)}"

    def record(self, vdisk: str) -> Record:
        """NotFound; InvalidArgument when what is written down is damaged."""
        path = f"{self._at(vdisk)}/{RECORD}"
        try:
            data = read_whole(self._disk, path, _RECORD_BYTES_MAX)
        except FileNotFoundError as error:
            raise NotFound(f"vdisk {vdisk!r} does not exist") from error
        return decode(data, path)

    def _records(self) -> tuple[list[Record], list[str]]:
        """Of all vdisks, and the ids of those that are damaged."""
        records, damaged = [], []
        for vdisk in self.ids():
            try:
                records.append(self.record(vdisk))
            except (NodeError, OSError):
                damaged.append(vdisk)
        return records, damaged

    def numbers(self, pool: str) -> tuple[list[int], list[str]]:
        """Of all deduplicated vdisks in that pool; and the damaged vdisks, which may be in it as well."""
        records, damaged = self._records()
        return [one.number for one in records if one.storage == "dedup" and one.pool == pool], damaged

    def stray(self, vdisk: str) -> Mapping | None:
        """What a damaged vdisk refers to, whatever its pool; None for one that refers to nothing.

        Unavailable when nobody can know.
        """
        place = self._at(vdisk)
        names = self._disk.names(place)
        if INDEX in names:
            file = self._disk.open(f"{place}/{INDEX}")
            return Mapping(file, 0, file.size() // WIDTH)
        if any(name.startswith(_PARTS) for name in names):
            return None
        raise Unavailable(f"vdisk {vdisk!r} is damaged and has no index: nobody knows what it refers to")

    def create(self, record: Record) -> None:
        """An empty vdisk, or one that shows its template. AlreadyExists."""
        record.check()
        place = self._at(record.id)
        if os.path.basename(place) in self._disk.names(self.path):
            raise AlreadyExists(f"vdisk {record.id!r} exists")
        self._disk.replace(self._make_new(record), place)
        self._disk.sync_folder(self.path)
        if record.storage == "dedup":
            self.pools.made(record)

    def _make_new(self, record: Record) -> str:
        """The path of a finished folder, that takes a rename to be seen."""
        partial = self._free(".new.", record.id)
        self._disk.make_folder(partial)
        for name, size in _files(record, record.size):
            file = self._disk.open(f"{partial}/{name}", create=True)
            try:
                file.truncate(size)
                file.sync()
            finally:
                file.close()
        write_whole(self._disk, f"{partial}/{RECORD}", encode(record))
        return partial

    def renew(self, record: Record) -> Record:
        """Empty again, or showing its template only. A power loss leaves the old one or the new one."""
        renewed = msgspec.structs.replace(record, number=fresh_number() if record.number else 0)
        place, old = self._at(record.id), self._free(_OLD, record.id)
        made = self._make_new(renewed)
        self._forget(record.id)
        self._disk.replace(place, old)
        self._disk.replace(made, place)
        self._disk.sync_folder(self.path)
        if renewed.storage == "dedup":
            self.pools.made(renewed)
        self._remove(old)
        return renewed

    def open(self, record: Record, *, adopts: bool = True) -> "Parts | Volume":
        """The bytes of a vdisk; Unavailable when they are not as many as is written down.

        `adopts`: what it reads of its template becomes its own.
        """
        if record.storage == "dedup":
            return self._open_volume(record, adopts=adopts and not record.read_only)
        parts = Parts()
        try:
            self.open_more(record, parts)
        except BaseException:
            parts.close()
            raise
        return parts

    def _open_volume(self, record: Record, *, adopts: bool) -> Volume:
        if record.seal is not None:
            vdisk_key(self._key, record.seal, record.id)  # says which vdisk has another key
        template = self._template(record) if record.template else None
        name = record.pool

        def left() -> None:
            if template is not None:
                template.close()
            self.pools.release(name)

        try:
            pool = self.pools.acquire(name)
        except BaseException:
            if template is not None:
                template.close()
            raise
        try:
            mapping = pool.mapping(record.number)
            if mapping is None:
                raise Unavailable(f"{self._at(record.id)}/{INDEX}: missing")
        except BaseException:
            left()
            raise
        return Volume(pool, mapping, left, template=template, adopts=adopts)

    def _template(self, record: Record) -> DiskFile | None:
        """None when it cannot be opened: what shows it answers with errors then."""
        try:
            return self._open_plain(self.record(record.template), adopts=False)
        except (NodeError, OSError) as error:
            log.error("template cannot be read", vdisk=record.id, template=record.template, reason=str(error))
            return None

    def plain(self, record: Record, parts: "Parts | Volume", *, adopts: bool = True) -> DiskFile:
        """What clients see of the bytes. Unavailable without the right key, or what else it takes."""
        if isinstance(parts, Volume):
            return parts
        file: DiskFile = parts
        if record.seal is not None:
            file = EncryptedFile(parts, vdisk_key(self._key, record.seal, record.id))
        if record.template:
            return self._overlay(record, file, adopts=adopts and not record.read_only)
        return file

    def _overlay(self, record: Record, file: DiskFile, *, adopts: bool) -> Overlay:
        path = f"{self._at(record.id)}/{OWNED}"
        owned = Owned(self._disk.open(path), record.template_size // record.block_size)
        try:
            if owned.short():
                raise Unavailable(f"{path}: shorter than {file_size(owned.blocks)} bytes")
            template = self._template(record)
        except BaseException:
            owned.close()
            raise
        return Overlay(file, owned, template, record.block_size, adopts=adopts)

    def sealed(self, record: Record) -> Record:
        """The record with a new key. InvalidArgument without a master key."""
        if not self._key:
            raise InvalidArgument("encrypted: there is no key", hint="give a key file")
        seal = new_seal(self._key, shared=record.storage == "dedup")
        return msgspec.structs.replace(record, seal=seal)

    def open_more(self, record: Record, parts: "Parts | Volume") -> None:
        """Add the parts that `parts`, opened when the vdisk was smaller, does not have."""
        if isinstance(parts, Volume):
            parts.truncate(record.size)
            return
        place = self._at(record.id)
        for number, size in list(enumerate(part_sizes(record.size)))[len(parts) :]:
            file = self._disk.open(f"{place}/{_part(number)}")
            parts.add(file)
            if file.size() < size:
                raise Unavailable(f"{place}/{_part(number)}: shorter than {size} bytes")

    def grow(self, record: Record, size: int) -> Record:
        """Make room first, then write the new size down; a power loss leaves the old or the new size."""
        place = self._at(record.id)
        grown = msgspec.structs.replace(record, size=size)
        grown.check()
        if size < record.size:
            raise Conflict(f"size: {size} is less than the present {record.size} bytes")
        names = self._disk.names(place)
        for name, part in _files(record, size):
            file = self._disk.open(f"{place}/{name}", create=name not in names)
            try:
                if file.size() < part:
                    file.truncate(part)
                    file.sync()
            finally:
                file.close()
        self._disk.sync_folder(place)
        write_whole(self._disk, f"{place}/{RECORD}", encode(grown))
        if grown.storage == "dedup":
            self.pools.made(grown)
        return grown

    def save(self, record: Record) -> None:
        """Replace what is written down of a vdisk that exists."""
        write_whole(self._disk, f"{self._at(record.id)}/{RECORD}", encode(record))

    def delete(self, vdisk: str) -> None:
        """NotFound. It is gone when this returns, also after a power loss."""
        place = self._at(vdisk)
        if os.path.basename(place) not in self._disk.names(self.path):
            raise NotFound(f"vdisk {vdisk!r} does not exist")
        self._forget(vdisk)
        gone = self._free(".gone.", vdisk)
        self._disk.replace(place, gone)
        self._disk.sync_folder(self.path)
        self._remove(gone)

    def _free(self, prefix: str, vdisk: str) -> str:
        """A path beside a vdisk's, with nothing there."""
        path = f"{self.path}/{prefix}{folder_name(vdisk)}"
        if os.path.basename(path) in self._disk.names(self.path):
            self._remove(path)
        return path

    def _forget(self, vdisk: str) -> None:
        """The pool must not touch the files of a vdisk that goes."""
        with contextlib.suppress(InvalidArgument):  # a damaged one is nothing that a pool knows
            record = self.record(vdisk)
            if record.storage == "dedup":
                self.pools.gone(record)

    def _remove(self, path: str) -> None:
        for name in self._disk.names(path):
            self._disk.unlink(f"{path}/{name}")
        self._disk.remove_folder(path)

    def copy(self, source: Record, target: Record) -> None:
        """A new vdisk with the bytes of another one that nobody changes meanwhile; holes stay holes."""
        self.create(target)
        try:
            reader, writer = self._open_plain(source, adopts=False), self._open_plain(target)
            try:
                _copy(reader, writer, source.size)
                writer.sync()
            finally:
                reader.close()
                writer.close()
        except BaseException:
            with contextlib.suppress(OSError):
                self.delete(target.id)
            raise

    def _open_plain(self, record: Record, *, adopts: bool = True) -> DiskFile:
        parts = self.open(record, adopts=adopts)
        try:
            return self.plain(record, parts, adopts=adopts)
        except BaseException:
            parts.close()
            raise

    def used(self, record: Record) -> int:
        """Bytes that its own files really have on the disk."""
        place = self._at(record.id)
        return sum(os.stat(f"{place}/{name}").st_blocks * 512 for name, _ in _files(record, record.size))

    def problems(self, vdisk: str) -> list[str]:
        """What is wrong with a vdisk, for a person; nothing when it is whole."""
        try:
            record = self.record(vdisk)
            file = self._open_plain(record, adopts=False)
        except (NodeError, OSError) as error:
            return [str(error)]
        try:
            return _unreadable(file, record.size) + (
                list(file.problems()) if isinstance(file, Volume) else []
            )
        finally:
            file.close()


def _part(number: int) -> str:
    return f"{_PARTS}{number:03d}"


def _files(record: Record, size: int) -> list[tuple[str, int]]:
    """The names and sizes of a vdisk's files, if it has `size` bytes."""
    if record.storage == "dedup":
        return [(INDEX, size // record.block_size * WIDTH)]
    files = [(_part(number), part) for number, part in enumerate(part_sizes(size))]
    if record.template:
        files.append((OWNED, file_size(record.template_size // record.block_size)))
    return files


def _copy(reader: DiskFile, writer: DiskFile, size: int) -> None:
    buffer = memoryview(bytearray(_COPY_BYTES))
    for offset, length in _data(reader, size):
        view = buffer[:length]
        reader.read(offset, view)
        writer.write(offset, view)


def _data(file: DiskFile, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of pieces of what is no hole, each at most `_COPY_BYTES`."""
    offset = 0
    while offset < size:
        for length, data in file.extents(offset, size - offset, _EXTENTS):
            end = offset + length
            while data and offset < end:
                piece = min(_COPY_BYTES, end - offset)
                yield offset, piece
                offset += piece
            offset = end


def _unreadable(file: DiskFile, size: int) -> list[str]:
    problems = []
    buffer = memoryview(bytearray(_COPY_BYTES))
    for offset, length in _data(file, size):
        try:
            file.read(offset, buffer[:length])
        except OSError as error:
            problems.append(f"bytes {offset} to {offset + length}: {error.strerror}")
    return problems
