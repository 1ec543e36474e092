"""Decorator: ask again what may succeed later, a bounded number of times (async)."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from g8node.errors import Unavailable
from g8node.ids import ChunkId
from g8node.store.base import Store, StoreError


class RetryingStore:
    """Only Unavailable is retried, and of a batch only the ids that failed. Delays double and jitter."""

    def __init__(
        self,
        inner: Store,
        *,
        attempts: int = 3,
        first_delay_s: float = 0.1,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._inner = inner
        self._attempts = attempts
        self._first_delay_s = first_delay_s
        self._sleep = sleep

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        answers = await self._inner.get_many(ids)
        for attempt in range(1, self._attempts):
            failed = [id for id, got in answers.items() if isinstance(got, Unavailable)]
            if not failed:
                break
            await self._pause(attempt)
            answers |= await self._inner.get_many(failed)
        return answers

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        for attempt in range(1, self._attempts):
            try:
                return await self._inner.put_many(chunks)
            except Unavailable:
                await self._pause(attempt)
        await self._inner.put_many(chunks)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        for attempt in range(1, self._attempts):
            try:
                return await self._inner.missing(ids)
            except Unavailable:
                await self._pause(attempt)
        return await self._inner.missing(ids)

    async def _pause(self, attempt: int) -> None:
        await self._sleep(self._first_delay_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))

    async def close(self) -> None:
        await self._inner.close()
