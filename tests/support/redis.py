"""A node's bus for tests: real redis-server, job manager, bus and gate, in a folder of its own."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from g8node import config
from g8node.jobs.bus import Bus
from g8node.jobs.commands import bash, core, info, job, process
from g8node.jobs.gate import Gate
from g8node.jobs.job import Job
from g8node.jobs.manager import Manager
from g8node.jobs.model import Command, Message, Result
from g8node.jobs.redis_server import RedisServer
from g8node.jobs.registry import Registry
from g8node.node.inventory import Inventory
from g8node.node.node import Node
from g8node.node.paths import Paths
from g8node.node.power import Power
from g8node.runtime.process import Reaper
from g8node.runtime.supervise import Supervisor
from g8node.runtime.watchdog import Watchdog

PASSWORD = "correct horse"
DEADLINE_S = 60.0
_PATIENT: dict[str, Any] = {
    "socket_timeout": 120,
    "socket_connect_timeout": 60,
    "retry": Retry(NoBackoff(), 0),
}
"""redis-py's own would ask again after five seconds, and what it pushes would be there twice; a wrong
password is shown eleven times."""


async def eventually(condition: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what or condition}")
        await asyncio.sleep(0.005)


def make_node(reaper: Reaper, settings: config.Config | None = None, root: str = "/nonexistent") -> Node:
    """A node without containers and flists: the commands under test do not touch them."""
    return Node(
        config=settings or config.Config(),
        paths=Paths(root),
        reaper=reaper,
        supervisor=Supervisor(),
        watchdog=Watchdog(),
        power=Power(),
        inventory=Inventory(version="1.2", revision="abc"),
    )


def make_registry() -> Registry:
    return Registry([bash, core, info, job, process])


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.accepted_ids: list[str] = []
        self.messages: list[tuple[str, Message]] = []
        self.results: list[Result] = []

    def accepted(self, job: Job) -> None:
        self.accepted_ids.append(job.id)

    def record(self, job: Job, message: Message) -> None:
        self.messages.append((job.id, message))

    def finished(self, job: Job, result: Result) -> None:
        self.results.append(result)

    def texts(self, level: int) -> list[str]:
        return [message.message for _, message in self.messages if message.level == level]


@contextlib.asynccontextmanager
async def running_manager(
    settings: config.Config | None = None, registry: Registry | None = None
) -> AsyncIterator[Manager]:
    """A manager with a recorder as its first sink, without redis."""
    reaper = Reaper(orphans=False)
    reaper.install()
    manager = Manager(make_node(reaper, settings), registry or make_registry(), environ=os.environ)
    manager.sinks.append(Recorder())
    try:
        yield manager
    finally:
        await manager.close()
        reaper.uninstall()


def recorder(manager: Manager) -> Recorder:
    return cast(Recorder, manager.sinks[0])


class Stack:
    """Redis, manager, bus and, after `open_gate`, the gate."""

    def __init__(self, folder: Path, reaper: Reaper, registry: Registry, **redis: Any) -> None:
        self.folder = folder
        self.socket = f"{folder}/redis.sock"
        self.node = make_node(reaper, root=str(folder))
        self.supervisor = self.node.supervisor
        self.server = RedisServer(reaper, folder=f"{folder}/redis", socket=self.socket, **redis)
        self.manager = Manager(self.node, registry, environ=os.environ)
        self.bus = Bus(self.manager, self.socket)
        self.redis: Any = Redis(unix_socket_path=self.socket, decode_responses=True, socket_timeout=120)
        self.gate: Gate | None = None
        self._clients: list[Any] = []

    async def start(self) -> None:
        self.supervisor.start("redis", self.server.run)
        await self.server.ready(DEADLINE_S)
        self.supervisor.start("bus", self.bus.run)

    async def open_gate(self, password: str = PASSWORD, **settings: Any) -> Gate:
        path = self.folder / "password"
        path.write_text(password + "\n")
        settings = {"listen": "127.0.0.1:0", "password_file": str(path)} | settings
        self.gate = Gate(self.manager, self.bus, config.Gate(**settings), folder=f"{self.folder}/gate")
        await self.gate.start()
        return self.gate

    def client(self, password: str | None = PASSWORD, **options: Any) -> Any:
        """A client of the gate: redis-py's, whose types mix its sync and async faces."""
        assert self.gate is not None
        options = {"password": password, "decode_responses": True} | _PATIENT | options
        client = Redis(host="127.0.0.1", port=self.gate.port, **options)
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self._clients:
            await client.aclose()
        await self.redis.aclose()
        if self.gate is not None:
            await self.gate.stop()
        await self.manager.close()
        with contextlib.suppress(TimeoutError):  # a test may have left redis dead
            await asyncio.wait_for(self.bus.close(), 2)
        await self.supervisor.stop("bus")
        await self.server.stop()
        await self.supervisor.close()

    async def push(self, command: str, id: str, /, redis: Any = None, **fields: Any) -> None:
        text = json.dumps({"id": id, "command": command, **fields})
        await (redis or self.redis).rpush("core:default", text)

    async def result(self, id: str, redis: Any = None, timeout_s: int = 60) -> dict[str, Any]:
        """The client's sequence of spec 2.5, from the flag on."""
        client = redis or self.redis
        flag = f"result:{id}:flag"
        assert await client.brpoplpush(flag, flag, timeout_s) is not None
        text = await client.brpoplpush(f"result:{id}", f"result:{id}", timeout_s)
        assert text is not None, f"no result of {id}"
        return cast(dict[str, Any], json.loads(text))

    async def run(self, command: str, id: str, /, redis: Any = None, **fields: Any) -> dict[str, Any]:
        await self.push(command, id, redis, **fields)
        return await self.result(id, redis)


@contextlib.asynccontextmanager
async def running_stack(folder: Path, registry: Registry | None = None, **redis: Any) -> AsyncIterator[Stack]:
    """The stack, started; everything is ended afterwards. `redis`: options of RedisServer."""
    reaper = Reaper(orphans=False)
    reaper.install()
    stack = Stack(folder, reaper, registry or make_registry(), **redis)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()
        reaper.uninstall()


def command(name: str, id: str = "1", arguments: dict[str, Any] | None = None, **fields: Any) -> Command:
    return Command.make(id, name, arguments, **fields)
