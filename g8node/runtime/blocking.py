"""Named, bounded thread pools: the only way from async code to a blocking call (async).

One pool a kind of wait, so that a stuck file system cannot starve process starts or hashing.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Pool = Literal["path", "cpu", "disk", "pipes", "auth", "vdisk", "fsync", "lone"]

SIZES: Final[dict[Pool, int]] = {
    "path": 16,  # mounts and paths that our own FUSE session may serve; may hang for as long as a store does
    "cpu": 2,  # hashing, compression, building images
    "disk": 8,  # files on the root file system and the local cache
    "pipes": 32,  # a child's stdin, stdout, stderr; each may wait for a file that our own FUSE session serves
    "vdisk": 8,  # blocks of vdisks that are not in memory, and writes that are more than that (see writes.py)
    "fsync": 4,  # flushes of vdisks, which take as long as a disk likes, and must not delay reads
    "lone": 8,  # clients of vdisks that wait for the disk with each request, each for a moment
    "auth": 1,  # signatures and certificates at the gate, which must not wait behind images being built
}

_pools: dict[Pool, ThreadPoolExecutor] = {}


def pool(name: Pool) -> ThreadPoolExecutor:
    """The executor itself, for callers that submit many items."""
    if name not in _pools:
        _pools[name] = ThreadPoolExecutor(SIZES[name], thread_name_prefix=f"g8-{name}")
    return _pools[name]


async def run(name: Pool, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run fn in the named pool. Cancelling the caller does not stop a call that has begun."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    # Half the cost of run_in_executor, which matters to blocks of 4 KiB.
    work = pool(name).submit(_call, loop, [answer], functools.partial(fn, *args, **kwargs))
    try:
        return await answer
    except asyncio.CancelledError:
        work.cancel()
        raise
    finally:
        # An error holds the frames that it came through. If one of them held `answer`, which holds the error,
        # all that the call had in hand (files, say) would stay open until the next garbage collection.
        del answer, work


def _call(loop: asyncio.AbstractEventLoop, to: list[asyncio.Future[T]], fn: Callable[[], T]) -> None:
    """In the thread: call, and tell the loop, if it is still there; `to` is emptied."""
    answer = to.pop()
    try:
        value = fn()
    except BaseException as error:  # noqa: BLE001 - it reaches who waits
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_refuse, answer, error)
        del answer  # see run
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, answer, value)


def _settle(answer: asyncio.Future[T], value: T) -> None:
    if not answer.done():
        answer.set_result(value)


def _refuse(answer: asyncio.Future[T], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def close() -> None:
    """Give idle threads back. A call that hangs keeps its thread: main leaves by `os._exit` or reboot(2)."""
    for executor in _pools.values():
        executor.shutdown(wait=False, cancel_futures=True)
    _pools.clear()
