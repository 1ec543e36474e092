"""Redis stores against real servers that die, stand still, are full of other things, or want a password."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from g8node.errors import NotFound, PermissionDenied, Unavailable
from g8node.ids import ChunkId
from g8node.store.base import STORED_SIZE_MAX, Store
from g8node.store.locate import open_store
from g8node.wire.chunk import chunk_id
from tests.support.chunks import some_chunks
from tests.support.servers import (
    PASSWORD,
    USER,
    RedisProcess,
    certificate,
    listen_with_tls,
    redis_cluster,
    redis_server,
    tls_options,
    users,
)
from tests.support.zdb import ZdbModel

CHUNKS = some_chunks(20)
IDS = list(CHUNKS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    with redis_server(tmp_path) as server:
        yield server


async def all_unavailable(store: Store) -> bool:
    return all(isinstance(got, Unavailable) for got in (await store.get_many(IDS)).values())


async def until_all_there(store: Store) -> None:
    async with asyncio.timeout(120):
        while await store.get_many(IDS) != CHUNKS:  # noqa: ASYNC110 - servers have no events for us
            await asyncio.sleep(0.1)


async def test_killed_server_is_unavailable_and_used_again_when_it_is_back(server: RedisProcess) -> None:
    store = open_store(server.url, retries=1)
    await store.put_many(CHUNKS)
    await asyncio.to_thread(server.kill)
    assert await all_unavailable(store)
    with pytest.raises(Unavailable):
        await store.missing(IDS)
    with pytest.raises(Unavailable):
        await store.put_many(CHUNKS)
    await asyncio.to_thread(server.up)
    assert await store.missing(IDS) == set(IDS)
    await store.put_many(CHUNKS)
    assert await store.get_many(IDS) == CHUNKS
    await store.close()


async def test_server_killed_under_a_call_fails_that_call_only(server: RedisProcess) -> None:
    store = open_store(server.url, retries=1)
    await store.put_many(CHUNKS)
    server.stop()
    call = asyncio.ensure_future(store.get_many(IDS))
    await asyncio.sleep(0)
    await asyncio.to_thread(server.kill)
    assert all(isinstance(got, Unavailable) for got in (await call).values())
    await asyncio.to_thread(server.up)
    await store.put_many(CHUNKS)
    assert await store.get_many(IDS) == CHUNKS
    await store.close()


async def test_server_that_stands_still_is_given_up_and_used_again(server: RedisProcess) -> None:
    store = open_store(f"{server.url}?timeout=2&connect_timeout=5", retries=1)
    await store.put_many(CHUNKS)
    server.stop()
    for _ in range(2):  # on the connection that was open, and on a new one
        answers = await asyncio.wait_for(store.get_many(IDS), 60)
        assert all(isinstance(got, Unavailable) for got in answers.values())
    server.resume()
    await until_all_there(store)
    await store.close()


async def test_value_larger_than_any_chunk_spoils_only_itself(server: RedisProcess) -> None:
    store = open_store(server.url, retries=1)
    await store.put_many(CHUNKS)
    with server.client() as client:
        client.set(IDS[3], bytes(STORED_SIZE_MAX + 1))
        client.set(IDS[4], bytes(100 << 20))  # more than one answer may have
        client.lpush("a list" + "x" * 26, "no chunk")
    odd = ChunkId(b"a list" + b"x" * 26)
    answers = await store.get_many([*IDS, odd])
    assert isinstance(answers.pop(IDS[3]), Unavailable)
    assert isinstance(answers.pop(IDS[4]), Unavailable)
    assert isinstance(answers.pop(odd), Unavailable | NotFound)
    assert answers == {id: stored for id, stored in CHUNKS.items() if id not in (IDS[3], IDS[4])}
    await store.close()


async def test_largest_chunk_goes_there_and_back(server: RedisProcess) -> None:
    stored = bytes(STORED_SIZE_MAX)
    store = open_store(server.url)
    await store.put_many({chunk_id(stored): stored})
    assert await store.get_many([chunk_id(stored)]) == {chunk_id(stored): stored}
    await store.close()


async def test_what_is_there_is_left_alone(server: RedisProcess) -> None:
    store = open_store(server.url)
    with server.client() as client:
        client.set(IDS[0], b"first")
        await store.put_many(CHUNKS)
        assert client.get(IDS[0]) == b"first"
    await store.close()


async def test_user_and_password_of_the_address_are_used(tmp_path: Path) -> None:
    with redis_server(tmp_path, *users(tmp_path)) as server:
        place = f"127.0.0.1:{server.port}"
        store = open_store(f"redis://{USER}:{quote(PASSWORD, safe='')}@{place}/2")
        await store.put_many(CHUNKS)
        assert await store.get_many(IDS) == CHUNKS
        await store.close()
        wrong = open_store(f"redis://{USER}:wrong-secret@{place}", retries=1)
        got = (await wrong.get_many(IDS[:1]))[IDS[0]]
        assert isinstance(got, Unavailable)
        assert "WRONGPASS" in got.message
        assert "wrong-secret" not in str(got)
        await wrong.close()
        stranger = open_store(f"redis://{place}", retries=1)
        assert isinstance((await stranger.get_many(IDS[:1]))[IDS[0]], Unavailable)
        with pytest.raises(PermissionDenied):
            await stranger.put_many(CHUNKS)
        await stranger.close()


async def test_password_alone_is_enough_where_the_server_has_one(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "word") as server:
        for credentials in (":word", "word", "default:word"):
            store = open_store(f"redis://{credentials}@127.0.0.1:{server.port}")
            await store.put_many(CHUNKS)
            assert await store.get_many(IDS) == CHUNKS
            await store.close()


async def test_unix_socket_is_an_address(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--unixsocket", f"{tmp_path}/s"):
        store = open_store(f"redis+unix://{tmp_path}/s?hash=h")
        await store.put_many(CHUNKS)
        assert await store.get_many(IDS) == CHUNKS
        await store.close()


async def test_tls_trusts_the_given_authority_only(tmp_path: Path) -> None:
    certificate(tmp_path)
    with redis_server(tmp_path, *tls_options(tmp_path)) as server:
        port = await asyncio.to_thread(listen_with_tls, server)
        store = open_store(f"redis+tls://127.0.0.1:{port}?ca={tmp_path}/cert")
        await store.put_many(CHUNKS)
        assert await store.get_many(IDS) == CHUNKS
        await store.close()
        suspicious = open_store(f"rediss://127.0.0.1:{port}", retries=1)
        got = (await suspicious.get_many(IDS[:1]))[IDS[0]]
        assert isinstance(got, Unavailable)
        assert "certificate" in got.message.lower()
        await suspicious.close()


async def test_zdb_namespace_and_password_are_used() -> None:
    async with ZdbModel(token="t", namespaces={"open": "", "shut": "secret"}) as model:
        for credentials, namespace in (
            (":secret@", "shut"),
            ("", "open"),
            ("t:secret@", "shut"),
            (":t@", ""),
        ):
            store = open_store(f"zdb://{credentials}127.0.0.1:{model.port}/{namespace}")
            await store.put_many(CHUNKS)
            await store.put_many(CHUNKS)  # nil: it has them
            assert await store.get_many(IDS) == CHUNKS
            assert model.data[namespace or "default"] == CHUNKS
            await store.close()
        wrong = open_store(f"zdb://:other@127.0.0.1:{model.port}/shut", retries=1)
        assert isinstance((await wrong.get_many(IDS[:1]))[IDS[0]], Unavailable)
        await wrong.close()


async def test_cluster_survives_the_loss_of_a_master_and_moving_slots(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as servers:
        seeds = ",".join(f"127.0.0.1:{server.port}" for server in servers[:2])
        store = open_store(f"redis+cluster://{seeds}?timeout=5&connect_timeout=5")
        await store.put_many(CHUNKS)
        assert await store.get_many(IDS) == CHUNKS
        await asyncio.to_thread(move_slots, servers)
        assert await store.get_many(IDS) == CHUNKS
        await asyncio.to_thread(replicated, servers)
        servers[0].kill()
        answers = await store.get_many(IDS)
        assert all(got == CHUNKS[id] or isinstance(got, Unavailable) for id, got in answers.items())
        await until_all_there(store)
        servers[0].up()
        assert await store.get_many(IDS) == CHUNKS
        await store.close()


def move_slots(servers: list[RedisProcess]) -> None:
    """A quarter of the first master's slots to the second."""
    with servers[0].client() as first, servers[1].client() as second:
        ids = [str(one.execute_command("CLUSTER", "MYID"), "ascii") for one in (first, second)]
    argv = ["redis-cli", "--cluster", "reshard", f"127.0.0.1:{servers[0].port}", "--cluster-from", ids[0]]
    argv += ["--cluster-to", ids[1], "--cluster-slots", "1400", "--cluster-yes"]
    subprocess.run(argv, check=True, capture_output=True, timeout=120)


def replicated(servers: list[RedisProcess]) -> None:
    for server in servers:
        with server.client() as client:
            if client.info("replication")["role"] == "master":
                assert client.wait(1, 20_000) == 1
