"""Pools, shards, fail-over, hedging, health and write-back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, NotFound, Unavailable
from g8node.ids import ChunkId
from g8node.store.cached import CachedStore
from g8node.store.health import State, StoreStatistics, WatchedStore
from g8node.store.memory import MemoryStore
from g8node.store.race import race
from g8node.store.routed import RoutedStore, Shard
from g8node.store.stores import Stores
from g8node.wire.router import Range, parse_router
from tests.support.chunks import some_chunks
from tests.support.faults import FaultyStore

CHUNKS = some_chunks(40)
IDS = list(CHUNKS)
LOW = Range(b"\x00", b"\x7f")
HIGH = Range(b"\x80", b"\xff")


async def turns(condition: Callable[[], object]) -> None:
    """Until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


def hasty(_at: int, _count: int) -> float:
    return 0.01


async def test_shards_are_asked_only_for_their_ids() -> None:
    low, high = FaultyStore(CHUNKS), FaultyStore(CHUNKS)
    store = RoutedStore([[Shard(low, LOW), Shard(high, HIGH)]], mixed=True)
    assert await store.get_many(IDS) == CHUNKS
    assert sorted(low.calls[0]) == sorted(id for id in IDS if id[0] < 128)
    assert sorted(high.calls[0]) == sorted(id for id in IDS if id[0] >= 128)


async def test_id_of_digits_is_placed_by_the_digest_it_spells() -> None:
    shard = Shard(MemoryStore(), Range(b"\xab", b"\xab"))
    assert shard.holds(ChunkId(b"ab" + b"0" * 62))
    assert not shard.holds(ChunkId(b"bb" + b"0" * 62))
    assert not shard.holds(ChunkId(b"Ab" + b"0" * 62))


async def test_id_that_no_store_holds_is_not_found_and_not_written() -> None:
    store = RoutedStore([[Shard(MemoryStore(), LOW)]])
    high = next(id for id in IDS if id[0] >= 128)
    assert isinstance((await store.get_many([high]))[high], NotFound)
    with pytest.raises(InvalidArgument, match="no store"):
        await store.put_many(CHUNKS)


async def test_writes_go_to_every_store_that_holds_the_id() -> None:
    everything, low, high = MemoryStore(), MemoryStore(), MemoryStore()
    store = RoutedStore([[Shard(everything)], [Shard(low, LOW), Shard(high, HIGH)]])
    await store.put_many(CHUNKS)
    assert everything.chunks == CHUNKS
    assert low.chunks | high.chunks == CHUNKS
    assert not low.chunks.keys() & high.chunks.keys()
    del low.chunks[next(iter(low.chunks))]
    assert len(await store.missing(IDS)) == 1


async def test_slow_store_is_not_waited_for() -> None:
    slow, quick = FaultyStore(CHUNKS), FaultyStore(CHUNKS)
    slow.fault = "hang"
    assert await race([slow, quick], IDS, hasty) == CHUNKS


async def test_late_answer_still_counts_when_the_second_fails() -> None:
    slow, broken = FaultyStore(CHUNKS), FaultyStore()
    slow.fault, broken.fault = "hang", "down"
    asking = asyncio.ensure_future(race([slow, broken], IDS, hasty))
    await turns(lambda: broken.calls)
    slow.lifted.set()
    assert await asking == CHUNKS


async def test_only_store_is_asked_twice_when_it_hangs_and_once_when_it_fails() -> None:
    only = FaultyStore(CHUNKS)
    only.fault = "hang"
    asking = asyncio.ensure_future(race([only], IDS, hasty))
    await turns(lambda: len(only.calls) == 2)
    only.lifted.set()
    assert await asking == CHUNKS
    assert len(only.calls) == 2
    only.fault = "down"
    await race([only], IDS, hasty)
    assert len(only.calls) == 3


async def test_third_store_is_asked_when_two_hang() -> None:
    stores = [FaultyStore(CHUNKS) for _ in range(3)]
    stores[0].fault = stores[1].fault = "hang"
    assert await race(stores, IDS, hasty) == CHUNKS


async def test_cancelled_question_cancels_what_was_asked() -> None:
    stores = [FaultyStore(CHUNKS) for _ in range(2)]
    stores[0].fault = stores[1].fault = "hang"
    asking = asyncio.ensure_future(race(stores, IDS, hasty))
    await turns(lambda: stores[1].calls)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_failing_store_is_down_asked_last_and_comes_back_by_itself() -> None:
    told: list[str] = []
    inner = FaultyStore(CHUNKS)
    watched = WatchedStore(inner, "one", probe_s=0.01, told=lambda now: told.append(now.state))
    other = FaultyStore(CHUNKS)
    store = RoutedStore([[Shard(watched, watched=watched)], [Shard(other)]])
    async with aclosing(_closing(watched)):
        inner.fault = "down"
        for _ in range(3):
            assert await store.get_many(IDS) == CHUNKS
        assert watched.state == State.DOWN
        asked = len(inner.calls)
        assert await store.get_many(IDS) == CHUNKS
        assert [call for call in inner.calls[asked:] if call == IDS] == []
        inner.fault = ""
        await turns(lambda: watched.state == State.OK)
        assert told == ["down", "ok"]
        counts = watched.statistics()
        assert (counts.failed_requests, counts.errors, counts.error) == (3, 120, "down")
        await watched.close()


async def _closing(watched: WatchedStore) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await watched.close()


async def test_slow_store_is_slow_until_it_answers_quickly() -> None:
    class Slow(MemoryStore):
        delay_s = 0.05

        async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | NotFound | Unavailable]:
            await asyncio.sleep(self.delay_s)
            return await super().get_many(ids)

    inner = Slow(CHUNKS)
    watched = WatchedStore(inner, "one", slow_s=0.02, probe_s=0.01)
    await watched.get_many(IDS)
    assert watched.state == State.SLOW
    assert watched.patience_s(1) >= 0.5
    inner.delay_s = 0
    await turns(lambda: watched.state == State.OK)
    await watched.close()


async def test_store_that_hangs_is_down_after_its_callers_left() -> None:
    inner = FaultyStore(CHUNKS)
    inner.fault = "hang"
    watched = WatchedStore(inner, "one", slow_s=0.01, probe_s=60)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watched.get_many(IDS), 0.02)
    assert watched.state == State.DOWN
    await watched.close()


async def test_counts_tell_what_a_store_did() -> None:
    watched = WatchedStore(MemoryStore(), "one")
    await watched.put_many(CHUNKS)
    await watched.get_many([*IDS, ChunkId(bytes(32))])
    await watched.missing(IDS)
    size = sum(map(len, CHUNKS.values()))
    got = watched.statistics()
    assert isinstance(got, StoreStatistics)
    assert (got.requests, got.hits, got.absent, got.stored, got.errors) == (3, 40, 1, 40, 0)
    assert (got.bytes_read, got.bytes_written, got.state) == (size, size, "ok")


async def test_cache_is_filled_and_asked_first() -> None:
    far, near = FaultyStore(CHUNKS), MemoryStore()
    store = CachedStore(far, near)
    assert await store.get_many(IDS) == CHUNKS
    await turns(lambda: near.chunks == CHUNKS)
    assert await store.get_many(IDS) == CHUNKS
    assert len(far.calls) == 1
    await store.close()


async def test_cache_that_stands_still_stalls_no_reader_and_its_queue_is_bounded() -> None:
    class Stuck(MemoryStore):
        async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
            await asyncio.Event().wait()

    store = CachedStore(MemoryStore(CHUNKS), Stuck(), queue_bytes=5000)
    for _ in range(3):
        assert await asyncio.wait_for(store.get_many(IDS), 60) == CHUNKS
    assert store.dropped > 30
    await store.close()


async def test_chunk_is_fetched_once_for_all_and_survives_a_caller() -> None:
    far = FaultyStore(CHUNKS)
    far.fault = "hang"
    store = CachedStore(far, MemoryStore())
    calls = [asyncio.ensure_future(store.get_many(IDS)) for _ in range(3)]
    await turns(lambda: far.calls)
    calls[0].cancel()
    far.lifted.set()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert done[1:] == [CHUNKS, CHUNKS]
    assert len(far.calls) == 1
    await store.close()


async def test_cache_that_cannot_say_may_have_the_chunk() -> None:
    near = FaultyStore()
    near.fault = "down"
    store = CachedStore(MemoryStore(), near)
    assert isinstance((await store.get_many(IDS[:1]))[IDS[0]], Unavailable)
    await store.close()


async def test_wrong_bytes_of_one_store_are_those_of_the_next(tmp_path: Path) -> None:
    stores = Stores()
    good = stores.open(f"dir://{tmp_path}/b")
    await good.put_many(CHUNKS)
    bad = tmp_path / "a"
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file():
            target = bad / path.relative_to(tmp_path / "b")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"wrong")
    both = stores.open(f"dir://{bad} dir://{tmp_path}/b")
    assert await both.get_many(IDS) == CHUNKS
    assert [one.name for one in stores.statistics()] == [f"dir://{tmp_path}/b", f"dir://{bad}"]
    await good.close()
    assert await both.get_many(IDS) == CHUNKS
    await both.close()
    assert stores.statistics() == []


async def test_pools_of_a_router_are_looked_up_and_filled(tmp_path: Path) -> None:
    text = f"""
pools:
  near: {{'00:ff': 'dir://{tmp_path}/near'}}
  far: {{'00:7f': 'dir://{tmp_path}/low', '80:ff': 'dir://{tmp_path}/high'}}
lookup: [near, far]
cache: [near]
"""
    for name in ("near", "low", "high"):
        (tmp_path / name).mkdir()
    stores = Stores()
    source = stores.open(f"00-7f=dir://{tmp_path}/low 80-ff=dir://{tmp_path}/high")
    await source.put_many(CHUNKS)
    await source.close()
    store = stores.open(parse_router(text))
    assert await store.get_many(IDS) == CHUNKS
    near = stores.open(f"dir://{tmp_path}/near")
    async with asyncio.timeout(60):
        while await near.missing(IDS):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
    assert await near.get_many(IDS) == CHUNKS
    await near.close()
    await store.close()


def test_wrong_address_leaves_nothing_open(tmp_path: Path) -> None:
    stores = Stores()
    with pytest.raises(InvalidArgument, match="ftp"):
        stores.open(f"dir://{tmp_path} ftp://user:word@host")
    assert stores.statistics() == []
    with pytest.raises(InvalidArgument, match="at least one"):
        stores.open(" ")


def test_state_sums_the_stores_and_hides_their_passwords(tmp_path: Path) -> None:
    stores = Stores()
    stores.open("redis://user:word@127.0.0.1:1/0")
    state = stores.state()
    assert (state["ok"], state["slow"], state["down"], state["requests"]) == (1, 0, 0, 0)
    assert "word" not in str(state)
