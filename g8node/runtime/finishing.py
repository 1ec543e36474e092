"""What must not be left half-way (async)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
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


@contextlib.asynccontextmanager
async def between(begin: Coroutine[Any, Any, T], end: Callable[[], Awaitable[None]]) -> AsyncIterator[T]:
    """What `begin` gives, and `end` afterwards, also when `begin` failed.

    Whoever is cancelled, `end` begins when `begin` has ended, and not before: a thread goes on.
    """
    beginning = asyncio.ensure_future(begin)
    try:
        yield await asyncio.shield(beginning)
    finally:
        await finish(_end(beginning, end))


async def _end(beginning: "asyncio.Task[Any]", end: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait([beginning])
    if not beginning.cancelled():
        beginning.exception()  # who was cancelled does not ask for it
    await end()


def _report(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("what nobody waits for any more failed", reason=str(error))
