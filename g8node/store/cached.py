"""Decorator: a store behind a nearer one, which is filled with what was asked for (async).

A chunk is fetched once however many callers wait for it, and goes on when one of them leaves. The nearer
store is written to in the background, from a queue of bounded size: what does not fit is not kept, and
nobody waits.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from g8node.errors import NodeError, NotFound, Unavailable
from g8node.ids import ChunkId
from g8node.runtime import logs
from g8node.store.base import Store, StoreError

log = logs.get("store.cached")

_WRITE_BYTES: Final = 4 << 20
_WRITERS: Final = 2

Answer = bytes | StoreError


class CachedStore:
    """Both stores are verified ones, or somebody else checks what comes out. `dropped`: chunks not kept."""

    def __init__(self, inner: Store, near: Store, *, queue_bytes: int = 32 << 20) -> None:
        self._inner = inner
        self._near = near
        self._queue_bytes = queue_bytes
        self._queue: dict[ChunkId, bytes] = {}
        self._queued = 0
        self._writers: set[asyncio.Task[None]] = set()
        self._flights: dict[ChunkId, asyncio.Future[Answer]] = {}
        self._fetches: set[asyncio.Task[None]] = set()
        self._failing = False
        self.dropped = 0

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, Answer]:
        wanted = list(dict.fromkeys(ids))
        fresh = [id for id in wanted if id not in self._flights]
        if fresh:
            self._fetch(fresh)
        flights = [self._flights[id] for id in wanted]
        if flights:
            await asyncio.wait(flights)
        return dict(zip(wanted, (flight.result() for flight in flights), strict=True))

    def _fetch(self, ids: list[ChunkId]) -> None:
        loop = asyncio.get_running_loop()
        for id in ids:
            self._flights[id] = loop.create_future()
        task = asyncio.create_task(self._land(ids), name="store-fetch")
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _land(self, ids: list[ChunkId]) -> None:
        answers: Mapping[ChunkId, Answer] = {}
        try:
            answers = await self._ask(ids)
        except NodeError as error:
            answers = dict.fromkeys(ids, Unavailable(str(error)))
        finally:
            for id in ids:
                answer = answers.get(id, Unavailable(f"chunk {id.hex()}: the store is closed"))
                self._flights.pop(id).set_result(answer)

    async def _ask(self, ids: list[ChunkId]) -> Mapping[ChunkId, Answer]:
        answers = await self._near.get_many(ids)
        rest = [id for id in ids if not isinstance(answers.get(id), bytes)]
        if not rest:
            return answers
        found = await self._inner.get_many(rest)
        for id, got in found.items():
            if isinstance(got, NotFound) and isinstance(answers.get(id), Unavailable):
                continue  # the nearer one may have it
            answers[id] = got
        self._keep((id, got) for id, got in found.items() if isinstance(got, bytes))
        return answers

    def _keep(self, chunks: Iterable[tuple[ChunkId, bytes]]) -> None:
        """Queue them for the nearer store, as far as there is room."""
        for id, stored in chunks:
            if id in self._queue:
                continue
            if self._queued + len(stored) > self._queue_bytes:
                self.dropped += 1
                continue
            self._queue[id] = stored
            self._queued += len(stored)
        if self._queue and len(self._writers) < _WRITERS:
            task = asyncio.create_task(self._write(), name="store-write-back")
            self._writers.add(task)
            task.add_done_callback(self._writers.discard)

    async def _write(self) -> None:
        while self._queue:
            batch: dict[ChunkId, bytes] = {}
            size = 0
            while self._queue and size < _WRITE_BYTES:
                id = next(iter(self._queue))
                batch[id] = self._queue.pop(id)
                size += len(batch[id])
            try:
                await self._near.put_many(batch)
                self._failing = False
            except NodeError as error:
                self.dropped += len(batch)
                if not self._failing:
                    log.warning("cannot fill the nearer store", error=str(error))
                self._failing = True
            finally:
                self._queued -= size

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Into the store behind, then, as far as there is room, into the nearer one."""
        await self._inner.put_many(chunks)
        self._keep(chunks.items())

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """What the store behind lacks: a cache may forget."""
        return await self._inner.missing(ids)

    async def close(self) -> None:
        """What is queued is given up: it can be fetched again."""
        self._queue.clear()
        tasks = [*self._writers, *self._fetches]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._near.close()
        await self._inner.close()
