"""What must not be left half-way (async)."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from g8node.runtime import logs

T = TypeVar("T")

log = logs.get("finishing")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Its value. It goes on to its end when the caller is cancelled; an error that it then has is logged."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_report)
        raise


def _report(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("what nobody waits for any more failed", reason=str(error))
