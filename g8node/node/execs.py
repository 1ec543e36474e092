"""Processes started in running containers (async)."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from g8node.errors import Conflict
from g8node.node import bundle
from g8node.node.container import Container
from g8node.node.crun import Streams
from g8node.runtime.process import Child

if TYPE_CHECKING:
    from g8node.node.containers import Containers

T = TypeVar("T")


class Execs:
    """At most `most` are being started at once; what has begun is finished by `background`."""

    def __init__(self, containers: "Containers", background: Callable[..., Any], *, most: int) -> None:
        self._containers = containers
        self._background = background
        self._starts = asyncio.Semaphore(most)

    async def start(
        self,
        id: int,
        argv: Sequence[str],
        streams: Streams,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str | None = None,
    ) -> Child:
        """Start a process in a container, in a group of its own; waits while the container is starting.

        As the container's user unless another one is named. Raises NotFound (no such container, program, user
        or folder), Conflict when the container ends meanwhile.
        """
        container, process = await self._process(id, argv, env, cwd, user)
        held, (_, crun) = streams.copy(), self._containers.opened()
        starting = crun.exec(container.name, process, held)
        return await self._finished(self._started(container, starting, held), _kill_unwanted)

    async def start_terminal(
        self,
        id: int,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str | None = None,
    ) -> tuple[Child, int]:
        """As `start`, on a terminal; the descriptor of its other end is the caller's to close."""
        env = {"TERM": "xterm"} | dict(env or {})
        container, process = await self._process(id, argv, env, cwd, user)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        held, (_, crun) = Streams(null, os.dup(null), os.dup(null)), self._containers.opened()
        starting = crun.exec_terminal(container.name, process | {"terminal": True}, held)
        return await self._finished(self._started(container, starting, held), _close_unwanted)

    async def _process(
        self, id: int, argv: Sequence[str], env: Mapping[str, str] | None, cwd: str, user: str | None
    ) -> tuple[Container, dict[str, Any]]:
        container = await self._containers.started(id)
        who = None if user is None else await (await self._containers.inner(container)).user(user)
        place, (facts, _) = container.place, self._containers.opened()
        return container, bundle.process(container.spec, facts, place, argv, env=env, cwd=cwd, user=who)

    async def _finished(
        self, call: Coroutine[Any, Any, T], unwanted: "Callable[[asyncio.Task[T]], None]"
    ) -> T:
        """What `call` gives; when the caller is cancelled it is finished all the same, for `unwanted`."""
        task: asyncio.Task[T] = self._background(call)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(unwanted)
            raise

    async def _started(self, container: Container, starting: Coroutine[Any, Any, T], streams: Streams) -> T:
        """`starting` gives a Child, or one and its terminal."""
        try:
            async with container.stillness.entering(), self._starts:
                started = await starting
        except Exception as error:
            if container.child is None or container.child.running:
                raise
            raise Conflict(f"container {container.id} ended") from error
        finally:
            starting.close()
            streams.close()
        child = started[0] if isinstance(started, tuple) else started
        assert isinstance(child, Child)
        container.execs.add(child)
        child.exited.add_done_callback(lambda _: container.execs.discard(child))
        return started


def _kill_unwanted(task: "asyncio.Task[Child]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().signal(signal.SIGKILL)


def _close_unwanted(task: "asyncio.Task[tuple[Child, int]]") -> None:
    if not task.cancelled() and task.exception() is None:
        child, terminal = task.result()
        child.signal(signal.SIGKILL)
        os.close(terminal)
