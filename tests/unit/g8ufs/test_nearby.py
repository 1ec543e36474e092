"""What is around a missing chunk is fetched with it, and more of it for who reads on."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from g8node.flist.plan import ImagePlan, SlotTable
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.fetch import Fetcher
from g8node.g8ufs.nearby import Nearby
from g8node.g8ufs.segments import Key
from g8node.wire.flist import Codec
from tests.support.chunks import some_refs
from tests.support.faults import FaultyStore

SIZE = 10_000
REFS = some_refs(200, size=SIZE)


def plan_of() -> ImagePlan:
    slots = SlotTable(
        starts=array("Q", range(0, 12288 * len(REFS), 12288)),
        sizes=array("I", [SIZE] * len(REFS)),
        names_at=array("I", [0] * len(REFS)),
        codecs=bytes([Codec.G8]) * len(REFS),
        ids=b"".join(ref.id for ref, _, _ in REFS),
        keys=b"".join(ref.key for ref, _, _ in REFS),
        names=b"file\0",
    )
    return ImagePlan("", 0, slots, {})


class Image:
    """An image of 200 chunks of 10,000 bytes, none of them local; 20 are fetched around the first."""

    def __init__(self, cache: ChunkCache, fetcher: Fetcher, *, first_bytes: int = 20 * SIZE) -> None:
        self.store = FaultyStore({ref.id: stored for ref, stored, _ in REFS})
        self.cache = cache
        self.nearby = Nearby(plan_of(), self.store, cache, fetcher, first_bytes=first_bytes)
        self._fetcher = fetcher

    async def read(self, slot: int) -> None:
        self.nearby.read(slot, slot)
        ref = REFS[slot][0]
        if await self.cache.get_many([Key(ref.id, ref.key)]) == [None]:
            self.nearby.missed(slot)
            await self._fetcher.get(self.store, ref)
        await asyncio.gather(*self.nearby._tasks)
        await self._fetcher.settled()

    @property
    def local(self) -> list[int]:
        return [slot for slot, (ref, _, _) in enumerate(REFS) if self.cache.has(ref.id)]


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ChunkCache]:
    opened = await ChunkCache.open(str(tmp_path), 16 << 20)
    yield opened
    await opened.close()


@pytest.fixture
async def fetcher(cache: ChunkCache) -> AsyncIterator[Fetcher]:
    made = Fetcher(cache, budget_bytes=8 << 20, time_limit_s=600)
    yield made
    await made.close()


async def test_a_missing_chunk_brings_what_is_around_it(cache: ChunkCache, fetcher: Fetcher) -> None:
    image = Image(cache, fetcher)
    await image.read(100)
    assert image.local == list(range(90, 111))
    assert len(image.store.calls) == 2  # the reader's own chunk first, alone


async def test_who_reads_on_gets_twice_as_much_each_time(cache: ChunkCache, fetcher: Fetcher) -> None:
    image = Image(cache, fetcher)
    for slot in (0, 1, 5):
        await image.read(slot)
    assert image.local == list(range(11))
    await image.read(6)
    assert image.local == list(range(51))
    await image.read(31)
    assert image.local == list(range(131))
    asked = [id for call in image.store.calls for id in call]
    assert len(asked) == len(set(asked))


async def test_ends_of_the_image_are_no_obstacle(cache: ChunkCache, fetcher: Fetcher) -> None:
    image = Image(cache, fetcher)
    await image.read(199)
    await image.read(3)
    assert image.local == [*range(14), *range(189, 200)]


async def test_nothing_is_fetched_when_it_is_off(cache: ChunkCache, fetcher: Fetcher) -> None:
    image = Image(cache, fetcher, first_bytes=0)
    for slot in (7, 8, 9):
        await image.read(slot)
    assert image.local == [7, 8, 9]


async def test_what_fails_around_is_nobodys_failure(cache: ChunkCache, fetcher: Fetcher) -> None:
    image = Image(cache, fetcher)
    del image.store.chunks[REFS[101][0].id]
    await image.read(100)
    assert 101 not in image.local
    assert len(image.local) == 20


async def test_close_ends_what_is_under_way(cache: ChunkCache, fetcher: Fetcher) -> None:
    image = Image(cache, fetcher)
    image.store.fault = "hang"
    image.nearby.missed(100)
    await asyncio.sleep(0.01)
    await image.nearby.close()
    assert image.local == []
