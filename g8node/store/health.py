"""Decorator: counts and times the calls of a store, and knows whether it is well (async).

    ok -> slow     an exchange takes longer than `slow_s` on average: a call, or each MiB of what it brings
    ok, slow -> down     three calls in a row had no answer at all
    slow, down -> ok     a call or, without any, a probe had one in good time

Nothing is refused to a store that is slow or down: `routed` asks it last, and while it is not well a probe
(the question for a chunk that nobody has) goes out now and then, so that it is used again by itself.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from g8node.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from g8node.ids import ChunkId
from g8node.store.base import Store, StoreError

_STREAK: Final = 3
_WEIGHT: Final = 0.3
_PROBE_LONGEST: Final = 16
_NOBODYS: Final = ChunkId(bytes(32))
_MIB: Final = 1 << 20


class State(IntEnum):
    """In the order in which stores are asked."""

    OK = 0
    SLOW = 1
    DOWN = 2


@dataclass(slots=True)
class StoreStatistics:
    """One store since it was opened. Counts of chunks unless said otherwise."""

    name: str
    state: str = "ok"
    since_s: float = 0.0
    """Seconds in this state."""
    requests: int = 0
    """Calls, whatever their size."""
    failed_requests: int = 0
    hits: int = 0
    absent: int = 0
    errors: int = 0
    stored: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    latency_s: float = 0.0
    """Mean of the last calls: of a call, or of a MiB of a larger one."""
    error: str = ""
    """The last one's message."""


Told = Callable[[StoreStatistics], None]


class WatchedStore:
    """`told` hears of every change of state."""

    def __init__(
        self,
        inner: Store,
        name: str,
        *,
        slow_s: float = 2.0,
        probe_s: float = 1.0,
        told: Told = lambda _: None,
    ) -> None:
        self._inner = inner
        self._slow_s = slow_s
        self._probe_s = probe_s
        self._told = told
        self._counts = StoreStatistics(name)
        self._since = time.monotonic()
        self._streak = 0
        self._probing: asyncio.Task[None] | None = None
        self._closed = False
        self.state = State.OK

    def statistics(self) -> StoreStatistics:
        """The counts, which go on counting."""
        self._counts.since_s = round(time.monotonic() - self._since, 3)
        return self._counts

    def patience_s(self, count: int) -> float:
        """How long an answer to `count` ids may take before it is worth asking elsewhere."""
        expected = self._counts.latency_s * (1 + count / 4)
        return min(max(0.5, 4 * expected), 5.0) if self._counts.requests else 1.0

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        start = time.monotonic()
        self._counts.requests += 1
        try:
            answers = await self._inner.get_many(ids)
        except asyncio.CancelledError:
            self._given_up(time.monotonic() - start)
            raise
        self._judge(answers, time.monotonic() - start)
        return answers

    def _judge(self, answers: Mapping[ChunkId, bytes | StoreError], taken_s: float) -> None:
        counts, size, hits, absent = self._counts, 0, 0, 0
        error = ""
        for got in answers.values():
            if isinstance(got, bytes):
                hits += 1
                size += len(got)
            elif isinstance(got, NotFound):
                absent += 1
            else:
                error = str(got)
        counts.hits += hits
        counts.absent += absent
        counts.errors += len(answers) - hits - absent
        counts.bytes_read += size
        if error and not hits and not absent:
            self._failed(error)
        else:
            counts.error = error or counts.error
            self._answered(taken_s, size)

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        start = time.monotonic()
        self._counts.requests += 1
        size = sum(map(len, chunks.values()))
        try:
            await self._inner.put_many(chunks)
        except Unavailable as error:
            self._failed(str(error))
            raise
        self._counts.stored += len(chunks)
        self._counts.bytes_written += size
        self._answered(time.monotonic() - start, size)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        start = time.monotonic()
        self._counts.requests += 1
        try:
            absent = await self._inner.missing(ids)
        except Unavailable as error:
            self._failed(str(error))
            raise
        self._answered(time.monotonic() - start, len(ids) * len(_NOBODYS))
        return absent

    def _given_up(self, taken_s: float) -> None:
        """A caller that goes before the answer says nothing, unless it waited for long."""
        if taken_s >= self._slow_s:
            self._failed(f"no answer within {taken_s:.1f} s")

    def _failed(self, error: str) -> None:
        self._counts.failed_requests += 1
        self._counts.error = error
        self._streak += 1
        if self._streak >= _STREAK:
            self._become(State.DOWN)

    def _answered(self, taken_s: float, size: int) -> None:
        self._streak = 0
        taken_s /= max(1.0, size / _MIB)
        before = self._counts.latency_s
        if self.state == State.DOWN:
            before = taken_s  # what was measured before the fall says nothing
        weight = _WEIGHT if before else 1.0
        mean = self._counts.latency_s = before + weight * (taken_s - before)
        if mean > self._slow_s:
            self._become(State.SLOW)
        elif self.state != State.SLOW or mean < self._slow_s / 2:
            self._become(State.OK)

    def _become(self, state: State) -> None:
        if state == self.state:
            return
        self.state = state
        self._since = time.monotonic()
        self._counts.state = state.name.lower()
        self._told(self.statistics())
        if state != State.OK and self._probing is None and not self._closed:
            self._probing = asyncio.create_task(self._probe(), name=f"store-probe {self._counts.name}")

    async def _probe(self) -> None:
        """Ask until it is well again."""
        pause_s = self._probe_s
        try:
            while self.state != State.OK:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PROBE_LONGEST * self._probe_s)
                start = time.monotonic()
                try:
                    got = (await self._inner.get_many([_NOBODYS])).get(_NOBODYS)
                except (InvalidArgument, PermissionDenied):
                    got = None  # it answers
                if not isinstance(got, Unavailable):
                    self._answered(time.monotonic() - start, 0)
        finally:
            self._probing = None

    async def close(self) -> None:
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        await self._inner.close()
