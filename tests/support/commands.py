"""A client of the job manager over an agent's containers; redis has no part in it."""

import json
from typing import Any

from g8node.boot.containerservices import ContainerServices
from g8node.config import Config
from g8node.jobs import containerevents
from g8node.jobs.commands import (
    bash,
    core,
    corex,
    corex_backup,
    corex_exec,
    filesystem,
    info,
    ip,
    job,
    process,
    volume,
)
from g8node.jobs.job import Job
from g8node.jobs.manager import Manager
from g8node.jobs.model import Command, Message, Result
from g8node.jobs.registry import Registry
from g8node.node.files import Files
from g8node.node.inventory import Inventory
from g8node.node.links import Links
from g8node.node.node import Node
from g8node.node.paths import Paths
from g8node.node.power import Power
from g8node.runtime.supervise import Supervisor
from g8node.runtime.watchdog import Watchdog
from tests.support.agent import Agent, came_to_exec, until


class Client:
    """Sends commands as the bus would and keeps what it would publish."""

    def __init__(self, agent: Agent) -> None:
        node = Node(
            config=Config(),
            paths=Paths(str(agent.tmp)),
            reaper=agent.reaper,
            supervisor=Supervisor(),
            watchdog=Watchdog(),
            power=Power(),
            inventory=Inventory(version="test"),
        )
        # Mounts of real folders instead of flists.
        node.complete(agent.mounts, agent.containers, Files())  # type: ignore[arg-type]
        node.links = Links(agent.reaper)
        commands = (bash, core, corex, corex_backup, corex_exec, filesystem, info, ip, job, process, volume)
        self.manager = Manager(node, Registry(commands), environ={})
        self.manager.sinks.append(self)
        containerevents.connect(self.manager, agent.containers)
        ContainerServices(self.manager, agent.containers, corex.submit_inside)
        self.flags: set[str] = set()
        self.results: dict[str, Result] = {}
        self.streams: dict[str, list[str]] = {}
        self._count = 0
        self._agent = agent

    def accepted(self, job: Job) -> None:
        if not job.internal:
            self.flags.add(job.id)

    def record(self, job: Job, message: Message) -> None:
        if message.meta & 1:
            self.streams.setdefault(job.id, []).append(message.message)

    def finished(self, job: Job, result: Result) -> None:
        assert result.id not in self.results
        self.results[result.id] = result

    async def send(self, name: str, arguments: Any = None, **fields: Any) -> Result:
        self._count += 1
        command = Command.make(f"t{self._count}", name, arguments, **fields)
        return await self.manager.submit(command, internal=False).result()

    async def call(self, name: str, arguments: Any = None, **fields: Any) -> Any:
        result = await self.send(name, arguments, **fields)
        assert result.state == "SUCCESS", result
        return json.loads(result.data)

    async def create(self, **arguments: Any) -> int:
        """The program of the container runs; it may have ended."""
        id: int = await self.call("corex.create", {"root": str(self._agent.root), **arguments})
        if (container := self._agent.containers.find_id(id)) is not None:
            await came_to_exec(container.pid)
        return id

    async def dispatch(self, container: int, name: str, arguments: Any = None, **fields: Any) -> str:
        inner = {"command": name, "arguments": arguments or {}, **fields}
        id: str = await self.call("corex.dispatch", {"container": container, "command": inner})
        return id

    async def inside(self, container: int, name: str, arguments: Any = None, **fields: Any) -> Result:
        id = await self.dispatch(container, name, arguments, **fields)
        await self.result(id)
        return self.results[id]

    async def result(self, id: str) -> Result:
        await until(lambda: id in self.results)
        return self.results[id]
