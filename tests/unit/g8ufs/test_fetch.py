"""Fetching: one flight a chunk, batches, limits, and nothing unverified."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from g8node.errors import DeadlineExceeded, NotFound, Unavailable
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.fetch import BATCH_COUNT, ByteBudget, Fetcher
from g8node.g8ufs.segments import Key
from g8node.ids import ChunkId
from tests.support.chunks import some_refs
from tests.support.faults import FaultyStore


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


REFS = some_refs(3)
MANY = some_refs(2 * BATCH_COUNT + 10, size=20)


def store_of() -> FaultyStore:
    return FaultyStore({ref.id: stored for ref, stored, _ in (*REFS, *MANY)})


async def test_fetch_gives_the_plain_chunk_and_caches_it(cache: ChunkCache, fetcher: Fetcher) -> None:
    ref, _, plain = REFS[0]
    assert await fetcher.get(store_of(), ref) == plain
    assert await cache.get_many([Key(ref.id, ref.key)]) == [plain]


async def test_fetch_of_one_chunk_is_one_flight(fetcher: Fetcher) -> None:
    store = store_of()
    ref, _, plain = REFS[0]
    assert await asyncio.gather(*(fetcher.get(store, ref) for _ in range(20))) == [plain] * 20
    assert store.calls == [[ref.id]]


async def test_chunk_that_just_came_is_not_fetched_again(fetcher: Fetcher) -> None:
    store = store_of()
    ref, _, plain = REFS[0]
    for _ in range(2):
        assert await fetcher.get(store, ref) == plain
        await fetcher.settled()
    assert store.calls == [[ref.id]]


async def test_fetches_of_one_turn_are_batches(fetcher: Fetcher) -> None:
    store = store_of()
    got = await asyncio.gather(*(fetcher.get(store, ref) for ref, _, _ in MANY))
    assert got == [plain for _, _, plain in MANY]
    assert [len(call) for call in store.calls] == [BATCH_COUNT, BATCH_COUNT, 10]


async def test_fetch_refuses_a_corrupt_chunk(cache: ChunkCache, fetcher: Fetcher) -> None:
    store = store_of()
    store.fault = "corrupt"
    ref = REFS[0][0]
    with pytest.raises(Unavailable, match="wrong chunk"):
        await fetcher.get(store, ref)
    assert await cache.get_many([Key(ref.id, ref.key)]) == [None]


async def test_fetch_of_an_absent_chunk_is_not_found(fetcher: Fetcher) -> None:
    with pytest.raises(NotFound):
        await fetcher.get(FaultyStore(), REFS[0][0])


async def test_fetch_notices_what_the_store_did_not_answer(fetcher: Fetcher) -> None:
    store = store_of()
    store.fault = "silent"
    with pytest.raises(Unavailable, match="unanswered"):
        await fetcher.get(store, REFS[0][0])


async def test_fetch_from_a_hanging_store_ends(cache: ChunkCache) -> None:
    hasty = Fetcher(cache, budget_bytes=8 << 20, time_limit_s=0.1)
    store = store_of()
    store.fault = "hang"
    with pytest.raises(DeadlineExceeded, match="within"):
        await hasty.get(store, REFS[0][0])
    await hasty.close()


async def test_fetch_fails_at_once_for_a_moment_after_a_failure(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g8node.g8ufs.fetch._FAILED_S", 600.0)  # a moment of any machine
    store = store_of()
    store.fault = "down"
    for _ in range(3):
        with pytest.raises(Unavailable):
            await fetcher.get(store, REFS[0][0])
    assert len(store.calls) == 1


async def test_fetch_tries_its_own_store_when_the_shared_flight_fails(fetcher: Fetcher) -> None:
    bad, good = store_of(), store_of()
    bad.fault = "down"
    ref, _, plain = REFS[0]
    first, second = await asyncio.gather(
        fetcher.get(bad, ref), fetcher.get(good, ref), return_exceptions=True
    )
    assert isinstance(first, Unavailable)
    assert second == plain


async def test_one_bad_chunk_does_not_spoil_its_batch(fetcher: Fetcher) -> None:
    store = store_of()
    store.chunks[REFS[1][0].id] = b"garbage"
    got = await asyncio.gather(*(fetcher.get(store, ref) for ref, _, _ in REFS), return_exceptions=True)
    assert [got[0], got[2]] == [REFS[0][2], REFS[2][2]]
    assert isinstance(got[1], Unavailable)


async def test_cancelled_reader_does_not_cancel_the_flight(fetcher: Fetcher) -> None:
    store = store_of()
    store.fault = "hang"
    ref, _, plain = REFS[0]
    gone = asyncio.create_task(fetcher.get(store, ref))
    stays = asyncio.create_task(fetcher.get(store, ref))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    store.lifted.set()
    assert await stays == plain


async def test_closed_fetcher_answers_at_once(cache: ChunkCache) -> None:
    made = Fetcher(cache, budget_bytes=1 << 20, time_limit_s=600)
    store = store_of()
    store.fault = "hang"
    waiting = asyncio.create_task(made.get(store, REFS[0][0]))
    while not store.calls:  # noqa: ASYNC110 - until the flight has begun
        await asyncio.sleep(0)
    await made.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await waiting
    with pytest.raises(Unavailable, match="shutting down"):
        await made.get(store, REFS[1][0])


async def test_byte_budget_admits_in_its_limit() -> None:
    budget = ByteBudget(10)
    assert await budget.acquire(100) == 10
    waiting = asyncio.create_task(budget.acquire(4))
    await asyncio.sleep(0)
    assert not waiting.done()
    await budget.release(10)
    assert await waiting == 4


def test_ids_are_bytes() -> None:
    assert isinstance(REFS[0][0].id, bytes)
    assert len(ChunkId(REFS[0][0].id)) == 32
