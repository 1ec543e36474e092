"""Work on the root of a running container in which nothing moves, and which may end meanwhile (async)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from g8node.errors import Conflict
from g8node.node.container import Container
from g8node.node.stillness import still

if TYPE_CHECKING:
    from g8node.node.containers import Containers

T = TypeVar("T")


@contextlib.asynccontextmanager
async def at_rest(containers: "Containers", id: int) -> AsyncIterator[Container]:
    """The container, held still, its root the same for as long. NotFound, Conflict when it has ended."""
    container = await containers.started(id)
    group = container.cgroup if containers.opened()[0].cgroups else ""
    async with container.layering:
        if container.cleaning or container.child is None or not container.child.running:
            raise Conflict(f"container {id} ended")
        async with still(container.stillness, container.pid, group, container.tree.held):
            yield container


async def unless_it_ends(container: Container, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Conflict, and `work` is cancelled, when the container is ended meanwhile."""
    working = asyncio.ensure_future(work)
    waits: list[asyncio.Future[Any]] = [working, asyncio.ensure_future(container.ending.wait())]
    if container.child is not None:
        waits.append(asyncio.ensure_future(container.child.wait()))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Conflict(f"container {container.id} ended")
        return working.result()
    finally:
        for each in waits:
            each.cancel()
        await asyncio.shield(asyncio.wait(waits))
