"""Fetching the chunks of an flist before anybody reads them (async)."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from g8node.errors import NodeError
from g8node.flist.plan import ChunkRef, ImagePlan
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.fetch import BATCH_BYTES, BATCH_COUNT, Fetcher
from g8node.store.base import Store

_AHEAD: Final = 4
"""Batches under way at once: readers must still get their turn at the store."""

_FIRST_BYTES: Final = 256 << 10
"""Of the first batch, each next one is twice as large: what is read first shall not wait for the rest."""


@dataclass(slots=True)
class Fetched:
    """Chunks and plain bytes that are local now; `cached` of them were before; `failed` are not."""

    chunks: int = 0
    size_bytes: int = 0
    cached: int = 0
    failed: int = 0
    error: str = ""
    """Why the first one failed."""


def wanted(plan: ImagePlan, folders: Sequence[bytes] = ()) -> Iterable[ChunkRef]:
    """The chunks of the plan whose file lies below one of the folders (none: all), in image order.

    A chunk that several files share is known by the first of them.
    """
    for index in range(plan.chunk_count):
        ref = plan.chunk(index)
        if not folders or any(_below(ref.file_name, folder) for folder in folders):
            yield ref


def _below(name: bytes, folder: bytes) -> bool:
    return not folder or name == folder or name.startswith(folder + b"/")


async def fetch_all(fetcher: Fetcher, cache: ChunkCache, store: Store, refs: Iterable[ChunkRef]) -> Fetched:
    """Bring the chunks into the cache, batch by batch, in their order. Cancelling stops it, no more."""
    done = Fetched()
    pending: set[asyncio.Task[None]] = set()
    try:
        for batch in _batches(refs, cache, done):
            while len(pending) >= _AHEAD:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            pending.add(asyncio.create_task(_one(fetcher, store, batch, done)))
            await asyncio.sleep(0)  # a plan of a million chunks, all cached, must not hold the loop
        if pending:
            await asyncio.wait(pending)
        await fetcher.settled()
    finally:
        for task in pending:
            task.cancel()
    return done


def _batches(refs: Iterable[ChunkRef], cache: ChunkCache, done: Fetched) -> Iterable[list[ChunkRef]]:
    """Empty ones too, so that the caller gives way to others."""
    batch: list[ChunkRef] = []
    size = 0
    most = _FIRST_BYTES
    for count, ref in enumerate(refs, 1):
        if cache.has(ref.id):
            done.cached += 1
            done.chunks += 1
            done.size_bytes += ref.plain_size
        else:
            batch.append(ref)
            size += ref.plain_size
        if len(batch) == BATCH_COUNT or size >= most or count % 4096 == 0:
            yield batch
            batch, size, most = [], 0, min(2 * most, BATCH_BYTES)
    yield batch


async def _one(fetcher: Fetcher, store: Store, batch: list[ChunkRef], done: Fetched) -> None:
    results = await asyncio.gather(*(fetcher.get(store, ref) for ref in batch), return_exceptions=True)
    for ref, result in zip(batch, results, strict=True):
        if isinstance(result, bytes):
            done.chunks += 1
            done.size_bytes += ref.plain_size
        elif isinstance(result, NodeError):
            done.failed += 1
            done.error = done.error or f"{ref.file_name.decode(errors='replace')}: {result}"
        else:
            raise result
