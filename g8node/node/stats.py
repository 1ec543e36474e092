"""The node's statistics: metrics of jobs, of the machine and of containers, aggregated (async).

Usable without redis: whoever publishes waits for `changed` and calls `take`. What is not taken is bounded:
points give way to newer ones, and a series' state is there once however often it changed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from g8node.errors import InvalidArgument, Unavailable
from g8node.linux import cgroup, monitor
from g8node.linux.monitor import CpuTimes, Reading
from g8node.runtime import blocking, logs
from g8node.wire.aggregate import Aggregator, Point, Series, State
from g8node.wire.metric import Metric, parse_message

log = logs.get("stats")

DOMAINS: Final = ("cpu", "disk", "memory", "network")
MAX_POINTS: Final = 20_000
CPU_LOOK_S: Final = 1.0
_SPACE_LIMIT_S: Final = 10.0
_EXPIRY_S: Final = 60
_PARSE_ERRORS: Final = (OSError, ValueError, IndexError, KeyError)  # a kernel that says it in another way

Containers = Callable[[], Iterable[tuple[int, str]]]
"""The running containers: id and control group, relative to the mount point."""


@dataclass(slots=True)
class Counters:
    """For `core.state`."""

    values: int = 0
    bad_lines: int = 0
    points_dropped: int = 0


class Stats:
    """Feed it with `feed` and `message`; `run` watches the machine every `period_s`."""

    def __init__(
        self,
        *,
        period_s: float = 30.0,
        run_folder: str = "",
        containers: Containers = tuple,
        clock: Callable[[], float] = time.time,
        aggregator: Aggregator | None = None,
    ) -> None:
        """What is mounted below `run_folder` is not measured."""
        self.aggregator = Aggregator() if aggregator is None else aggregator
        self.counters = Counters()
        self.changed = asyncio.Event()
        self._period_s = period_s
        self._run_folder = run_folder
        self._containers = containers
        self._clock = clock
        self._points: deque[tuple[int, Point]] = deque()
        self._dirty: dict[str, Series] = {}
        self._expired = 0
        self._cpu_seen: tuple[float, dict[str, CpuTimes]] | None = None
        self._space: asyncio.Future[list[Reading]] | None = None
        self._complained: set[str] = set()

    # Values

    def message(self, text: str, *, container: int = 0) -> None:
        """What a process printed at level 10; a container's metrics get its prefix."""
        metrics, bad = parse_message(text)
        self.counters.bad_lines += bad
        for metric in metrics:
            self.feed(metric._replace(key=f"core-{container}.{metric.key}") if container else metric)

    def feed(self, metric: Metric, *, own: bool = False) -> None:
        """One value; `own` metrics of the node find room when jobs have used up theirs."""
        now = int(self._clock())
        if abs(now - self._expired) >= _EXPIRY_S:
            self._expired = now
            self.aggregator.expire(now)
        series, points = self.aggregator.feed(now, metric, own=own)
        if series is None:
            return
        self.counters.values += 1
        for point in points:
            if len(self._points) == MAX_POINTS:
                self._points.popleft()
                self.counters.points_dropped += 1
            self._points.append(point)
        self._dirty[series.redis_key] = series
        self.changed.set()

    def query(self, key: str = "", tags: Mapping[str, str] | None = None) -> dict[str, State]:
        """The states by `<key>[/<id>]` (Aggregator.query)."""
        self.aggregator.expire(int(self._clock()))
        return self.aggregator.query(key, tags)

    def take(self) -> tuple[list[tuple[int, Point]], list[Series]]:
        """The (period, point) pairs and the changed series since the last call."""
        points, series = list(self._points), list(self._dirty.values())
        self._points.clear()
        self._dirty.clear()
        self.changed.clear()
        return points, series

    def state(self) -> dict[str, Any]:
        """Counters for `core.state`."""
        refused = self.aggregator.counters
        return {
            "series": len(self.aggregator),
            "values": self.counters.values,
            "bad_lines": self.counters.bad_lines,
            "points_dropped": self.counters.points_dropped,
            "series_refused": refused.refused + refused.conflicts,
            "series_expired": refused.expired,
        }

    # The machine

    async def run(self) -> None:
        """Look at everything every period, for ever. A domain that cannot be read leaves out the others."""
        while True:
            await asyncio.sleep(self._period_s)
            for domain in DOMAINS:
                try:
                    await self.monitor(domain)
                except (*_PARSE_ERRORS, Unavailable) as error:
                    self._complain(domain, error)
            await self._watch_containers()

    def _complain(self, domain: str, error: Exception) -> None:
        if domain not in self._complained:
            self._complained.add(domain)
            log.warning("cannot be measured", domain=domain, error=repr(error))

    async def monitor(self, domain: str) -> None:
        """Measure one domain now; the first look at the processors takes a second. InvalidArgument."""
        match domain.lower():
            case "cpu":
                readings = await self._cpu()
            case "disk":
                readings = await blocking.run("disk", monitor.disk_activity)
                readings += await self._disk_space()
            case "memory":
                readings = await blocking.run("disk", monitor.memory)
            case "network":
                readings = await blocking.run("disk", monitor.network)
            case _:
                raise InvalidArgument(f"invalid monitoring domain: {domain[:80]}", hint=", ".join(DOMAINS))
        for reading in readings:
            self.feed(_metric(reading), own=True)

    async def _cpu(self) -> list[Reading]:
        now = time.monotonic()
        if self._cpu_seen is None or now - self._cpu_seen[0] < CPU_LOOK_S:
            self._cpu_seen = (now, await blocking.run("disk", monitor.cpu_times))
            await asyncio.sleep(CPU_LOOK_S)
        before = self._cpu_seen[1]
        after = await blocking.run("disk", monitor.cpu_times)
        self._cpu_seen = (time.monotonic(), after)
        return await blocking.run("disk", monitor.cpu) + monitor.cpu_percent(before, after)

    async def _disk_space(self) -> list[Reading]:
        """A disk that hangs keeps one thread, not one more at every look."""
        if self._space is None or self._space.done():
            looking = blocking.run("path", monitor.disk_space, beside=self._run_folder)
            self._space = asyncio.ensure_future(looking)
        done, _ = await asyncio.wait([self._space], timeout=_SPACE_LIMIT_S)
        if not done:
            raise Unavailable("a mounted disk does not answer")
        return self._space.result()

    async def _watch_containers(self) -> None:
        for id, group in list(self._containers()):
            if not group:
                continue
            try:
                used = await blocking.run("disk", cgroup.usage, group)
            except (OSError, ValueError, KeyError) as error:  # e.g. it has just gone
                self._complain("container", error)
                continue
            if used is not None:
                for key, op, value in (
                    ("machine.CPU.utilisation", "D", used.cpu_s),
                    ("machine.memory.ram.used", "A", used.memory_bytes / (1 << 20)),
                    ("machine.memory.swap.used", "A", used.swap_bytes / (1 << 20)),
                ):
                    tags = (("type", "container"),)
                    self.feed(Metric(f"core-{id}.{key}", value, "D" if op == "D" else "A", tags), own=True)


def _metric(reading: Reading) -> Metric:
    tags = [("type", "phys")]
    if reading.id:
        tags.append(("id", reading.id))
    if reading.extra:
        tags.append(reading.extra)
    return Metric(reading.key, reading.value, reading.op, tuple(sorted(tags)))
