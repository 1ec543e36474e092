"""An agent that tells of itself: `python -m tests.support.counted`, as `python -m g8node`."""

import asyncio
import os
import sys

from g8node import __main__ as program
from g8node import main
from g8node.jobs.registry import Context, command


@command("test.counts", role="reader")
async def counts(_ctx: Context) -> dict[str, int]:
    """What the loop has under way, and the threads."""
    return {"tasks": len(asyncio.all_tasks()), "threads": len(os.listdir("/proc/self/task"))}


if __name__ == "__main__":
    main.EARLY = (*main.EARLY, sys.modules["__main__"])
    program.run()
