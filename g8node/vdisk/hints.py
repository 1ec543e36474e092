"""Where a content may be found (blocking): a hash table on disk from digests to slots, of hints only.

Whoever gets a slot asks the slot's own entry whether it is true. So nothing here is ever synced, and what a
power loss leaves is as good as any: a lost hint costs the space of a second copy.

    hints     page 0: magic, number of buckets, of hints; page N: bucket N - 1, up to 255 of [prefix][slot]

Linear hashing (Litwin, VLDB 1980): one bucket is split at a time, so that growth never stops anybody.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from g8node.linux.diskfile import DiskFile
from g8node.wire.kernels import blank

_PAGE: Final = 4096
_PAIR: Final = struct.Struct("<8sQ")
_NUMBER: Final = struct.Struct("<Q")
_STATE: Final = struct.Struct("<8sQQ")
_MAGIC: Final = b"g8hints1"
_FULL: Final = _PAGE // _PAIR.size - 1
_LOAD: Final = 160
"""Hints a bucket on average, beyond which one is split."""
_AT_ONCE: Final = 256
"""Pages in memory, of those that are looked up together."""


def _end(page: bytearray) -> int:
    """Where the pairs of a bucket's page end."""
    return int(min(_NUMBER.unpack_from(page)[0], _FULL) + 1) * _PAIR.size


def _slots(digest: bytes, page: bytearray, end: int) -> list[int]:
    prefix = digest[:8]
    found = []
    at = page.find(prefix, _PAIR.size, end)
    while at >= 0:
        if at % _PAIR.size == 0:
            found.append(_PAIR.unpack_from(page, at)[1])
        at = page.find(prefix, at + 1, end)
    return found[::-1]


class Hints:
    """See the module. One thread at a time adds; others may look meanwhile, and may miss what moves."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        page = bytearray(_STATE.size)
        file.read(0, memoryview(page))
        magic, buckets, count = _STATE.unpack(page)
        fits = magic == _MAGIC and 0 < buckets <= max(1, file.size() // _PAGE)
        self._buckets: int = buckets if fits else 1
        self._count: int = count if fits else 0

    def close(self) -> None:
        self._file.close()

    def _bucket(self, digest: bytes) -> int:
        """Of a digest, or of a pair."""
        number = _NUMBER.unpack_from(digest)[0]
        round_ = 1 << (self._buckets.bit_length() - 1)
        bucket = number & (round_ - 1)
        return int(number & (2 * round_ - 1) if bucket < self._buckets - round_ else bucket)

    def _page(self, bucket: int) -> tuple[bytearray, int]:
        """A bucket's page, and where its pairs end."""
        page = bytearray(_PAGE)
        self._file.read((bucket + 1) * _PAGE, memoryview(page))
        return page, _end(page)

    def _read(self, bucket: int) -> bytes:
        """Its pairs."""
        page, end = self._page(bucket)
        return bytes(page[_PAIR.size : end])

    def _write(self, bucket: int, pairs: bytes) -> None:
        pairs = pairs[-_FULL * _PAIR.size :]  # the oldest give way
        head = (len(pairs) // _PAIR.size).to_bytes(_PAIR.size, "little")
        self._file.write((bucket + 1) * _PAGE, (head + pairs).ljust(_PAGE, b"\0"))

    def find(self, digest: bytes) -> list[int]:
        """Slots that may hold the content, the newest first."""
        return _slots(digest, *self._page(self._bucket(digest)))

    def find_many(self, digests: Sequence[bytes]) -> dict[bytes, list[int]]:
        """`find` for each."""
        found: dict[bytes, list[int]] = {}
        for start in range(0, len(digests), _AT_ONCE):
            found |= self._find_some(digests[start : start + _AT_ONCE])
        return found

    def _find_some(self, digests: Sequence[bytes]) -> dict[bytes, list[int]]:
        pages = [blank(_PAGE) for _ in digests]
        reads = [
            ((self._bucket(digest) + 1) * _PAGE, memoryview(page))
            for digest, page in zip(digests, pages, strict=True)
        ]
        done = self._file.read_many_now(reads)
        return {
            digest: _slots(digest, page, _end(page)) if is_done else self.find(digest)
            for digest, page, is_done in zip(digests, pages, done, strict=True)
        }

    def add(self, items: Iterable[tuple[bytes, int]]) -> None:
        """Digests and their slots."""
        table: dict[int, list[bytes]] = {}
        for digest, slot in items:
            pair = _PAIR.pack(digest[:8], slot)
            bucket = self._bucket(pair)
            if bucket in table:
                table[bucket].append(pair)
            else:
                table[bucket] = [pair]
        for bucket, pairs in table.items():
            self._write(bucket, self._read(bucket) + b"".join(pairs))
            self._count += len(pairs)
        while self._count > self._buckets * _LOAD:
            self._split()
        self._file.write(0, _STATE.pack(_MAGIC, self._buckets, self._count))

    def _split(self) -> None:
        old = self._buckets - (1 << (self._buckets.bit_length() - 1))
        pairs = self._read(old)
        self._buckets += 1
        stay: list[bytes] = []
        go: list[bytes] = []
        for at in range(0, len(pairs), _PAIR.size):
            pair = pairs[at : at + _PAIR.size]
            (stay if self._bucket(pair) == old else go).append(pair)
        self._write(self._buckets - 1, b"".join(go))
        self._write(old, b"".join(stay))

    @property
    def buckets(self) -> int:
        return self._buckets

    def drop(self, bucket: int, is_dead: Callable[[int], bool]) -> None:
        """Forget the hints of a bucket that lead to dead slots."""
        pairs = self._read(bucket)
        kept = [
            pairs[at : at + _PAIR.size]
            for at in range(0, len(pairs), _PAIR.size)
            if not is_dead(_PAIR.unpack_from(pairs, at)[1])
        ]
        gone = len(pairs) // _PAIR.size - len(kept)
        if gone:
            self._write(bucket, b"".join(kept))
            self._count = max(0, self._count - gone)
