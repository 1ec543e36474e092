"""store.*: chunks a second out of a store, asked for in batches, one by one, and by another client.

A real redis-server and a real Hub on loopback; chunks of 4 KiB and of 512 KiB; batches of 64, as a node's
reads make them. Every side reads the same chunks and keeps none.
"""

import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

import redis.asyncio
import uvloop

from g8node.ids import ChunkId
from g8node.store.base import Store
from g8node.store.http import HttpStore
from g8node.store.local import LocalStore
from g8node.store.locate import connect
from g8node.wire.chunk import chunk_id
from tests.bench.rows import Row, compare
from tests.support.hub import hub
from tests.support.servers import redis_server

_BATCH = 64
_SIZES = {"4k": (4 << 10, 4096), "512k": (512 << 10, 128)}
"""Bytes of a chunk, and how many are read in one measurement."""

Ask = Callable[[Store, Sequence[ChunkId]], Awaitable[int]]


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    names = [f"store.{kind}_{size}_{vs}" for kind, vs in _ROWS for size in _SIZES]
    if not any(map(wanted, names)):
        return
    with ExitStack() as ending:
        server = ending.enter_context(redis_server(folder / "redis"))
        (folder / "hub").mkdir(parents=True)
        running = ending.enter_context(hub(folder / "hub"))
        for size, (chunk_bytes, count) in _SIZES.items():
            chunks = {chunk_id(data): data for data in (os.urandom(chunk_bytes) for _ in range(count))}
            ids = list(chunks)
            opened = {"redis": partial(connect, server.url), "hub": partial(connect, running.url)}
            uvloop.run(_fill(opened["redis"](), chunks))
            uvloop.run(_fill(LocalStore(str(running.data / "chunks")), chunks))
            for kind, vs in _ROWS:
                name = f"store.{kind}_{size}_{vs}"
                if not wanted(name):
                    continue
                one_by_one: Callable[[], Store] = opened[kind]
                if kind == "hub":
                    one_by_one = partial(_single, running.url)
                peer = _rate(one_by_one, _each, ids)
                if vs == "vs_redis_py":
                    peer = partial(_redis_py, server.port, ids)
                ours = _rate(opened[kind], _batches, ids)
                yield compare(name, "chunk/s", "higher", ours, peer, _PEERS[kind, vs], batch=_BATCH)


_ROWS = (("redis", "vs_single"), ("redis", "vs_redis_py"), ("hub", "vs_single"))
_PEERS = {
    ("redis", "vs_single"): "the same store, a GET at a time",
    ("redis", "vs_redis_py"): "redis-py, MGET of 64",
    ("hub", "vs_single"): "the same Hub, 16 GETs at once",
}


def _single(url: str) -> Store:
    store = HttpStore(url)
    store._batches = False
    return store


def _rate(open_store: Callable[[], Store], ask: Ask, ids: Sequence[ChunkId]) -> Callable[[], float]:
    async def measured() -> float:
        store = open_store()
        await store.get_many(ids[:2])  # connects
        start = time.perf_counter()
        got = await ask(store, ids)
        taken_s = time.perf_counter() - start
        await store.close()
        assert got == len(ids)
        return len(ids) / taken_s

    return lambda: uvloop.run(measured())


async def _batches(store: Store, ids: Sequence[ChunkId]) -> int:
    got = 0
    for at in range(0, len(ids), _BATCH):
        answers = await store.get_many(ids[at : at + _BATCH])
        got += sum(isinstance(one, bytes) for one in answers.values())
    return got


async def _each(store: Store, ids: Sequence[ChunkId]) -> int:
    """One at a time from a redis; from a Hub a batch's worth, 16 of them under way."""
    if isinstance(store, HttpStore):
        return await _batches(store, ids)
    got = 0
    for id in ids:
        got += isinstance((await store.get_many([id]))[id], bytes)
    return got


def _redis_py(port: int, ids: Sequence[ChunkId]) -> float:
    return uvloop.run(_mget(port, ids))


async def _mget(port: int, ids: Sequence[ChunkId]) -> float:
    client = redis.asyncio.Redis(port=port)
    await client.ping()
    start = time.perf_counter()
    got = 0
    for at in range(0, len(ids), _BATCH):
        answers = await cast(Awaitable[list[bytes | None]], client.mget(list(ids[at : at + _BATCH])))
        got += sum(one is not None for one in answers)
    taken_s = time.perf_counter() - start
    await client.aclose()
    assert got == len(ids)
    return len(ids) / taken_s


async def _fill(store: Store, chunks: dict[ChunkId, bytes]) -> None:
    await store.put_many(chunks)
    await store.close()
