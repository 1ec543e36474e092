"""The cache of hashes: nothing is lost by it, and it writes only what changed."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import pytest

from g8node.errors import Unavailable
from g8node.vdisk.cluster import sectors as sectors_module
from g8node.vdisk.cluster.layout import NO_HASH, SECTOR_BYTES, SECTOR_HASHES
from g8node.vdisk.cluster.mirror import Mirror
from g8node.vdisk.cluster.sectors import Sectors

HASH = b"h" * 32


class Fields:
    """A mirror's hash in memory, which fails on demand."""

    def __init__(self) -> None:
        self.held: dict[int, bytes] = {}
        self.contents: dict[bytes, bytes] = {}
        self.broken = False
        self.puts: list[int] = []
        self.drops: list[int] = []

    def _failures(self, fields: Iterable[int]) -> dict[int, Any]:
        return dict.fromkeys(fields, Unavailable("broken")) if self.broken else {}

    async def get(self, fields: Sequence[int]) -> dict[int, Any]:
        await asyncio.sleep(0)
        return self._failures(fields) or {field: self.held.get(field) for field in fields}

    async def put(self, fields: Mapping[int, bytes]) -> dict[int, Any]:
        await asyncio.sleep(0)
        if not self.broken:
            self.held |= fields
            self.puts += fields
        return self._failures(fields)

    async def get_contents(self, hashes: Sequence[bytes]) -> dict[bytes, bytes | None]:
        return {hash: self.contents.get(hash) for hash in hashes}

    async def drop(self, fields: Iterable[int]) -> dict[int, Any]:
        gone = list(fields)
        if not self.broken:
            self.drops += gone
            for field in gone:
                self.held.pop(field, None)
        return self._failures(gone)


def sectors_on(fields: Fields, count: int = 4) -> Sectors:
    return Sectors(cast(Mirror, fields), cache_bytes=count * SECTOR_BYTES)


def block(sector: int) -> int:
    return sector * SECTOR_HASHES


async def test_sector_that_cannot_be_read_is_an_error_and_never_written() -> None:
    fields = Fields()
    fields.held[0] = HASH * SECTOR_HASHES
    fields.broken = True
    sectors = sectors_on(fields)
    assert isinstance((await sectors.hashes([0]))[0], Unavailable)
    assert isinstance((await sectors.change({0: NO_HASH}))[0], Unavailable)
    fields.broken = False
    await sectors.flush()
    assert (fields.puts, fields.drops) == ([], [])
    assert (await sectors.hashes([0]))[0] == HASH


async def test_clean_sectors_leave_the_cache_without_being_written() -> None:
    fields = Fields()
    sectors = sectors_on(fields)
    for number in range(50):
        await sectors.hashes([block(number)])
    assert (fields.puts, fields.drops) == ([], [])
    assert sectors.peek(block(0)) is None
    assert sectors.peek(block(49)) == NO_HASH


async def test_failed_flush_keeps_all_that_is_not_written() -> None:
    fields = Fields()
    sectors = sectors_on(fields, 100)
    await sectors.change({block(number): HASH for number in range(20)})
    fields.broken = True
    with pytest.raises(Unavailable):
        await sectors.flush()
    assert len(sectors.dirty()) == 20
    fields.broken = False
    await sectors.flush()
    assert sorted(fields.held) == list(range(20))
    assert sectors.dirty() == {}


async def test_dirty_sectors_stay_when_they_cannot_be_written() -> None:
    fields = Fields()
    sectors = sectors_on(fields)
    failed = 0
    for number in range(20):
        fields.broken = False
        await sectors.hashes([block(number)])
        fields.broken = True
        failed += len(await sectors.change({block(number): HASH}))
    kept = sectors.dirty()
    assert failed > 0  # back-pressure, not loss
    assert len(kept) + failed == 20
    fields.broken = False
    await sectors.flush()
    assert fields.held == {number: image for number, (image, _, _) in kept.items()}


async def test_empty_sector_is_removed() -> None:
    fields = Fields()
    fields.held[3] = HASH + bytes(SECTOR_BYTES - 32)
    sectors = sectors_on(fields)
    await sectors.change({block(3): NO_HASH})
    await sectors.flush()
    assert fields.held == {}


async def test_many_at_once_lose_no_change() -> None:
    fields = Fields()
    sectors = sectors_on(fields)

    async def one(number: int) -> None:
        assert await sectors.change({block(number % 10) + number: HASH}) == {}

    await asyncio.gather(*(one(number) for number in range(100)))
    await sectors.flush()
    for number in range(100):
        at = number * 32
        assert fields.held[number % 10][at : at + 32] == HASH


async def test_hash_that_waited_for_long_is_written_only_if_its_content_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A collection may have taken it meanwhile."""
    fields = Fields()
    sectors = sectors_on(fields)
    await sectors.change({block(1): HASH, block(2): b"g" * 32})
    monkeypatch.setattr(sectors_module, "LATE_S", -1.0)
    fields.contents = {b"g" * 32: b"data"}
    with pytest.raises(Unavailable, match=f"{HASH.hex()} was collected"):
        await sectors.flush()
    assert fields.puts == []
    fields.contents[HASH] = b"data"
    await sectors.flush()
    assert sorted(fields.puts) == [1, 2]
    fields.contents = {}
    await sectors.change({block(3): HASH})
    await sectors.change({block(3): NO_HASH})
    await sectors.flush()


async def test_hash_that_was_written_late_by_a_process_that_stood_still_is_looked_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the look for its content and the writing of the hash."""
    fields = Fields()
    sectors = sectors_on(fields)
    await sectors.change({block(1): HASH})
    put = fields.put

    async def slow(given: Mapping[int, bytes]) -> dict[int, Any]:
        now = sectors_module.clock()
        monkeypatch.setattr(sectors_module, "clock", lambda: now + 1000)
        return await put(given)

    monkeypatch.setattr(fields, "put", slow)
    with pytest.raises(Unavailable, match="was collected"):
        await sectors.flush()
    fields.contents = {HASH: b"data"}
    await sectors.flush()
