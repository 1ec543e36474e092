"""Decorator: bounded requests and bytes in flight; the rest waits its turn (async)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from g8node.ids import ChunkId
from g8node.store.base import Store, StoreError


class LimitedStore:
    """First come, first served. A batch larger than the byte limit goes alone.

    The size of a chunk that is asked for is not known before the answer: `chunk_bytes` stands for it.
    """

    def __init__(
        self, inner: Store, *, requests: int = 16, size_bytes: int = 64 << 20, chunk_bytes: int = 512 << 10
    ) -> None:
        self._inner = inner
        self._requests = requests
        self._limit = self._free = size_bytes
        self._chunk_bytes = chunk_bytes
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        async with self._turn(len(ids) * self._chunk_bytes):
            return await self._inner.get_many(ids)

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        async with self._turn(sum(map(len, chunks.values()))):
            await self._inner.put_many(chunks)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        async with self._turn(0):
            return await self._inner.missing(ids)

    async def close(self) -> None:
        await self._inner.close()

    @asynccontextmanager
    async def _turn(self, size: int) -> AsyncIterator[None]:
        size = min(size, self._limit)
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, admitted))
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._requests += 1
                self._free += size
            self._admit()

    def _admit(self) -> None:
        while self._queue and self._requests:
            size, admitted = self._queue[0]
            if not admitted.cancelled():
                if size > self._free:
                    return
                self._requests -= 1
                self._free -= size
                admitted.set_result(None)
            self._queue.popleft()
