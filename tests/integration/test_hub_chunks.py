"""Chunk calls of a real Hub process, over real sockets."""

import asyncio
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from g8node.errors import InvalidArgument, NotFound, PermissionDenied
from g8node.ids import ChunkId
from g8node.wire.chunk import chunk_id
from tests.support.hub import TOKEN, RunningHub, hub

CHUNKS = {chunk_id(stored): stored for stored in (bytes([n % 256]) * (n * 11 + 1) for n in range(300))}
ABSENT = ChunkId(b"\xee" * 32)
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("chunks")) as started:
        yield started


def element(id: bytes, stored: bytes) -> bytes:
    return id + struct.pack("<I", len(stored)) + stored


async def post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, object] | bytes]:
    data = io.BytesIO(body)
    async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=headers) as response:
        is_json = response.content_type == "application/json"
        return response.status, await response.json() if is_json else await response.read()


async def test_store_round_trip(running: RunningHub) -> None:
    store = running.store(TOKEN)
    ids = list(CHUNKS)
    assert await store.missing([*ids, ABSENT]) == {*ids, ABSENT}
    await store.put_many(CHUNKS)
    assert await store.missing([*ids, ABSENT]) == {ABSENT}
    got = await store.get_many([*ids, ABSENT])
    assert {id: got[id] for id in ids} == CHUNKS
    assert isinstance(got[ABSENT], NotFound)
    single = await store.get_many(ids[:1])
    assert single == {ids[0]: CHUNKS[ids[0]]}
    await store.close()


@pytest.mark.parametrize("authorization", ["", "Bearer wrong-token-wrong-token", f"Basic {TOKEN}"])
async def test_upload_needs_a_known_token(running: RunningHub, authorization: str) -> None:
    stored = b"nobody may store this"
    body = element(chunk_id(stored), stored)
    status, answer = await post(f"{running.url}/chunks", body, Authorization=authorization)
    assert status == 401
    assert answer == {
        "status": "error",
        "message": "a known token is needed: Authorization: Bearer TOKEN",
    }
    store = running.store()
    assert await store.missing([chunk_id(stored)]) == {chunk_id(stored)}
    with pytest.raises(PermissionDenied):
        await store.put_many({chunk_id(stored): stored})
    await store.close()


async def test_refused_client_reads_why_even_after_a_large_body(running: RunningHub) -> None:
    for _ in range(5):
        status, _answer = await post(f"{running.url}/chunks", bytes(20 << 20))
        assert status == 401


async def test_wrong_hash_is_refused_by_name(running: RunningHub) -> None:
    good, bad = b"a good neighbour", b"not what it claims"
    body = element(chunk_id(good), good) + element(ABSENT, bad)
    status, answer = await post(f"{running.url}/chunks", body, **AUTHORISED)
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["message"] == f"chunk {ABSENT.hex()}: the {len(bad)} bytes sent have another hash"
    store = running.store(TOKEN)
    assert await store.missing([ABSENT, chunk_id(bad)]) == {ABSENT, chunk_id(bad)}
    with pytest.raises(InvalidArgument, match=ABSENT.hex()):
        await store.put_many({ABSENT: bad})
    await store.close()


async def test_single_put_checks_the_hash_too(running: RunningHub) -> None:
    stored = b"put alone"
    async with aiohttp.ClientSession(headers=AUTHORISED) as session:
        url = f"{running.url}/chunks/{chunk_id(stored).hex()}"
        async with session.put(url, data=b"other") as response:
            assert response.status == 400
        for expected in ({"stored": 1, "present": 0}, {"stored": 0, "present": 1}):
            async with session.put(url, data=stored) as response:
                assert response.status == 200
                assert await response.json() == expected


async def test_chunk_is_cacheable_for_ever(running: RunningHub) -> None:
    stored = b"cache me"
    await post(f"{running.url}/chunks", element(chunk_id(stored), stored), **AUTHORISED)
    url = f"{running.url}/chunks/{chunk_id(stored).hex()}"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            assert await response.read() == stored
            assert "immutable" in response.headers["Cache-Control"]
            etag = response.headers["ETag"]
        async with session.get(url, headers={"If-None-Match": etag}) as response:
            assert response.status == 304
            assert await response.read() == b""


@pytest.mark.parametrize(
    ("call", "body", "status", "message"),
    [
        ("chunks/get", bytes(33), 400, "multiple of 32"),
        ("chunks/get", bytes(257 * 32), 400, "at most 256"),
        ("chunks/missing", bytes(31), 400, "multiple of 32"),
        ("chunks/missing", bytes(65537 * 32), 400, "at most 65536"),
        ("chunks/get", bytes(257 * 64), 413, "at most 16384 are taken"),
        ("chunks/get?id=16", bytes(33), 400, "multiple of 16"),
        ("chunks/get?id=17", bytes(34), 400, "expected one of 16, 32, 64"),
        ("chunks", bytes(35), 400, "ends inside a chunk"),
        ("chunks", bytes(32) + b"\xff" * 4, 400, "4294967295 bytes announced"),
        ("chunks", bytes((64 << 20) + 1), 413, ""),
    ],
    ids=range(10),
)
async def test_wrong_bodies_are_refused(
    running: RunningHub, call: str, body: bytes, status: int, message: str
) -> None:
    got, answer = await post(f"{running.url}/{call}", body, **AUTHORISED)
    assert got == status
    assert isinstance(answer, dict)
    assert answer["status"] == "error"
    assert message in str(answer["message"])


@pytest.mark.parametrize("name", ["zz", "..", "%2e%2e%2fetc", "A" * 64, "0" * 63, "%00" * 64])
async def test_hostile_chunk_names_are_refused(running: RunningHub, name: str) -> None:
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(f"GET /chunks/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.split()[1] in (b"400", b"404")
    assert b'"status":"error"' in answer


async def test_download_of_a_large_batch_is_complete(running: RunningHub) -> None:
    chunks = {chunk_id(stored): stored for stored in (n.to_bytes(4, "big") * (1 << 17) for n in range(200))}
    store = running.store(TOKEN)
    await store.put_many(chunks)
    assert await store.get_many(list(chunks)) == chunks
    await store.close()


async def test_many_readers_at_once(running: RunningHub) -> None:
    stored = b"x" * 400_000
    await post(f"{running.url}/chunks", element(chunk_id(stored), stored), **AUTHORISED)
    store = running.store()
    answers = await asyncio.gather(*(store.get_many([chunk_id(stored)]) for _ in range(100)))
    assert all(answer == {chunk_id(stored): stored} for answer in answers)
    await store.close()


async def test_body_that_ends_early_stores_nothing_of_the_cut_chunk(running: RunningHub) -> None:
    stored = b"cut in the middle" * 100
    body = element(chunk_id(stored), stored)
    reader, writer = await asyncio.open_connection(*running.address)
    head = f"POST /chunks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-5])
    await writer.drain()
    writer.close()
    del reader
    store = running.store()
    assert await store.missing([chunk_id(stored)]) == {chunk_id(stored)}
    await store.close()


def test_read_only_hub_takes_nothing(tmp_path: Path) -> None:
    async def refused(url: str) -> None:
        stored = b"anything"
        status, answer = await post(f"{url}/chunks", element(chunk_id(stored), stored), **AUTHORISED)
        assert status == 403
        assert isinstance(answer, dict)
        assert "read-only" in str(answer["message"])

    with hub(tmp_path, read_only=True) as started:
        asyncio.run(refused(started.url))
