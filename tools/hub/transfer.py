"""Push and pull (async): an flist with exactly those chunks that the other side does not hold."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Final

import msgspec

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.store.base import Store, StoreError
from g8tools.flist.contents import chunk_ids
from g8tools.hub import beside
from g8tools.hub.client import HubClient

_READ_AT_ONCE: Final = 16
_BATCH_BYTES: Final = 8 << 20
_FETCH_AT_ONCE: Final = 32
_REQUESTS_AT_ONCE: Final = 4

Told = Callable[[int], None]


class Report(msgspec.Struct, frozen=True):
    """What a push or pull did. `bytes_moved` is stored chunk data, without the flist."""

    flist: str
    digest: str
    chunks: int
    chunks_moved: int
    bytes_moved: int


def _nothing(_amount: int) -> None:
    return


async def push(
    hub: HubClient,
    flist: str,
    source: Store | None,
    repository: str,
    name: str,
    total: Told = _nothing,
    advance: Told = _nothing,
) -> Report:
    """Upload the missing chunks, then the flist. Progress counts chunks.

    Without a source nothing may be missing (InvalidArgument). NotFound: the source lacks a chunk.
    """
    ids = await blocking.run("cpu", chunk_ids, flist)
    absent = await hub.chunks.missing(ids)
    missing = [id for id in ids if id in absent]
    if missing and source is None:
        raise InvalidArgument(
            f"{flist}: {len(missing)} of its {len(ids)} chunks are not on {hub.url}",
            hint="--chunks DIR names where they are",
        )
    total(len(missing))
    moved = 0
    if source is not None:
        async for sent in _concurrently(_upload(hub, batch) async for batch in _batches(source, missing)):
            advance(sent[0])
            moved += sent[1]
    around = await blocking.run("disk", _read_beside, flist)
    for kind, data in around.items():
        await hub.put_beside(repository, name, kind, data)
    published = await hub.publish(flist, repository, name)
    return Report(f"{hub.url}/{repository}/{name}", published.digest, len(ids), len(missing), moved)


def _read_beside(flist: str) -> dict[str, bytes]:
    """Signature and profile that lie beside an flist. InvalidArgument: one is of another flist."""
    with open(flist, "rb") as source:
        digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
    found = {}
    for kind in beside.KINDS:
        path = f"{flist}.{kind}"
        if os.path.exists(path):
            with open(path, "rb") as source:
                data = source.read(beside.BYTES_MAX + 1)
            if beside.digest_of(data, kind) != digest:
                raise InvalidArgument(f"{path} is of another flist", hint="make it again, or remove it")
            found[kind] = data
    return found


async def _pull_beside(hub: HubClient, repository: str, name: str, flist: str) -> None:
    for kind in beside.KINDS:
        data = await hub.get_beside(repository, name, kind)
        if data is not None:
            await blocking.run("disk", _replace, f"{flist}.{kind}", data)


def _replace(path: str, data: bytes) -> None:
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "wb") as out:
        out.write(data)
    os.replace(partial, path)


async def _batches(source: Store, ids: Sequence[ChunkId]) -> AsyncIterator[dict[ChunkId, bytes]]:
    batch: dict[ChunkId, bytes] = {}
    held = 0
    for at in range(0, len(ids), _READ_AT_ONCE):
        for id, stored in _present(await source.get_many(ids[at : at + _READ_AT_ONCE])).items():
            batch[id] = stored
            held += len(stored)
            if held >= _BATCH_BYTES:
                yield batch
                batch, held = {}, 0
    if batch:
        yield batch


async def _upload(hub: HubClient, batch: dict[ChunkId, bytes]) -> tuple[int, int]:
    await hub.chunks.put_many(batch)
    return len(batch), sum(map(len, batch.values()))


async def pull(
    hub: HubClient,
    repository: str,
    name: str,
    flist: str,
    target: Store,
    total: Told = _nothing,
    advance: Told = _nothing,
) -> Report:
    """Download an flist, and into the target store the chunks that it lacks. Progress counts chunks."""
    digest = await hub.download(repository, name, flist)
    await _pull_beside(hub, repository, name, flist)
    ids = await blocking.run("cpu", chunk_ids, flist)
    absent = await target.missing(ids)
    missing = [id for id in ids if id in absent]
    total(len(missing))
    moved = 0

    async def fetch(part: Sequence[ChunkId]) -> tuple[int, int]:
        got = _present(await hub.chunks.get_many(part))
        await target.put_many(got)
        return len(got), sum(map(len, got.values()))

    async def parts() -> AsyncIterator[Sequence[ChunkId]]:
        for at in range(0, len(missing), _FETCH_AT_ONCE):
            yield missing[at : at + _FETCH_AT_ONCE]

    async for received in _concurrently(fetch(part) async for part in parts()):
        advance(received[0])
        moved += received[1]
    return Report(flist, digest, len(ids), len(missing), moved)


def _present(answers: Mapping[ChunkId, bytes | StoreError]) -> dict[ChunkId, bytes]:
    """All of them, or the first failure."""
    present: dict[ChunkId, bytes] = {}
    for id, got in answers.items():
        if not isinstance(got, bytes):
            raise got
        present[id] = got
    return present


async def _concurrently(
    works: AsyncIterator[Coroutine[None, None, tuple[int, int]]],
) -> AsyncIterator[tuple[int, int]]:
    """Results as they come, a bounded number under way; the first failure ends the others."""
    running: set[asyncio.Task[tuple[int, int]]] = set()
    try:
        async for work in works:
            running.add(asyncio.ensure_future(work))
            if len(running) >= _REQUESTS_AT_ONCE:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
