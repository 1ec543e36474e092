"""The services of a container, from `/.startup.toml` of its root (async); spec core0-resources 1.5.

The syntax is that of the node's own services. Each is a job `core-<container>.<id>` that runs inside as any
dispatched command does, from the start of process 1 to its end; a container that starts again begins anew.
The file is the container's own: it is bounded, looked up beneath its root, and what makes no sense in it is
logged and dropped.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from g8node.boot import services
from g8node.boot.sequencer import Sequencer
from g8node.errors import NodeError
from g8node.jobs.job import Job
from g8node.jobs.manager import Manager
from g8node.jobs.model import Command
from g8node.node.building import STARTUP
from g8node.runtime import logs

if TYPE_CHECKING:
    from g8node.node.container import Container
    from g8node.node.containers import Containers

log = logs.get("services")


class ContainerServices:
    """Starts them when a container starts, and lets go of them when it ends."""

    def __init__(self, jobs: Manager, containers: "Containers", submit_inside: Callable[..., Job]) -> None:
        self._jobs = jobs
        self._submit_inside = submit_inside
        self._running: dict[int, asyncio.Task[None]] = {}
        self._started: dict[int, list[Job]] = {}
        containers.listeners.append(self._told)

    def _told(self, container: "Container", event: dict[str, Any]) -> None:
        if event["event"] == "started" and container.startup:
            task = asyncio.create_task(self._run(container), name=f"services of container {container.id}")
            self._running[container.id] = task
        elif event["event"] == "died":
            self._let_go(container.id)

    def _let_go(self, id: int) -> None:
        if (task := self._running.pop(id, None)) is not None:
            task.cancel()
        for job in self._started.pop(id, []):
            job.release()
            with contextlib.suppress(NodeError):  # between two runs
                job.kill(9)

    async def _run(self, container: "Container") -> None:
        place = f"{STARTUP} of container {container.id}"
        plan = services.load(
            [(place, container.startup)], parameters={}, environ=dict(container.place.program.env)
        )
        started = self._started[container.id] = []

        def submit(command: Command, **options: Any) -> Job:
            creator = self._jobs.find(f"core-{container.id}")
            caller = creator.request.caller if creator is not None else None
            inner = msgspec.structs.replace(command, id=f"core-{container.id}.{command.id}", caller=caller)
            started.append(self._submit_inside(self._jobs, container, inner, internal=True, **options))
            return started[-1]

        await Sequencer(self._jobs, plan, online=_at_once, submit=submit).run()


async def _at_once() -> None:
    """A container's network is there when it starts."""
