"""What each decorator adds to the contract."""

import asyncio
import os
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, NotFound, Unavailable
from g8node.ids import ChunkId
from g8node.store.limited import LimitedStore
from g8node.store.local import LocalStore
from g8node.store.locate import open_store
from g8node.store.memory import MemoryStore
from g8node.store.retrying import RetryingStore
from g8node.store.routed import in_order
from g8node.store.verified import VerifiedStore
from tests.support.chunks import some_chunks
from tests.support.faults import FaultyStore

CHUNKS = some_chunks(4)
IDS = list(CHUNKS)


async def test_verified_never_hands_out_wrong_bytes() -> None:
    store = FaultyStore(CHUNKS)
    store.fault = "corrupt"
    answers = await VerifiedStore(store).get_many(IDS)
    assert all(isinstance(got, Unavailable) for got in answers.values())


async def test_verified_stores_nothing_under_a_wrong_name() -> None:
    inner = MemoryStore()
    with pytest.raises(InvalidArgument, match="digest"):
        await VerifiedStore(inner).put_many({IDS[0]: CHUNKS[IDS[0]], IDS[1]: b"other"})
    assert not inner.chunks


async def test_retrying_asks_again_only_for_what_failed() -> None:
    slept: list[float] = []

    class Flaky(FaultyStore):
        async def get_many(self, ids: object) -> dict[ChunkId, bytes | NotFound | Unavailable]:
            answers = await super().get_many(ids)  # type: ignore[arg-type]  # as given
            if len(self.calls) == 1:
                answers[IDS[0]] = Unavailable("once")
            return answers

    async def sleep(delay: float) -> None:
        slept.append(delay)

    store = Flaky(CHUNKS)
    absent = ChunkId(bytes(32))
    answers = await RetryingStore(store, sleep=sleep).get_many([*IDS, absent])
    assert isinstance(answers.pop(absent), NotFound)
    assert answers == CHUNKS
    assert store.calls[1:] == [[IDS[0]]]
    assert len(slept) == 1


async def test_retrying_gives_up() -> None:
    store = FaultyStore(CHUNKS)
    store.fault = "down"

    async def sleep(delay: float) -> None:
        pass

    answers = await RetryingStore(store, attempts=4, sleep=sleep).get_many(IDS[:1])
    assert isinstance(answers[IDS[0]], Unavailable)
    assert len(store.calls) == 4


async def test_limited_bounds_requests_in_flight() -> None:
    inner = FaultyStore(CHUNKS)
    inner.fault = "hang"
    store = LimitedStore(inner, requests=2)
    tasks = [asyncio.create_task(store.get_many([id])) for id in IDS]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(inner.calls) == 2
    tasks[2].cancel()  # gives its place in the queue up
    inner.lifted.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [len(got) for got in done if isinstance(got, dict)] == [1, 1, 1]


async def test_limited_bounds_bytes_in_flight() -> None:
    inner = FaultyStore(CHUNKS)
    inner.fault = "hang"
    store = LimitedStore(inner, size_bytes=100, chunk_bytes=60)
    tasks = [asyncio.create_task(store.get_many([id])) for id in IDS]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(inner.calls) == 1
    inner.lifted.set()
    assert len(await asyncio.gather(*tasks)) == 4


async def test_routed_fails_over_and_asks_the_second_only_for_the_rest() -> None:
    first, second = FaultyStore({IDS[0]: CHUNKS[IDS[0]]}), FaultyStore(CHUNKS)
    assert await in_order([first, second]).get_many(IDS) == CHUNKS
    assert second.calls == [IDS[1:]]


async def test_routed_is_unavailable_when_one_that_may_have_it_is_down() -> None:
    down, empty = FaultyStore(CHUNKS), FaultyStore()
    down.fault = "down"
    for stores in ([down, empty], [empty, down]):
        answers = await in_order(stores).get_many(IDS[:1])
        assert isinstance(answers[IDS[0]], Unavailable)


async def test_local_reads_the_flat_layout_too(tmp_path: Path) -> None:
    (tmp_path / IDS[0].hex()).write_bytes(CHUNKS[IDS[0]])
    store = LocalStore(str(tmp_path))
    assert (await store.get_many(IDS[:1]))[IDS[0]] == CHUNKS[IDS[0]]
    assert await store.missing(IDS) == set(IDS[1:])


async def test_local_without_its_folder_is_unavailable(tmp_path: Path) -> None:
    answers = await LocalStore(str(tmp_path / "gone")).get_many(IDS[:1])
    assert isinstance(answers[IDS[0]], Unavailable)


async def test_local_leaves_no_partial_file(tmp_path: Path) -> None:
    await LocalStore(str(tmp_path)).put_many(CHUNKS)
    names = [name for _, _, files in os.walk(tmp_path) for name in files]
    assert sorted(names) == sorted(id.hex() for id in IDS)


@pytest.mark.parametrize(
    "url", ["", "hub", "ftp://x/", "dir://host/x", "dir:relative", "http://", "zdb:///h", "http://[::1/"]
)
def test_store_url_that_means_nothing_is_named(url: str) -> None:
    with pytest.raises(InvalidArgument, match="chunk store"):
        open_store(url)
