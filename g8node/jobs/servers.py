"""Servers that the node runs for itself, each a protected job (async): started again whenever they end."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from typing import Final

from g8node.errors import Conflict, DeadlineExceeded, Unavailable
from g8node.jobs.job import Job
from g8node.jobs.manager import Manager
from g8node.jobs.model import Command
from g8node.jobs.outcome import Outcome
from g8node.runtime import blocking

_LOOK_S: Final = 0.01
_READY_S: Final = 30.0
_GRACE_S: Final = 5.0


class Servers:
    """By the id of their jobs."""

    def __init__(self, jobs: Manager) -> None:
        self._jobs = jobs

    async def start(self, id: str, argv: Sequence[str], is_ready: Callable[[], bool]) -> None:
        """Returns when the blocking `is_ready` says so. Unavailable, with its last words, when it ends."""
        ended = asyncio.Event()

        def run_ended(_: Job, __: Outcome) -> None:
            ended.set()

        command = Command.make(id, "core.system", {"name": argv[0], "args": list(argv[1:])})
        job = self._jobs.submit(command, protected=True, on_run=run_ended)
        try:
            async with asyncio.timeout(_READY_S):
                while not await blocking.run("disk", is_ready):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), _LOOK_S)
                        raise Unavailable(f"{id} does not start: {_last_words(job)}")
        except BaseException as error:
            await self.stop(id)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"{id} is not ready after {_READY_S:g} s") from error
            raise

    def signal(self, id: str, number: int) -> None:
        """Nothing happens between two of its runs."""
        with contextlib.suppress(Conflict):
            self._jobs.kill(id, number)

    async def stop(self, id: str) -> None:
        """TERM, a while, KILL; returns when it has ended. Nothing happens when there is none."""
        job = self._jobs.find(id)
        if job is None:
            return
        job.release()
        self.signal(id, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.result(), _GRACE_S)
            return
        self.signal(id, signal.SIGKILL)
        await job.result()


def _last_words(job: Job) -> str:
    said = [message.message.strip() for message in job.backlog if message.message.strip()]
    return said[-1][:300] if said else "it ended without a word"
