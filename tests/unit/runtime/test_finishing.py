"""Work that is not left half-way: what is begun is ended, in this order."""

import asyncio

import pytest

from g8node.runtime.finishing import between


class Work:
    """A beginning that goes on when it is let go, as a thread does, and an end."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.started = asyncio.Event()
        self.released = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: Exception | None = None

    async def begin(self) -> str:
        self.started.set()
        await self.released.wait()
        self.order.append("begun")
        if self.error is not None:
            raise self.error
        return "value"

    async def end(self) -> None:
        await asyncio.sleep(0)
        self.order.append("ended")
        self.ended.set()

    async def use(self) -> None:
        async with between(self.begin(), self.end) as value:
            self.order.append(value)


async def test_what_was_begun_is_there_and_ended_afterwards() -> None:
    work = Work()
    work.released.set()
    await work.use()
    assert work.order == ["begun", "value", "ended"]


@pytest.mark.parametrize("cancels", [1, 2])
async def test_end_waits_for_a_beginning_whose_user_was_cancelled(cancels: int) -> None:
    work = Work()
    using = asyncio.create_task(work.use())
    await work.started.wait()
    for _ in range(cancels):
        using.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert work.order == []
    work.released.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    await work.ended.wait()
    assert work.order == ["begun", "ended"]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_failed_beginning_is_ended_too(is_cancelled: bool) -> None:
    work = Work()
    work.error = ValueError("no")
    using = asyncio.create_task(work.use())
    await work.started.wait()
    if is_cancelled:
        using.cancel()
        await asyncio.sleep(0)
    work.released.set()
    with pytest.raises(asyncio.CancelledError if is_cancelled else ValueError):
        await using
    assert work.order == ["begun", "ended"]
