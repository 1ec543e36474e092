"""Statistics between jobs, aggregation and redis (async); spec core0-protocol 5.2 and 5.3.

Values are taken from every job's messages of level 10; states and points are written once a second at most:
`state:<key>:<md5>` lives IDLE_S after its last change, `statistics:<period>` keeps the last LIST_KEPT points.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from g8node.jobs.job import Job
from g8node.jobs.link import Arg, Link
from g8node.jobs.model import Level, Message, Result
from g8node.jobs.once import OnceWriter
from g8node.node.stats import Stats
from g8node.wire.aggregate import IDLE_S

FLUSH_S: Final = 1.0
LIST_KEPT: Final = 20_000
"""The node's own fifty series or so make that many points in a day of 5-minute periods."""

_BATCH: Final = 512
_WRITE = f"""
local states = tonumber(ARGV[2])
for n = 3, 1 + 2 * states, 2 do redis.call('SET', ARGV[n], ARGV[n + 1], 'EX', {IDLE_S}) end
for n = 3 + 2 * states, #ARGV, 2 do
  local key = 'statistics:' .. ARGV[n]
  redis.call('RPUSH', key, ARGV[n + 1])
  redis.call('LTRIM', key, -{LIST_KEPT}, -1)
end
"""

_encode = msgspec.json.Encoder().encode


class Statistics:
    """A sink of the manager. `run` writes; `on_pushed` hears the keys that got points."""

    def __init__(self, stats: Stats, socket: str) -> None:
        self.on_pushed: Callable[[list[str]], None] | None = None
        self.results: Counter[str] = Counter()
        self.dropped = 0
        self._stats = stats
        self._link = Link(socket)
        self._write = OnceWriter(self._link, "core:statistics", _WRITE)

    def accepted(self, job: Job) -> None:
        """Sink of the manager."""

    def record(self, job: Job, message: Message) -> None:
        """Sink of the manager: metrics are fed."""
        if message.meta >> 16 == Level.STATISTIC:
            self._stats.message(message.message, container=job.container)

    def finished(self, job: Job, result: Result) -> None:
        """Sink of the manager: results are counted by state."""
        self.results[result.state] += 1

    async def run(self) -> None:
        """Write what has changed, for ever."""
        while True:
            await self._stats.changed.wait()
            await asyncio.sleep(FLUSH_S)
            points, series = self._stats.take()
            for at in range(0, len(series), _BATCH):
                args: list[Arg] = []
                for one in series[at : at + _BATCH]:
                    args += [one.redis_key, _encode(one.state)]
                await self._push(len(args) // 2, args)
            for at in range(0, len(points), _BATCH):
                args = []
                for period, point in points[at : at + _BATCH]:
                    args += [period, _encode(point)]
                await self._push(0, args)
            if points and self.on_pushed is not None:
                self.on_pushed([f"statistics:{period}" for period in {period for period, _ in points}])

    async def _push(self, states: int, args: list[Arg]) -> None:
        if not await self._write(states, *args):
            self.dropped += 1

    async def close(self) -> None:
        """Break the connection for good."""
        await self._link.close()
