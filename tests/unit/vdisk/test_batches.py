"""Batches of writes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from g8node.runtime import blocking
from g8node.vdisk.batches import Batches, Outcome, Write

DATA = memoryview(b"x" * 512)


@pytest.fixture(autouse=True)
async def _threads() -> AsyncIterator[None]:
    yield
    blocking.close()


class Disk:
    """Writes when it is let; `seen` has the offsets of each batch."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.began = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.let = threading.Event()

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        return await blocking.run("vdisk", self._write, writes)

    def _write(self, writes: Sequence[Write]) -> list[Outcome]:
        self.seen.append([offset for offset, _ in writes])
        self._loop.call_soon_threadsafe(self.began.set)
        assert self.let.wait(60)
        return [OSError(5, "bad") if offset == 3 else None for offset, _ in writes]


async def test_what_comes_meanwhile_is_one_batch_and_each_gets_its_own_outcome() -> None:
    disk = Disk()
    batches = Batches(disk.write)
    tasks = [asyncio.create_task(batches.put([(0, DATA)]))]
    await disk.began.wait()
    tasks += [asyncio.create_task(batches.put([(at, DATA), (at + 1, DATA)])) for at in (1, 3, 5)]
    await asyncio.sleep(0)
    disk.let.set()
    first, one, two, three = await asyncio.gather(*tasks)
    assert disk.seen == [[0], [1, 2, 3, 4, 5, 6]]
    assert (list(first), list(one), list(three)) == ([None], [None] * 2, [None] * 2)
    assert isinstance(two[0], OSError)
    assert two[1] is None


async def test_batch_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g8node.vdisk.batches._BATCH_BYTES", 1024)
    disk = Disk()
    batches = Batches(disk.write)
    tasks = [asyncio.create_task(batches.put([(at, DATA)])) for at in range(5)]
    await asyncio.sleep(0)
    disk.let.set()
    await asyncio.gather(*tasks)
    assert [len(seen) for seen in disk.seen] == [1, 2, 2]


async def test_failure_of_a_batch_reaches_all_and_the_next_one_goes_on() -> None:
    calls = []

    async def write(writes: Sequence[Write]) -> list[Outcome]:
        calls.append(len(writes))
        await asyncio.sleep(0)
        if len(calls) <= 2:
            raise MemoryError
        return [None] * len(writes)

    batches = Batches(write)
    puts = (batches.put([(at, DATA)]) for at in range(3))
    found = await asyncio.gather(*puts, return_exceptions=True)
    assert all(isinstance(one, MemoryError) for one in found)
    assert calls == [1, 2]
    assert await batches.put([(3, DATA)]) == [None]
