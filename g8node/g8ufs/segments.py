"""The chunk cache on disk: a log of verified plain chunks in segment files (blocking, thread-safe).

Ten thousand small chunks as files would cost ten thousand inodes to read cold; here they lie side by side in
the order in which they were fetched, and neighbours are read with one call. A segment is

    header   8s magic "g8seg1\\0\\0", 32s random key of this segment's checks
    records  16s tag, u32 magic, u32 size, 32s chunk id, 32s chunk key, `size` plain bytes; padded to 8

The tag is GMAC (AES-256-GCM without plain text) under the segment's key over everything after it in the
record, with the record's offset as nonce: offsets are never written twice, so nonces never repeat. A record
is written only after the chunk was verified, and the tag is checked on **every** read, so a torn write, a
bit flip or a stray writer costs a refetch and is never served. Nothing is synced: after a power loss the
tags find what was lost. A full segment is sealed with a `.idx` file (ids, offsets, sizes, checksum); one
without it is scanned at start and never appended to again. Eviction drops whole segments, the least
recently read first.
"""

import contextlib
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from g8node.errors import Exhausted, Unavailable
from g8node.g8ufs.pins import Pins
from g8node.linux.guard import off_loop
from g8node.linux.nowait import in_memory, pread_now

SEGMENT_BYTES: Final = 64 << 20
_FILE: Final = struct.Struct("<8s32s")
_FILE_MAGIC: Final = b"g8seg1\0\0"
_RECORD: Final = struct.Struct("<16sII32s32s")
_RECORD_MAGIC: Final = 0x6B633867
_INDEX: Final = struct.Struct("<32sII")
_INDEX_MAGIC: Final = b"g8idx1\0\0"
_TAG: Final = 16
_DIGEST: Final = 32
_SIZE_MAX: Final = 16 << 20
_GAP_MAX: Final = 32 << 10
"""Two records this near each other are read with one call."""
_RUN_MAX: Final = 2 << 20


class Key(NamedTuple):
    """What a cached chunk is asked for by: who knows the id but not the key must not get the plain text."""

    id: bytes
    key: bytes


class Place(NamedTuple):
    """Where a record lies."""

    segment: int
    offset: int
    size: int

    @property
    def length(self) -> int:
        """Bytes of the record without padding."""
        return _RECORD.size + self.size


def _padded(length: int) -> int:
    return -(-length // 8) * 8


def _prefix(chunk: bytes) -> int:
    """Index key: a collision costs a refetch, since the record holds the whole id."""
    return int.from_bytes(chunk[:8], "little")


class Segment:
    """One open segment file. The descriptor lives until the last reader lets the object go."""

    def __init__(self, path: str, fd: int, secret: bytes, size: int, *, sealed: bool) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.sealed = sealed
        self.used = 0
        self.memory = in_memory(fd)
        self.places: list[tuple[bytes, int, int]] = []
        """(id, offset, size) of what was appended; kept until the segment is sealed."""
        self._aead = AESGCM(secret)

    def __del__(self) -> None:
        os.close(self.fd)

    @classmethod
    def create(cls, path: str) -> "Segment":
        """OSError (no space) leaves no file: its name is tried again."""
        secret = os.urandom(32)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        made = cls(path, fd, secret, _FILE.size, sealed=False)
        try:
            os.pwrite(fd, _FILE.pack(_FILE_MAGIC, secret), 0)
        except OSError:
            os.unlink(path)
            raise
        return made

    @classmethod
    def open(cls, path: str) -> "Segment | None":
        """None when it is no segment."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        header = os.pread(fd, _FILE.size, 0)
        if len(header) < _FILE.size or header[:8] != _FILE_MAGIC:
            os.close(fd)
            return None
        return cls(path, fd, _FILE.unpack(header)[1], os.fstat(fd).st_size, sealed=True)

    def tag(self, offset: int, record: bytes | memoryview) -> bytes:
        """The check of a record whose first byte lies at `offset`."""
        return self._aead.encrypt(offset.to_bytes(12, "little"), b"", memoryview(record)[_TAG:])

    def encode(self, offset: int, wanted: Key, plain: bytes) -> bytes:
        body = _RECORD.pack(bytes(_TAG), _RECORD_MAGIC, len(plain), wanted.id, wanted.key) + plain
        return self.tag(offset, body) + body[_TAG:] + bytes(_padded(len(body)) - len(body))

    def decode(self, offset: int, record: memoryview, wanted: Key) -> bytes | None:
        """The plain chunk; None when the record is damaged or another chunk's."""
        if len(record) < _RECORD.size:
            return None
        tag, magic, size, chunk, key = _RECORD.unpack_from(record)
        if (magic, size, chunk, key) != (_RECORD_MAGIC, len(record) - _RECORD.size, wanted.id, wanted.key):
            return None
        if self.tag(offset, record) != tag:
            return None
        return bytes(record[_RECORD.size :])

    def scan(self) -> Iterable[tuple[bytes, int, int]]:
        """(id, offset, size) of the records as their headers tell; stops where they make no sense."""
        offset = _FILE.size
        while offset + _RECORD.size <= self.size:
            _, magic, size, chunk, _ = _RECORD.unpack(os.pread(self.fd, _RECORD.size, offset))
            end = offset + _RECORD.size + size
            if magic != _RECORD_MAGIC or size > _SIZE_MAX or end > self.size:
                return
            yield chunk, offset, size
            offset = _padded(end)

    def seal(self) -> None:
        """Write the index file and forget the list. Without it (no space) the next start scans."""
        with contextlib.suppress(OSError):
            _write_index(self.path, self.places)
        self.places = []
        self.sealed = True


def _write_index(path: str, places: Sequence[tuple[bytes, int, int]]) -> None:
    data = _INDEX_MAGIC + b"".join(_INDEX.pack(*place) for place in places)
    with open(f"{path}.tmp", "wb") as out:
        out.write(data + hashlib.blake2b(data, digest_size=_DIGEST).digest())
    os.rename(f"{path}.tmp", f"{path}.idx")


def _read_index(path: str) -> Iterable[tuple[bytes, int, int]] | None:
    try:
        with open(f"{path}.idx", "rb") as source:
            data = source.read()
    except FileNotFoundError:
        return None
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest or body[:8] != _INDEX_MAGIC:
        return None
    return _INDEX.iter_unpack(body[8:])


@off_loop
def owner(directory: str) -> int:
    """The process that has the folder open, or had it last; 0 when nobody says."""
    try:
        with open(f"{directory}/lock", "rb") as file:
            said = file.read(20)
    except FileNotFoundError:
        return 0
    return int(said) if said.isdigit() else 0


class SegmentLog:
    """All segments of one folder and the index over them. One process at a time."""

    @off_loop
    def __init__(self, directory: str, budget_bytes: int) -> None:
        """Raises Unavailable when another process has the folder open."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self._budget = budget_bytes
        self._segment_max = min(SEGMENT_BYTES, max(budget_bytes // 8, 1 << 16))
        self._segments: dict[int, Segment] = {}
        self._index: dict[int, int] = {}
        self._lock = threading.Lock()
        self._clock = 0
        self._next = 1
        self._tail: Segment | None = None
        self.pins = Pins(f"{directory}/pins")
        self._owner = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._owner)
            raise Unavailable(f"chunk cache {directory} is used by another process") from None
        with contextlib.suppress(OSError):  # no space: what is cached can be read all the same
            os.ftruncate(self._owner, 0)
            os.pwrite(self._owner, b"%d" % os.getpid(), 0)
        self._load()

    def _load(self) -> None:
        names = sorted(name for name in os.listdir(self._directory) if name.endswith(".seg"))
        for name in names:
            path = f"{self._directory}/{name}"
            segment = Segment.open(path)
            if segment is None or not name[:-4].isdecimal():
                os.unlink(path)
                continue
            number = int(name[:-4])
            places = _read_index(path)
            if places is None:
                places = list(segment.scan())
                with contextlib.suppress(OSError):
                    _write_index(path, places)
            for chunk, offset, size in places:
                self._index[_prefix(chunk)] = _pack(number, offset, size)
            self._segments[number] = segment
            self._next = max(self._next, number + 1)
        self._evict()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in tuple(self._segments.values()))

    @property
    def budget_bytes(self) -> int:
        return self._budget

    def has(self, chunk: bytes) -> bool:
        """Whether a record is indexed; cheap, may run on the loop. The record may still prove damaged."""
        return _prefix(chunk) in self._index

    def read_now(self, wanted: Key, size_max: int) -> bytes | None:
        """The chunk if it lies in the page cache and has at most size_max bytes: never waits for a disk.

        BlockingIOError when a disk would have to be read, or the chunk is larger. None: not cached.
        """
        packed = self._index.get(_prefix(wanted.id))
        if packed is None:
            return None
        number, offset, size = place = _unpack(packed)
        segment = self._segments.get(number)
        if segment is None:
            return None
        if size > size_max:
            raise BlockingIOError
        record = pread_now(segment.fd, place.length, offset, memory=segment.memory)
        return self._checked(segment, place, memoryview(record), wanted)

    @off_loop
    def read_many(self, wanted: Sequence[Key]) -> list[bytes | None]:
        """The chunks in the order asked; None for each that is not there or does not pass its check."""
        found: list[bytes | None] = [None] * len(wanted)
        placed: list[tuple[Place, int]] = []
        for at, key in enumerate(wanted):
            packed = self._index.get(_prefix(key.id))
            if packed is not None:
                placed.append((_unpack(packed), at))
        placed.sort()
        for run in _runs(placed):
            segment = self._segments.get(run[0][0].segment)
            if segment is None:
                continue
            start = run[0][0].offset
            last = run[-1][0]
            with contextlib.suppress(OSError):  # a bad sector: those chunks are fetched again
                data = memoryview(os.pread(segment.fd, last.offset + last.length - start, start))
                for place, at in run:
                    record = data[place.offset - start :][: place.length]
                    found[at] = self._checked(segment, place, record, wanted[at])
        return found

    def _checked(self, segment: Segment, place: Place, record: memoryview, wanted: Key) -> bytes | None:
        plain = segment.decode(place.offset, record, wanted)
        if plain is None:
            # Asked for with a wrong key is no damage; a record that fails its own check is.
            self._drop(segment, place, record, wanted)
            return None
        self._clock += 1
        segment.used = self._clock
        return plain

    def _drop(self, segment: Segment, place: Place, record: memoryview, wanted: Key) -> None:
        sound = len(record) == place.length and segment.tag(place.offset, record) == record[:_TAG]
        with self._lock:
            if not sound and self._index.get(_prefix(wanted.id)) == _pack(*place):
                del self._index[_prefix(wanted.id)]

    @off_loop
    def append(self, chunks: Sequence[tuple[Key, bytes]]) -> None:
        """Add verified chunks; present ones are skipped. OSError (no space) leaves the log usable."""
        with self._lock:
            for key, plain in chunks:
                if _prefix(key.id) not in self._index and len(plain) <= min(_SIZE_MAX, self._budget // 4):
                    self._append(key, plain)

    def _append(self, key: Key, plain: bytes) -> None:
        segment = self._room(_RECORD.size + len(plain))
        offset = segment.size
        record = segment.encode(offset, key, plain)
        segment.size += len(record)  # a failed write leaves a hole; its offset is not used again
        if os.pwrite(segment.fd, record, offset) == len(record):
            segment.places.append((key.id, offset, len(plain)))
            self._index[_prefix(key.id)] = _pack(self._next - 1, offset, len(plain))

    def _room(self, length: int) -> Segment:
        tail = self._tail
        if tail is None or tail.size + length > self._segment_max:
            if tail is not None:
                tail.seal()
                self._tail = None  # now: sealed again, should no new one be made, it would lose its index
            tail = Segment.create(f"{self._directory}/{self._next:08d}.seg")
            self._tail = self._segments[self._next] = tail
            self._next += 1
            self._clock += 1
            tail.used = self._clock
            self._evict()
        return self._tail or tail

    def _evict(self) -> None:
        """Drop the least recently read segments until a new one fits into the budget.

        Pinned chunks move to the end of the log first. A segment that holds little else is passed over, or
        its chunks would be copied again and again; pins cover half of the budget, so there is another.
        """
        while len(self._segments) > 1 and self.size_bytes + self._segment_max > self._budget:
            candidates = [(s.used, number) for number, s in self._segments.items() if s is not self._tail]
            if not self._drop_one(sorted(candidates)):
                return

    def _drop_one(self, candidates: list[tuple[int, int]]) -> bool:
        for _, number in candidates:
            pinned = [prefix for prefix in self._in(number) if prefix in self.pins]
            size = sum(_unpack(self._index[prefix]).length for prefix in pinned)
            if size <= self._segments[number].size // 2:
                self._drop_segment(number, pinned)
                return True
        return False

    def _in(self, number: int) -> list[int]:
        return [prefix for prefix, at in self._index.items() if at >> 64 == number]

    def _drop_segment(self, number: int, pinned: Sequence[int]) -> None:
        segment = self._segments.pop(number)
        moved = [self._record(segment, _unpack(self._index[prefix])) for prefix in pinned]
        for prefix in self._in(number):
            del self._index[prefix]
        for name in (segment.path, f"{segment.path}.idx", f"{segment.path}.tmp"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        for found in moved:
            if found is not None:
                self._append(*found)

    def _record(self, segment: Segment, place: Place) -> tuple[Key, bytes] | None:
        """A whole record by its place; None when it is damaged."""
        with contextlib.suppress(OSError):
            record = memoryview(os.pread(segment.fd, place.length, place.offset))
            if len(record) == place.length and segment.tag(place.offset, record) == record[:_TAG]:
                _, _, _, chunk, key = _RECORD.unpack_from(record)
                return Key(chunk, key), bytes(record[_RECORD.size :])
        return None

    @off_loop
    def pin(self, name: str, chunks: Sequence[tuple[bytes, int]]) -> None:
        """Never evict these chunks (id, plain size), whether they are here already or not.

        Exhausted when pinned chunks would take more than half of the budget.
        """
        size = sum(_RECORD.size + plain for _, plain in chunks)
        with self._lock:
            others = sum(_unpack(at).length for prefix, at in self._index.items() if prefix in self.pins)
            if size + (0 if name in self.pins.names() else others) > self._budget // 2:
                raise Exhausted(
                    f"{size} bytes do not fit: pins may take half of the cache's {self._budget} bytes",
                    hint="raise g8ufs.cache_bytes, or unpin another flist",
                )
            self.pins.add(name, (_prefix(chunk) for chunk, _ in chunks))

    @off_loop
    def unpin(self, name: str) -> bool:
        """False when nothing is pinned by that name."""
        with self._lock:
            return self.pins.remove(name)

    @off_loop
    def clear(self) -> int:
        """Drop every chunk that is not pinned; the bytes that became free."""
        with self._lock:
            before = self.size_bytes
            if self._tail is not None:
                self._tail.seal()
                self._tail = None
            for number in list(self._segments):
                self._drop_segment(number, [prefix for prefix in self._in(number) if prefix in self.pins])
            return max(before - self.size_bytes, 0)

    @off_loop
    def resize(self, budget_bytes: int) -> None:
        """Another budget from now on; what is too much goes."""
        with self._lock:
            self._budget = budget_bytes
            self._evict()

    @off_loop
    def close(self) -> None:
        """Seal the last segment, so that the next start need not scan it."""
        with self._lock:
            if self._tail is not None:
                self._tail.seal()
            self._tail = None
            self._segments.clear()
            self._index.clear()
            os.close(self._owner)


def _pack(segment: int, offset: int, size: int) -> int:
    return segment << 64 | offset << 32 | size


def _unpack(packed: int) -> Place:
    return Place(packed >> 64, packed >> 32 & 0xFFFFFFFF, packed & 0xFFFFFFFF)


def _runs(placed: Sequence[tuple[Place, int]]) -> Iterable[list[tuple[Place, int]]]:
    """Group sorted places into runs that one pread covers."""
    run: list[tuple[Place, int]] = []
    for item in placed:
        place = item[0]
        if run:
            first, last = run[0][0], run[-1][0]
            near = place.segment == last.segment and place.offset - last.offset - last.length <= _GAP_MAX
            if not near or place.offset + place.length - first.offset > _RUN_MAX:
                yield run
                run = []
        run.append(item)
    if run:
        yield run
