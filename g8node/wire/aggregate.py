"""Aggregation of metrics per period (pure): spec core0-protocol 5.3.

Theory of operation. A series is a key with its tags. Each value goes into one sample per period; when a value
belongs to a later bucket than the sample, the sample becomes history and a point to publish, and a new one
begins. So a period is only flushed when a later value arrives. Time is given by the caller, in whole seconds.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from g8node.wire.metric import Metric, Op, Tags

PERIODS_S: Final = (300, 3600)
HISTORY: Final = 5
IDLE_S: Final = 3600
MAX_SERIES: Final = 4096
CLOCK_SLACK_S: Final = 60
"""A series whose last value is further in the future is from before the clock was set: it begins anew."""

FULL_IDLE_S: Final = 300
"""When there is no room, series without a value for that long give way, e.g. those of ended containers."""

_SQUEEZE_S: Final = 10

OWN_SERIES: Final = 4096
"""How many series the node's own monitor may have beyond what jobs may fill."""


class Sample(Struct):
    """The values of one period; `start` is the period's first second, 0 before the first value."""

    avg: float = 0.0
    total: float = 0.0
    max: float = 0.0
    count: int = 0
    start: int = 0

    def add(self, value: float) -> None:
        self.max = value if self.count == 0 else max(self.max, value)
        self.total += value
        self.count += 1
        self.avg = self.total / self.count


class Tag(Struct, frozen=True):
    key: str
    value: str


class State(Struct):
    """A series as `aggregator.query` shows it; `current` and `history` are by period."""

    op: Op
    last_value: float
    last_time: int
    tags: list[Tag]
    current: dict[str, Sample]
    history: dict[str, list[Sample]]


class Point(Struct, frozen=True):
    """One finished period of one series, as pushed to `statistics:<period>`."""

    avg: float
    total: float
    max: float
    count: int
    start: int
    key: str
    tags: dict[str, str]


class Series(Struct):
    """One series and its state; `redis_key` is `state:<key>:<md5>`."""

    key: str
    tags: Tags
    state: State
    redis_key: str

    def feed(self, now: int, value: float) -> list[tuple[int, Point]]:
        """One more value; (period, point) for every period that this value ends."""
        state = self.state
        if now <= state.last_time:
            return []
        raw = value
        if state.op == "D":
            value = (raw - state.last_value) / (now - state.last_time)
        if not math.isfinite(value):
            return []
        state.last_value, state.last_time = raw, now
        return self.count(now, value)

    def count(self, now: int, value: float) -> list[tuple[int, Point]]:
        """Count value, which is what the samples are made of."""
        flushed = []
        for name, sample in self.state.current.items():
            period = int(name)
            bucket = now - now % period
            if sample.count and sample.start != bucket:
                flushed.append((period, self._point(sample)))
                history = self.state.history[name]
                history.append(sample)
                del history[:-HISTORY]
                sample = self.state.current[name] = Sample()
            sample.start = bucket
            sample.add(value)
        return flushed

    def _point(self, sample: Sample) -> Point:
        return Point(
            sample.avg, sample.total, sample.max, sample.count, sample.start, self.key, dict(self.tags)
        )


def tags_digest(tags: Tags) -> str:
    """MD5 of the tags as Go prints them: `[{id 0} {type phys}]`."""
    text = "[" + " ".join(f"{{{key} {value}}}" for key, value in tags) + "]"
    return hashlib.md5(text.encode(errors="replace"), usedforsecurity=False).hexdigest()


class Counters(Struct):
    """What the aggregator has refused or forgotten."""

    refused: int = 0
    expired: int = 0
    conflicts: int = 0


class Aggregator:
    """All series of a node; their number is bounded."""

    def __init__(
        self,
        periods_s: Iterable[int] = PERIODS_S,
        *,
        max_series: int = MAX_SERIES,
        own_series: int = OWN_SERIES,
    ) -> None:
        self._periods = [str(period) for period in periods_s]
        self._max_series = max_series
        self._own_series = own_series
        self._series: dict[tuple[str, Tags], Series] = {}
        self._squeezed = 0
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._series)

    def all(self) -> list[Series]:
        return list(self._series.values())

    def feed(
        self, now: int, metric: Metric, *, own: bool = False
    ) -> tuple[Series | None, list[tuple[int, Point]]]:
        """The series (None when there is no room or its op is another) and the points that ended.

        `own`: the node's own metrics find room when jobs have filled theirs.
        """
        name = (metric.key, metric.tags)
        series = self._series.get(name)
        if series is not None and series.state.last_time > now + CLOCK_SLACK_S:
            series = None
            del self._series[name]
        if series is None:
            if not self._has_room(now, self._max_series + (self._own_series if own else 0)):
                self.counters.refused += 1
                return None, []
            series = self._series[name] = self._begin(now, metric)
            return series, series.count(now, metric.value) if metric.op == "A" else []
        if series.state.op != metric.op:
            self.counters.conflicts += 1
            return None, []
        return series, series.feed(now, metric.value)

    def _begin(self, now: int, metric: Metric) -> Series:
        state = State(
            op=metric.op,
            last_value=metric.value,
            last_time=now,
            tags=[Tag(key, value) for key, value in metric.tags],
            current={name: Sample() for name in self._periods},
            history={name: [] for name in self._periods},
        )
        return Series(metric.key, metric.tags, state, f"state:{metric.key}:{tags_digest(metric.tags)}")

    def _has_room(self, now: int, limit: int) -> bool:
        if len(self._series) >= limit and abs(now - self._squeezed) >= _SQUEEZE_S:
            self._squeezed = now
            self.expire(now, FULL_IDLE_S)
        return len(self._series) < limit

    def expire(self, now: int, idle_s: int = IDLE_S) -> int:
        """Forget the series without a value for idle_s; how many."""
        idle = [name for name, series in self._series.items() if series.state.last_time < now - idle_s]
        for name in idle:
            del self._series[name]
        self.counters.expired += len(idle)
        return len(idle)

    def query(self, key: str = "", tags: Mapping[str, str] | None = None) -> dict[str, State]:
        """The states by `<key>[/<id>]`: of one key, and with all the tags given.

        Where two series share a key and an id, the later ones have `#<digest of the tags>` behind it.
        """
        wanted = set((tags or {}).items())
        found: dict[str, State] = {}
        for series in self._series.values():
            if (key and series.key != key) or not wanted <= set(series.tags):
                continue
            id = dict(series.tags).get("id", "")
            name = f"{series.key}/{id}" if id else series.key
            if name in found:
                name = f"{name}#{tags_digest(series.tags)}"
            found[name] = series.state
        return found
