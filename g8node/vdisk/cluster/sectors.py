"""Which content each block of a deduplicated vdisk has (async): hashes in sectors of 128, cached.

A sector is written when a flush asks for it, or when too many are dirty. What could not be written stays
dirty. Only clean sectors leave the cache, and nothing is written for that. A sector that could not be read is
an error, never an empty sector.
"""

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from g8node.errors import Unavailable
from g8node.vdisk.cluster.fields import Fields
from g8node.vdisk.cluster.layout import HASH_BYTES, NO_HASH, NO_SECTOR, SECTOR_BYTES, SECTOR_HASHES

CACHE_BYTES: Final = 20 << 20
LATE_S: Final = 300.0
"""After so long content is looked for before its hash is written: a third of what collections wait."""
_WRITE_AT_ONCE: Final = 256


def clock() -> float:
    """Seconds, also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sectors:
    """At most `cache_bytes` of clean sectors, and half as many dirty ones before they are written."""

    def __init__(self, mirror: Fields, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._mirror = mirror
        self._most = max(2, cache_bytes // SECTOR_BYTES)
        self._cached: OrderedDict[int, bytearray] = OrderedDict()
        self._dirty: dict[int, int] = {}  # sector -> count of changes
        self._since: dict[int, float] = {}  # since when it is dirty
        self._fresh: dict[int, set[bytes]] = {}  # the hashes that it got meanwhile
        self._loading: dict[int, asyncio.Future[None]] = {}
        self._writing = asyncio.Lock()

    def peek(self, block: int) -> bytes | None:
        """The hash, if it is cached."""
        number = block // SECTOR_HASHES
        sector = self._cached.get(number)
        if sector is None:
            return None
        self._cached.move_to_end(number)
        return _hash_in(sector, block)

    async def hashes(self, blocks: Sequence[int]) -> dict[int, bytes | Unavailable]:
        """NO_HASH for a block that has no content."""
        found: dict[int, bytes | Unavailable] = {}
        missing: list[int] = []
        for block in blocks:
            hash = self.peek(block)
            if hash is None:
                missing.append(block)
            else:
                found[block] = hash
        while missing:
            failures = await self._load({block // SECTOR_HASHES for block in missing})
            left = []
            for block in missing:
                number = block // SECTOR_HASHES
                sector = self._cached.get(number)
                if sector is not None:
                    found[block] = _hash_in(sector, block)
                elif number in failures:
                    found[block] = failures[number]
                else:
                    left.append(block)  # it was loaded and left the cache again
            missing = left
            self._shrink()
        return found

    async def change(self, hashes: Mapping[int, bytes], since: float | None = None) -> dict[int, Unavailable]:
        """Failures; the other blocks have their new hashes, to be flushed.

        `since`: when their content began to be written, by `clock`.
        """
        since = clock() if since is None else since
        failures: dict[int, Unavailable] = {}
        if len(self._dirty) > self._most // 2:
            try:
                await self.flush()
            except Unavailable as error:
                return dict.fromkeys(hashes, error)
        left = dict(hashes)
        while left:
            for block in [one for one in left if one // SECTOR_HASHES in self._cached]:
                self._set(block, left.pop(block), since)
            broken = await self._load({block // SECTOR_HASHES for block in left}) if left else {}
            for block in [one for one in left if one // SECTOR_HASHES in broken]:
                failures[block] = broken[block // SECTOR_HASHES]
                del left[block]
        self._shrink()
        return failures

    def _set(self, block: int, hash: bytes, since: float) -> None:
        number, at = divmod(block, SECTOR_HASHES)
        self._cached[number][at * HASH_BYTES : (at + 1) * HASH_BYTES] = hash
        self._dirty[number] = self._dirty.get(number, 0) + 1
        self._since[number] = min(since, self._since.get(number, since))
        if hash != NO_HASH:
            self._fresh.setdefault(number, set()).add(hash)

    async def _load(self, numbers: Iterable[int]) -> dict[int, Unavailable]:
        """Have the sectors in the cache; failures. Nobody loads a sector that another is loading."""
        wanted = [number for number in numbers if number not in self._cached]
        others = [self._loading[number] for number in wanted if number in self._loading]
        mine = [number for number in wanted if number not in self._loading]
        failures: dict[int, Unavailable] = {}
        if mine:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._loading.update(dict.fromkeys(mine, done))
            try:
                for number, data in (await self._mirror.get(mine)).items():
                    if isinstance(data, Unavailable):
                        failures[number] = data
                    elif data is not None and len(data) != SECTOR_BYTES:
                        failures[number] = Unavailable(f"sector {number} has {len(data)} bytes")
                    else:
                        self._cached[number] = bytearray(data or NO_SECTOR)
            finally:
                for number in mine:
                    del self._loading[number]
                done.set_result(None)
        if others:
            await asyncio.wait(others)
        return failures

    def _shrink(self) -> None:
        """Let clean sectors go, those first that nobody asked for."""
        excess = len(self._cached) - self._most
        if excess > 0:
            clean = (number for number in self._cached if number not in self._dirty)
            for number in list(itertools.islice(clean, excess)):
                del self._cached[number]

    async def flush(self) -> None:
        """Everything that was changed before is on the servers when this returns. Unavailable."""
        async with self._writing:
            numbers = list(self._dirty)
            error: Unavailable | None = None
            for at in range(0, len(numbers), _WRITE_AT_ONCE):
                error = await self._write(numbers[at : at + _WRITE_AT_ONCE]) or error
        if error is not None:
            raise error

    async def _write(self, numbers: Sequence[int]) -> Unavailable | None:
        changes = {number: self._dirty[number] for number in numbers}
        images = {number: bytes(self._cached[number]) for number in numbers}
        late = self._late(numbers)
        if (lost := await self._collected(late)) is not None:
            return lost
        empty = [number for number, image in images.items() if image == NO_SECTOR]
        failures = await self._mirror.put({one: images[one] for one in numbers if images[one] != NO_SECTOR})
        failures |= await self._mirror.drop(empty)
        stood_still = set(self._late(numbers)) - set(late)
        if (lost := await self._collected(stood_still)) is not None:
            return lost
        for number, count in changes.items():
            if number not in failures and self._dirty[number] == count:
                del self._dirty[number]
                self._since.pop(number, None)
                self._fresh.pop(number, None)
        return next(iter(failures.values()), None)

    def _late(self, numbers: Iterable[int]) -> list[int]:
        """Sectors whose hashes could not be written for long: by then a collection may take their content."""
        now = clock()
        return [number for number in numbers if now - self._since.get(number, now) > LATE_S]

    async def _collected(self, numbers: Iterable[int]) -> Unavailable | None:
        """Why new hashes of some sectors name nothing: a collection took their content."""
        wanted: set[bytes] = set()
        for number in numbers:
            sector = self._cached[number]
            present = {bytes(sector[at : at + HASH_BYTES]) for at in range(0, SECTOR_BYTES, HASH_BYTES)}
            wanted |= self._fresh.get(number, set()) & present
        found = await self._mirror.get_contents(list(wanted)) if wanted else {}
        for hash, data in found.items():
            if isinstance(data, Unavailable):
                return data
            if data is None:
                return Unavailable(f"content {hash.hex()} was collected before its hash could be written")
        return None

    def inherit(self, before: "Sectors") -> None:
        """Those that are not written yet."""
        for number, (image, since, fresh) in before.dirty().items():
            self._cached[number] = bytearray(image)
            self._dirty[number] = 1
            self._since[number] = since
            self._fresh[number] = fresh

    def dirty(self) -> dict[int, tuple[bytes, float, set[bytes]]]:
        """The sectors that are not written yet, since when, and the hashes that are new in them."""
        return {
            number: (bytes(self._cached[number]), self._since[number], self._fresh.get(number, set()))
            for number in self._dirty
        }


def _hash_in(sector: bytearray, block: int) -> bytes:
    at = block % SECTOR_HASHES * HASH_BYTES
    return bytes(sector[at : at + HASH_BYTES])
