"""One container from its first start to its last end (async): restarts, health, out of memory.

Theory of operation. A `Life` stands for process 1 over all its runs: who started the container waits for the
end of the last one, and signals the current one. Between two runs the root stays mounted and the output stays
open; what the runtime knows of the run that ended is deleted. The pause before the next run follows the
back-off that all restarts share; `ending` cuts it short.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from g8node.errors import DeadlineExceeded, NodeError
from g8node.node import host
from g8node.node.container import Container
from g8node.node.crun import Streams
from g8node.node.ooms import Ooms
from g8node.node.policies import HealthCheck, health_command
from g8node.runtime import blocking, logs
from g8node.runtime.process import Child

log = logs.get("containers")

_DEATH_S: Final = 60.0

Exec = Callable[[int, list[str], Streams], Awaitable[Child]]
Tell = Callable[..., None]


class Life(Child):
    """Process 1 of a container over all its runs; `exited` is the end of the last one."""

    __slots__ = ("_current",)

    def __init__(self, first: Child) -> None:
        super().__init__(first.pid, asyncio.get_running_loop().create_future(), first.group)
        self._current = first

    def follow(self, child: Child) -> None:
        """The next run."""
        self._current, self.pid, self.group = child, child.pid, child.group

    def signal(self, number: int, *, group: bool = True) -> bool:
        """Signal the current run; False between two."""
        return self._current.signal(number, group=group)


class Lives:
    """Keeps containers alive as they wish; `keep` is one container's."""

    def __init__(
        self,
        run: Callable[[Container, Streams], Awaitable[Child]],
        clear: Callable[[Container], Awaitable[None]],
        execute: Exec,
        tell: Tell,
        ooms: Ooms,
    ) -> None:
        self._run = run
        self._clear = clear
        self._exec = execute
        self._tell = tell
        self._ooms = ooms

    async def keep(self, container: Container, life: Life, streams: Streams | None) -> None:
        """To the end of the last run. `streams` are ours from here on; None: there is one run only."""
        code = -signal.SIGKILL
        try:
            child: Child | None = container.child
            while child is not None:
                code = await self._one(container, child)
                child = None if streams is None else await self._next(container, life, streams, code)
                if child is None:
                    self._tell(container, "died", code=code)
        finally:
            if streams is not None:
                streams.close()
            life.exited.set_result(code)

    async def _one(self, container: Container, child: Child) -> int:
        """One run; its exit code."""
        check = container.spec.health
        watching = asyncio.create_task(self._watch(container, check)) if check is not None else None
        try:
            return await child.wait()
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait([watching])
            await self._ooms.settle(container.id)

    async def _next(self, container: Container, life: Life, streams: Streams, code: int) -> Child | None:
        """The next run, after its pause; None when there is none."""
        restarts, forced = container.restarts, container.sick
        container.sick = False
        delay_s = restarts.after(code, time.monotonic(), forced=forced)
        while delay_s is not None and not container.ending.is_set():
            self._tell(container, "died", code=code, restart_s=delay_s)
            container.running.clear()
            container.pid = life.pid = 0
            await self._clear(container)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(container.ending.wait(), delay_s)
                return None
            try:
                child = await self._run(container, streams)
            except (NodeError, OSError) as error:
                log.warning("a container did not start again", container=container.id, error=str(error))
                code, delay_s = 1, restarts.after(1, time.monotonic(), forced=forced)
            else:
                life.follow(child)
                return child
        return None

    async def _watch(self, container: Container, check: HealthCheck) -> None:
        """Find out how the container does, until it is cancelled or the container is given up or ends."""
        health = container.health
        assert health is not None
        health.status, health.failures = "starting", 0
        counts_from = time.monotonic() + check.start_period
        while True:
            await asyncio.sleep(check.interval)
            await container.stillness.moving()
            held = container.stillness.times
            health.code = await self._checked(container, check)
            if container.ending.is_set():
                return  # what it serves may have ended already, and it has its while to end
            if container.stillness.times != held:
                continue  # it could not answer
            before = health.status
            if health.code == 0:
                health.status, health.failures = "healthy", 0
            elif time.monotonic() >= counts_from:
                health.failures += 1
                if health.failures >= check.retries:
                    health.status = "unhealthy"
            if health.status != before:
                self._tell(container, "health", status=health.status)
            if health.status == "unhealthy" and check.restart and container.child is not None:
                container.sick = True
                container.child.signal(signal.SIGKILL, group=False)
                return

    async def _checked(self, container: Container, check: HealthCheck) -> int | None:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            child = await self._exec(container.id, health_command(check), Streams(null, null, null))
        except (NodeError, OSError):
            return None
        finally:
            os.close(null)
        try:
            return await asyncio.wait_for(child.wait(), check.timeout)
        except TimeoutError:
            return None
        finally:
            child.signal(signal.SIGKILL)


async def stop(container: Container, init: Child, grace_s: float) -> None:
    """Ask politely whoever can hear: the waiting init has nothing to say, nor has a deaf PID 1."""
    deadline = asyncio.get_running_loop().time() + grace_s
    asked = [*container.execs]
    hears = await blocking.run("disk", host.any_hears, init.pid, int(signal.SIGTERM))
    if container.place.program.argv and hears:
        asked.append(init)
    for child in asked:
        child.signal(signal.SIGTERM)
    if asked:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await asyncio.gather(*(child.wait() for child in asked))
    init.signal(signal.SIGKILL, group=False)
    try:
        await asyncio.wait_for(init.wait(), _DEATH_S)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"container {container.id} did not end {_DEATH_S:g} s after SIGKILL",
            hint="a process of it waits in the kernel",
        ) from error


def event(container: Container, name: str, sequence: int, detail: dict[str, Any]) -> dict[str, Any]:
    """What is told of a container; `time` in ms since the epoch."""
    return {
        "id": container.id,
        "name": container.spec.name or "",
        "event": name,
        "detail": detail,
        "sequence": sequence,
        "time": time.time_ns() // 1_000_000,
    }


async def first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Returns when one of them does; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
