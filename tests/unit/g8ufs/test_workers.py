"""Workers of the FUSE session end without a trace."""

import asyncio
import errno

from g8node.g8ufs.workers import Workers


async def test_ended_workers_are_forgotten() -> None:
    async def short() -> None:
        pass

    async def dies() -> None:
        raise OSError(errno.EAGAIN, "the reader was killed")

    async with Workers() as workers:
        for _ in range(100):
            workers.start_soon(short)
            workers.start_soon(dies, name="pyfuse-01")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not workers.tasks


async def test_leaving_waits_for_the_last_worker() -> None:
    ended: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0)
        ended.append("second")

    async def first(workers: Workers) -> None:
        workers.start_soon(second)
        ended.append("first")

    async with Workers() as workers:
        workers.start_soon(first, workers)
    assert ended == ["first", "second"]
