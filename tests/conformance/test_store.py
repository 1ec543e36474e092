"""One suite over every store and decorator: the contract of store/base.py."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from g8node.errors import NotFound
from g8node.ids import ChunkId
from g8node.store.base import Store
from g8node.store.cached import CachedStore
from g8node.store.health import WatchedStore
from g8node.store.limited import LimitedStore
from g8node.store.local import LocalStore
from g8node.store.locate import open_store
from g8node.store.memory import MemoryStore
from g8node.store.retrying import RetryingStore
from g8node.store.routed import in_order
from g8node.store.stores import Stores
from g8node.store.verified import VerifiedStore
from tests.support.chunks import old_chunks, some_chunks
from tests.support.faults import ChunkServer
from tests.support.hub import TOKEN, RunningHub, hub
from tests.support.s3 import S3Server, s3_server
from tests.support.servers import RedisProcess, redis_cluster, redis_server
from tests.support.zdb import ZdbModel

PATIENT = "connect_timeout=60&timeout=60"
"""Options of a store's address: a busy machine is no failure."""
Opener = Callable[[pytest.FixtureRequest, Path, AsyncExitStack], Awaitable[Store]]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisProcess]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        for server in servers:
            with server.client() as client:
                # Nobody fails here: who gets no processor for two seconds is not to be taken for dead.
                client.config_set("cluster-node-timeout", 120_000)
        yield servers


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def running_on_redis(tmp_path_factory: pytest.TempPathFactory, redis: RedisProcess) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("hub"), chunks=f"{redis.url}/0\n{redis.url}/1?hash=h\n") as running:
        yield running


def of(make: Callable[[Path], Store]) -> Opener:
    async def opened(_request: pytest.FixtureRequest, folder: Path, _ending: AsyncExitStack) -> Store:
        return make(folder)

    return opened


def http(*, batches: bool) -> Opener:
    async def opened(_request: pytest.FixtureRequest, _folder: Path, ending: AsyncExitStack) -> Store:
        server = ChunkServer(batches=batches)
        ending.push_async_callback(asyncio.to_thread, server.down)
        return open_store(f"{server.url}?{PATIENT}", token="secret")

    return opened


def of_redis(path: str, options: str = "") -> Opener:
    async def opened(request: pytest.FixtureRequest, _folder: Path, _ending: AsyncExitStack) -> Store:
        server: RedisProcess = request.getfixturevalue("redis")
        with server.client() as client:
            client.flushall()
        return open_store(f"{server.url}{path}?{PATIENT}{options}")

    return opened


async def of_cluster(request: pytest.FixtureRequest, _folder: Path, _ending: AsyncExitStack) -> Store:
    servers: list[RedisProcess] = request.getfixturevalue("cluster")
    for server in servers:
        with server.client() as client:
            if client.info("replication")["role"] == "master":
                client.flushall()
    return open_store(f"redis+cluster://127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}?{PATIENT}")


async def of_hub(request: pytest.FixtureRequest, _folder: Path, _ending: AsyncExitStack) -> Store:
    running: RunningHub = request.getfixturevalue("running")
    # A call that an earlier test cancelled may still be writing there: the folders stay.
    for path in (running.data / "chunks").glob("??/*"):
        path.unlink(missing_ok=True)
    return running.store(TOKEN)


async def of_hub_on_redis(request: pytest.FixtureRequest, _folder: Path, _ending: AsyncExitStack) -> Store:
    server: RedisProcess = request.getfixturevalue("redis")
    with server.client() as client:
        client.flushall()
    running: RunningHub = request.getfixturevalue("running_on_redis")
    return running.store(TOKEN)


async def of_s3(request: pytest.FixtureRequest, _folder: Path, _ending: AsyncExitStack) -> Store:
    server: S3Server = request.getfixturevalue("s3")
    await asyncio.to_thread(server.reset)
    return open_store(f"{server.url()}&{PATIENT}")


async def of_zdb(_request: pytest.FixtureRequest, _folder: Path, ending: AsyncExitStack) -> Store:
    model = await ending.enter_async_context(ZdbModel(token="t", namespaces={"chunks": "pass"}))
    return open_store(f"zdb://t:pass@127.0.0.1:{model.port}/chunks?{PATIENT}")


async def of_shards(_request: pytest.FixtureRequest, folder: Path, _ending: AsyncExitStack) -> Store:
    for name in "abc":
        (folder / name).mkdir()
    return Stores().open(f"00-7f=dir://{folder}/a 80-ff=dir://{folder}/b 00-ff=dir://{folder}/c")


KINDS: dict[str, Opener] = {
    "memory": of(lambda _: MemoryStore()),
    "local": of(lambda folder: LocalStore(str(folder))),
    "local-fsync": of(lambda folder: LocalStore(str(folder), fsync=True)),
    "http": http(batches=True),
    "http-single": http(batches=False),
    "hub": of_hub,
    "hub-on-redis": of_hub_on_redis,
    "redis": of_redis("/"),
    "redis-hash": of_redis("/3", "&hash=chunks"),
    "cluster": of_cluster,
    "zdb": of_zdb,
    "s3": of_s3,
    "verified": of(lambda _: VerifiedStore(MemoryStore())),
    "retrying": of(lambda _: RetryingStore(MemoryStore())),
    "limited": of(lambda _: LimitedStore(MemoryStore(), requests=2, size_bytes=1 << 20)),
    "cached": of(lambda _: CachedStore(MemoryStore(), MemoryStore())),
    "watched": of(lambda _: WatchedStore(MemoryStore(), "store")),
    "sharded": of_shards,
    "routed": of(lambda _: in_order([MemoryStore(), MemoryStore()])),
}


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with AsyncExitStack() as ending:
        opened = await KINDS[request.param](request, tmp_path, ending)
        ending.push_async_callback(opened.close)
        yield opened


async def test_missing_chunk_is_final(store: Store) -> None:
    absent = ChunkId(bytes(32))
    assert isinstance((await store.get_many([absent]))[absent], NotFound)


async def test_what_is_put_comes_back(store: Store) -> None:
    chunks = some_chunks(3)
    await store.put_many(chunks)
    assert await store.get_many(list(chunks)) == chunks


async def test_answers_one_per_distinct_id(store: Store) -> None:
    chunks = some_chunks(2)
    await store.put_many(chunks)
    absent = ChunkId(bytes(32))
    answers = await store.get_many([*chunks, *chunks, absent, absent])
    assert set(answers) == {*chunks, absent}
    assert isinstance(answers[absent], NotFound)


async def test_batch_larger_than_any_request(request: pytest.FixtureRequest, store: Store) -> None:
    is_slow = request.node.callspec.params["store"] == "s3"  # moto: ten milliseconds a request
    chunks = some_chunks(60 if is_slow else 600, size=20)
    await store.put_many(chunks)
    assert await store.get_many(list(chunks)) == chunks


async def test_chunk_of_a_megabyte(store: Store) -> None:
    chunks = some_chunks(2, size=1 << 20)
    await store.put_many(chunks)
    assert await store.get_many(list(chunks)) == chunks


async def test_put_of_a_present_chunk_changes_nothing(store: Store) -> None:
    chunks = some_chunks(2)
    await store.put_many(chunks)
    await store.put_many(chunks)
    assert await store.get_many(list(chunks)) == chunks


async def test_missing_names_what_is_not_there(store: Store) -> None:
    chunks = some_chunks(4)
    held = dict(itertools.islice(chunks.items(), 2))
    await store.put_many(held)
    assert await store.missing(list(chunks)) == set(chunks) - set(held)


async def test_nothing_asked_nothing_answered(store: Store) -> None:
    assert await store.get_many([]) == {}
    assert await store.missing([]) == set()
    await store.put_many({})


async def test_concurrent_calls_do_not_mix_answers(store: Store) -> None:
    chunks = some_chunks(40)
    await store.put_many(chunks)
    ids = list(chunks)
    parts = [ids[at::8] for at in range(8)]
    for answers, part in zip(await asyncio.gather(*map(store.get_many, parts)), parts, strict=True):
        assert answers == {id: chunks[id] for id in part}


@pytest.mark.parametrize("id_size", [16, 64])
async def test_ids_of_old_flists_are_ids(store: Store, id_size: int) -> None:
    chunks = old_chunks(5, id_size=id_size)
    absent = ChunkId(bytes(id_size))
    await store.put_many(chunks)
    answers = await store.get_many([*chunks, absent])
    assert isinstance(answers.pop(absent), NotFound)
    assert answers == chunks
    assert await store.missing([*chunks, absent]) == {absent}


async def test_ids_of_several_lengths_in_one_batch(store: Store) -> None:
    chunks = some_chunks(3) | old_chunks(3) | old_chunks(3, id_size=64)
    await store.put_many(chunks)
    assert await store.get_many(list(chunks)) == chunks
    assert await store.missing(list(chunks)) == set()


async def test_ten_thousand_ids_in_one_batch(request: pytest.FixtureRequest, store: Store) -> None:
    count = {"http-single": 500, "s3": 100}.get(request.node.callspec.params["store"], 10_000)
    chunks = some_chunks(50, size=40)
    await store.put_many(chunks)
    absent = [ChunkId(number.to_bytes(32)) for number in range(count - len(chunks))]
    ids = [*absent[:100], *chunks, *absent[100:]]
    answers = await store.get_many(ids)
    assert len(answers) == count
    assert {id: got for id, got in answers.items() if isinstance(got, bytes)} == chunks
    assert await store.missing(ids) == set(absent)


@pytest.mark.parametrize("turns", [0, 2, 20])
async def test_cancelled_calls_leave_the_store_in_order(store: Store, turns: int) -> None:
    chunks = some_chunks(64, size=20_000)
    ids = list(chunks)
    await store.put_many(dict(itertools.islice(chunks.items(), 32)))
    calls = [
        asyncio.ensure_future(store.get_many(ids[:32])),
        asyncio.ensure_future(store.missing(ids)),
        asyncio.ensure_future(store.put_many(chunks)),
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await store.put_many(chunks)
    assert await store.get_many(ids) == chunks
