"""Holding a container still for as long as something takes (async): freezing it, and who waits meanwhile.

A process that enters a frozen container would stop on the threshold, with the runtime that starts it, so that
none enters: it is waited for those that have begun, and others wait until the container moves again. A file
says that it is held, for the agent that comes after one that was killed meanwhile.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from g8node.linux import cgroup, namespace
from g8node.linux.guard import off_loop
from g8node.runtime import blocking
from g8node.runtime.finishing import between


class Stillness:
    """Of one container; `times` counts how often it was held."""

    def __init__(self) -> None:
        self._moves = asyncio.Event()
        self._moves.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._entering = 0
        self.times = 0

    @contextlib.asynccontextmanager
    async def entering(self) -> AsyncIterator[None]:
        """While a process is being started inside."""
        while not self._moves.is_set():
            await self._moves.wait()
        self._entering += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._entering -= 1
            if not self._entering:
                self._empty.set()

    async def moving(self) -> None:
        """Returns when it is not held."""
        await self._moves.wait()

    @contextlib.asynccontextmanager
    async def held(
        self, freeze: Callable[[], Coroutine[Any, Any, None]], thaw: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """One holder at a time."""
        self._moves.clear()
        self.times += 1
        try:
            await self._empty.wait()
            async with between(freeze(), thaw):
                yield
        finally:
            self._moves.set()


@contextlib.asynccontextmanager
async def still(stillness: Stillness, pid: int, group: str, mark: str) -> AsyncIterator[None]:
    """Nothing moves in the control group or, when there is none, in the pid namespace of `pid`.

    The file `mark` is there for as long.
    """
    stopped: set[int] = set()

    async def freeze() -> None:
        await blocking.run("path", _write, mark)
        if group:
            await blocking.run("disk", cgroup.freeze, group)
        else:
            await blocking.run("disk", _stop, pid, stopped)

    async def thaw() -> None:
        if group:
            await blocking.run("disk", cgroup.thaw, group)
        else:
            await blocking.run("disk", _continue, pid, stopped)
        await blocking.run("path", _remove, mark)

    async with stillness.held(freeze, thaw):
        yield


@off_loop
def release(pid: int, group: str) -> None:
    """Set going what somebody else has left still."""
    if group:
        cgroup.thaw(group)
    else:
        _signal(set(namespace.inner_pids(pid)), signal.SIGCONT)


def _write(mark: str) -> None:
    with open(mark, "wb"):
        pass


def _remove(mark: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(mark)


@off_loop
def _stop(pid: int, stopped: set[int]) -> None:
    """Until no look finds another one: what was just being made is among them."""
    while new := namespace.inner_pids(pid).keys() - stopped:
        stopped |= new
        _signal(new, signal.SIGSTOP)


@off_loop
def _continue(pid: int, stopped: set[int]) -> None:
    _signal(stopped & namespace.inner_pids(pid).keys(), signal.SIGCONT)


def _signal(pids: set[int], number: int) -> None:
    for each in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)
