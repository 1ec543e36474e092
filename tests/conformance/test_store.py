"""One suite over every store and decorator: the contract of store/base.py."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from g8node.errors import NotFound
from g8node.ids import ChunkId
from g8node.store.base import Store
from g8node.store.http import HttpStore
from g8node.store.limited import LimitedStore
from g8node.store.local import LocalStore
from g8node.store.memory import MemoryStore
from g8node.store.retrying import RetryingStore
from g8node.store.routed import RoutedStore
from g8node.store.verified import VerifiedStore
from tests.support.chunks import some_chunks
from tests.support.faults import ChunkServer

KINDS = (
    "memory", "local", "local-fsync", "http", "http-single", "verified", "retrying", "limited", "routed",
)  # fmt: skip


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    kind: str = request.param
    server = ChunkServer(batches=kind == "http") if kind.startswith("http") else None
    made: dict[str, Store] = {
        "memory": MemoryStore(),
        "local": LocalStore(str(tmp_path)),
        "local-fsync": LocalStore(str(tmp_path), fsync=True),
        "verified": VerifiedStore(MemoryStore()),
        "retrying": RetryingStore(MemoryStore()),
        "limited": LimitedStore(MemoryStore(), requests=2, size_bytes=1 << 20),
        "routed": RoutedStore([MemoryStore(), MemoryStore()]),
    }
    opened = HttpStore(server.url, token="secret") if server else made[kind]
    yield opened
    await opened.close()
    if server:
        await asyncio.to_thread(server.down)


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


async def test_batch_larger_than_any_request(store: Store) -> None:
    chunks = some_chunks(600, size=20)
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
