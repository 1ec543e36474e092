"""Wires loggers, statistics, their commands and the metrics page to a node (async)."""

from collections.abc import Iterator

from g8node.errors import NodeError
from g8node.jobs import statistics
from g8node.jobs.bus import Bus
from g8node.jobs.commands import aggregator, cgroup, logger, monitor
from g8node.jobs.exporter import Exporter
from g8node.jobs.loggers import Loggers
from g8node.jobs.manager import Manager
from g8node.node.groups import Groups
from g8node.node.node import Node
from g8node.node.stats import Stats
from g8node.runtime import logs

log = logs.get("stats")

COMMANDS = (logger, aggregator, monitor, cgroup)


class Statistics:
    """`start` when the gate answers, `stop` before redis does."""

    def __init__(self, node: Node, jobs: Manager, bus: Bus) -> None:
        settings = node.config
        self._node = node
        self._jobs = jobs
        self._bus = bus
        self.groups = Groups()
        self.stats = Stats(
            period_s=settings.stats.period_s, run_folder=node.paths.run, containers=self._containers
        )
        self.loggers = Loggers(bus.socket, size=settings.logging.ledis.size)
        self.statistics = statistics.Statistics(self.stats, bus.socket)
        self.exporter = Exporter(jobs, self.stats, self.statistics, listen=settings.stats.listen)

    def _containers(self) -> Iterator[tuple[int, str]]:
        if self._node.is_complete:
            for container in self._node.containers.all():
                yield container.id, container.cgroup

    async def start(self) -> None:
        """A metrics page that cannot be opened is an error in the log, and the rest goes on."""
        self.loggers.on_pushed = self.statistics.on_pushed = self._wake
        self._node.measure(self.stats, self.groups)
        self._jobs.loggers = self.loggers
        self._jobs.sinks += [self.loggers, self.statistics]
        self._jobs.counters |= {"loggers": self.loggers.state, "stats": self.stats.state}
        supervisor = self._node.supervisor
        supervisor.start("loggers", self.loggers.run)
        supervisor.start("statistics", self.statistics.run)
        if self._node.config.stats.enabled:
            supervisor.start("monitor", self.stats.run)
        for module in COMMANDS:
            self._jobs.registry.add_module(module)
        try:
            await self.exporter.start()
        except (OSError, NodeError) as error:
            log.error("metrics are not served", error=str(error))

    def _wake(self, keys: list[str]) -> None:
        """Clients of the gate that wait for these lists."""
        if self._bus.outbox.on_pushed is not None:
            self._bus.outbox.on_pushed(keys)

    async def stop(self) -> None:
        await self.exporter.stop()
        for name in ("monitor", "statistics", "loggers"):
            await self._node.supervisor.stop(name)
        await self.statistics.close()
        await self.loggers.close()
        await self.groups.close()
