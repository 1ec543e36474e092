"""What a job waits for and a signal gives up: the moments just before and after its end."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from g8node.jobs.commands.corex import GivenUp, stoppable


class Waiting:
    """A job that waits for work which a gate lets end."""

    def __init__(self) -> None:
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        self.undone: list[int] = []
        self.job = SimpleNamespace(run=None, early=set(), attach=self._attach)
        context: Any = SimpleNamespace(job=self.job)
        self.task = asyncio.ensure_future(stoppable(context, self._work(), undo=self.undone.append))

    def _attach(self, run: Any) -> None:
        self.job.run = run

    async def _work(self) -> int:
        self.begun.set()
        await self.gate.wait()
        return 5

    async def attached(self) -> Any:
        await self.begun.wait()
        return self.job.run

    async def work_has_ended(self) -> Any:
        """The work has, and the job has not seen it yet."""
        run = await self.attached()
        self.gate.set()
        await asyncio.sleep(0)
        assert run._task.done()
        assert not self.task.done()
        return run


async def test_signal_gives_the_work_up() -> None:
    waiting = Waiting()
    (await waiting.attached()).signal(9)
    with pytest.raises(GivenUp, match="signal 9") as given_up:
        await waiting.task
    assert (given_up.value.number, waiting.undone, waiting.job.run) == (9, [], None)


async def test_signal_that_comes_as_the_work_ends_is_kept_for_what_runs_next() -> None:
    waiting = Waiting()
    (await waiting.work_has_ended()).signal(15)
    assert await waiting.task == 5
    assert (waiting.job.early, waiting.undone) == ({15}, [])


async def test_job_that_is_cancelled_as_the_work_ends_undoes_it() -> None:
    waiting = Waiting()
    await waiting.work_has_ended()
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert waiting.undone == [5]


async def test_job_that_is_cancelled_before_has_nothing_to_undo() -> None:
    waiting = Waiting()
    await waiting.attached()
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert waiting.undone == []
