"""The end of a process that a client talks with."""

import asyncio
import os
import time

from g8node.jobs.interactive import DRAIN_S, Session
from g8node.jobs.job import Job
from g8node.jobs.runs import Valve
from g8node.runtime.process import Child
from tests.support.redis import command

WORDS = b"last words\n" * 5000
"""More than a reader takes at once, and less than a pipe holds."""


async def test_output_is_read_when_the_machine_stood_still_at_the_end_of_the_process() -> None:
    exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    session = Session(Job(command("corex.exec", "1"), lambda *_: None), Child(0, exited), Valve())
    ends = [os.pipe(), os.pipe()]
    session.on_pipes(-1, *(end for end, _ in ends))
    running = asyncio.create_task(session.run())
    exited.set_result(0)
    for _ in range(5):  # until it waits for the last output
        await asyncio.sleep(0)
    for _, end in ends:
        os.write(end, WORDS)
        os.close(end)
    time.sleep(DRAIN_S * 1.2)  # noqa: ASYNC251 - a loop that stands still
    assert (await running).streams == (WORDS.decode(), WORDS.decode())
