"""Fetching chunks that the cache does not hold: single flight, batched, bounded, verified (async).

All chunks that reads ask for in one turn of the loop go to their store as one batch. A chunk is fetched once
however many mounts wait for it; a waiter whose own store differs tries that one when the shared flight fails.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from g8node.errors import DeadlineExceeded, InvalidArgument, NodeError, Unavailable
from g8node.flist.plan import ChunkRef
from g8node.g8ufs.cache import INLINE_BYTES, ChunkCache
from g8node.g8ufs.counters import Fetches
from g8node.g8ufs.segments import Key
from g8node.runtime import blocking, logs
from g8node.store.base import Store

log = logs.get("g8ufs.fetch")

BATCH_COUNT: Final = 256
BATCH_BYTES: Final = 4 << 20
_FAILED_S: Final = 0.25
"""A failed chunk fails at once for this long: the kernel asks up to three times for one read(2), and each
would wait for the whole time limit."""


class ByteBudget:
    """A semaphore counted in bytes. A request larger than the budget takes all of it."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._free = budget_bytes
        self._changed = asyncio.Condition()

    async def acquire(self, size: int) -> int:
        """Waits until there is room; give the returned number back with `release`."""
        size = min(size, self._budget)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        return size

    async def release(self, size: int) -> None:
        async with self._changed:
            self._free += size
            self._changed.notify_all()


class _Flight:
    """One chunk on its way from one store."""

    def __init__(self, store: Store, ref: ChunkRef) -> None:
        self.store = store
        self.ref = ref
        self.plain: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        # Every waiter may be gone when it fails: that is no "exception was never retrieved".
        self.plain.add_done_callback(lambda future: future.cancelled() or future.exception())


class Fetcher:
    """Shared by all mounts of the process. Never touches a path of our own session."""

    def __init__(self, cache: ChunkCache, *, budget_bytes: int, time_limit_s: float) -> None:
        self._cache = cache
        self._budget = ByteBudget(budget_bytes)
        self._time_limit_s = time_limit_s
        self._flights: dict[Key, _Flight] = {}
        self._queues: dict[int, list[_Flight]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: dict[tuple[int, Key], tuple[float, NodeError, Store]] = {}  # so that no id is another's
        self._closed = False
        self.counters = Fetches()

    async def get(self, store: Store, ref: ChunkRef) -> bytes:
        """The plain chunk. Raises NotFound, Unavailable or DeadlineExceeded. Safe to cancel."""
        self._check(store, ref)
        key = Key(ref.id, ref.key)
        if key not in self._flights and (plain := self._cache.recent.get(key)) is not None:
            return plain  # it came while the caller looked for others in the cache
        flight = self._flight(store, ref)
        try:
            return await asyncio.shield(flight.plain)
        except NodeError:
            if flight.store is store:
                raise
        return await asyncio.shield(self._flight(store, ref).plain)

    def _check(self, store: Store, ref: ChunkRef) -> None:
        """Raise what there is to raise without asking the store."""
        if self._closed:
            raise Unavailable("g8ufs is shutting down")
        if not self._failed:
            return
        now = time.monotonic()
        self._failed = {key: at for key, at in self._failed.items() if now - at[0] < _FAILED_S}
        if failed := self._failed.get((id(store), Key(ref.id, ref.key))):
            raise failed[1]

    async def get_many(self, store: Store, refs: Sequence[ChunkRef]) -> list[bytes]:
        """All of them, in order; raises the first failure."""
        return list(await asyncio.gather(*(self.get(store, ref) for ref in refs)))

    def _flight(self, store: Store, ref: ChunkRef) -> _Flight:
        key = Key(ref.id, ref.key)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(store, ref)
            self.counters.in_flight += 1
            flight.plain.add_done_callback(self._landed)
            queue = self._queues.setdefault(id(store), [])
            if not queue:
                asyncio.get_running_loop().call_soon(self._launch, store)
            queue.append(flight)
        return flight

    def _landed(self, _: asyncio.Future[bytes]) -> None:
        self.counters.in_flight -= 1

    def _launch(self, store: Store) -> None:
        """Turn what this turn of the loop asked of a store into batches."""
        batch: list[_Flight] = []
        size = 0
        for flight in self._queues.pop(id(store), []):
            if batch and (len(batch) == BATCH_COUNT or size + flight.ref.plain_size > BATCH_BYTES):
                self._start(store, batch, size)
                batch, size = [], 0
            batch.append(flight)
            size += flight.ref.plain_size
        if batch:
            self._start(store, batch, size)

    def _start(self, store: Store, batch: list[_Flight], size: int) -> None:
        task = asyncio.create_task(self._run(store, batch, size), name="g8ufs-fetch")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, store: Store, batch: list[_Flight], size: int) -> None:
        taken = 0
        failure: NodeError = Unavailable("the fetch ended early")
        try:
            async with asyncio.timeout(self._time_limit_s):
                taken = await self._budget.acquire(size)
                chunks = await self._fetch(store, batch)
            await self._cache.add_many(chunks)
        except TimeoutError:
            failure = DeadlineExceeded(f"no answer from the chunk store within {self._time_limit_s:g} s")
        except NodeError as error:
            failure = error
        except asyncio.CancelledError:
            failure = Unavailable("g8ufs is shutting down")
            raise
        except Exception as error:
            log.exception("bug while fetching chunks")
            failure = Unavailable(f"internal error: {error}")
        finally:
            for flight in batch:
                key = Key(flight.ref.id, flight.ref.key)
                if not flight.plain.done():
                    self._fail(flight, failure)
                elif self._flights.get(key) is flight:
                    del self._flights[key]
            if taken:
                await asyncio.shield(self._budget.release(taken))

    async def _fetch(self, store: Store, batch: list[_Flight]) -> list[tuple[Key, bytes]]:
        """Ask, decode and wake the readers; what was good is returned for the cache."""
        answers = await store.get_many([flight.ref.stored_as for flight in batch])
        stored: list[tuple[_Flight, bytes]] = []
        for flight in batch:
            answer = answers.get(flight.ref.stored_as, Unavailable("the store left a chunk unanswered"))
            if isinstance(answer, bytes):
                self.counters.stored_bytes += len(answer)
                stored.append((flight, answer))
            else:
                self._fail(flight, answer)
        jobs = [(flight.ref, data) for flight, data in stored]
        if sum(flight.ref.plain_size for flight, _ in stored) <= INLINE_BYTES:
            decoded = _decode(jobs)
        else:
            decoded = await blocking.run("cpu", _decode, jobs)
        good: list[tuple[Key, bytes]] = []
        for (flight, _), plain in zip(stored, decoded, strict=True):
            if isinstance(plain, bytes):
                good.append((Key(flight.ref.id, flight.ref.key), plain))
                self.counters.chunks += 1
                if not flight.plain.done():
                    flight.plain.set_result(plain)
            else:
                self._fail(flight, plain)
        return good

    def _fail(self, flight: _Flight, error: NodeError) -> None:
        key = Key(flight.ref.id, flight.ref.key)
        self.counters.errors += 1
        self._failed[id(flight.store), key] = (time.monotonic(), error, flight.store)
        self._flights.pop(key, None)
        flight.plain.set_exception(error)

    async def settled(self) -> None:
        """Returns when what has been fetched until now is in the cache, or cannot be kept."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def close(self) -> None:
        """End what is under way; its readers, and all that come later, get Unavailable."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _decode(jobs: Sequence[tuple[ChunkRef, bytes]]) -> list[bytes | Unavailable]:
    decoded: list[bytes | Unavailable] = []
    for ref, stored in jobs:
        try:
            decoded.append(ref.decode(stored))
        except InvalidArgument as error:
            decoded.append(Unavailable(f"the store gave a wrong chunk: {error.message}"))
    return decoded
