"""Writes that come while others are being done are done together afterwards (async).

A trip to a thread and back costs more than a write of 4 KiB, and a file takes one write at a time anyway. So
a vdisk has few batches under way, and the busier it is the larger they get.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

Write = tuple[int, memoryview]
Outcome = Exception | None

_BATCH_BYTES: Final = 4 << 20


class Batches:
    """`write` is called at most `lanes` times at once, and tells what became of each."""

    def __init__(self, write: Callable[[list[Write]], Awaitable[Sequence[Outcome]]], lanes: int = 1) -> None:
        self._write = write
        self._idle = lanes
        self._waiting: deque[tuple[Sequence[Write], asyncio.Future[Sequence[Outcome]]]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()

    async def put(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        """What became of each. Not to be cancelled: what is being written still needs its data."""
        if self._idle:  # then nobody waits
            self._idle -= 1
            try:
                return await self._write(list(writes))
            finally:
                self._go_on()
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        self._waiting.append((writes, answer))
        return await answer

    def _go_on(self) -> None:
        """With what came meanwhile, if anything did."""
        if not self._waiting:
            self._idle += 1
            return
        lane = asyncio.create_task(self._work())
        self._lanes.add(lane)
        lane.add_done_callback(self._lanes.discard)

    async def _work(self) -> None:
        """One batch after the other until nobody waits."""
        while self._waiting:
            batch = self._next()
            try:
                writes = [write for some, _ in batch for write in some]
                outcomes = await self._write(writes)
            except Exception as error:  # noqa: BLE001 - it reaches all who wait
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            at = 0
            for some, answer in batch:
                if not answer.done():
                    answer.set_result(outcomes[at : at + len(some)])
                at += len(some)
        self._idle += 1

    def _next(self) -> list[tuple[Sequence[Write], "asyncio.Future[Sequence[Outcome]]"]]:
        """Those who wait, as far as one batch goes; at least the first."""
        batch = [self._waiting.popleft()]
        size = sum(len(data) for _, data in batch[0][0])
        while self._waiting and size < _BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += sum(len(data) for _, data in batch[-1][0])
        return batch
