"""Statistics of the node with a clock of the test's."""

import asyncio

import pytest

from g8node.errors import InvalidArgument
from g8node.linux import monitor
from g8node.linux.monitor import CpuTimes
from g8node.node import stats as module
from g8node.node.stats import Stats
from g8node.wire.aggregate import IDLE_S, Aggregator
from g8node.wire.metric import Metric
from tests.support.redis import eventually

T0 = 1_700_000_100.0


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(clock: Clock) -> Stats:
    return Stats(clock=clock)


def test_message_feeds_its_metrics(stats: Stats) -> None:
    stats.message("a:1|A\nrubbish\nb:2|D|id=x\n")
    assert stats.query().keys() == {"a", "b/x"}
    assert stats.state()["bad_lines"] == 1


def test_metric_of_a_container_gets_its_prefix_and_keeps_its_id(stats: Stats) -> None:
    stats.message("a:1|A|id=x", container=7)
    assert stats.query().keys() == {"core-7.a/x"}


def test_take_gives_points_and_changed_series_once(stats: Stats, clock: Clock) -> None:
    for second in (0, 10, 300):
        clock.now = T0 + second
        stats.message("a:4|A")
    assert stats.changed.is_set()
    points, series = stats.take()
    ((period, point),) = points
    assert (period, point.count, point.total) == (300, 2, 8.0)
    assert [one.key for one in series] == ["a"]
    assert stats.take() == ([], [])
    assert not stats.changed.is_set()


def test_points_that_nobody_takes_are_bounded(
    stats: Stats, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 3)
    for step in range(10):
        clock.now = T0 + 300 * step
        stats.message("a:1|A")
    points, _ = stats.take()
    assert len(points) == 3
    assert stats.state()["points_dropped"] > 0


def test_idle_series_are_forgotten(stats: Stats, clock: Clock) -> None:
    stats.message("a:1|A")
    clock.now += IDLE_S + 61
    assert stats.query() == {}
    assert stats.state()["series_expired"] == 1


def test_jobs_cannot_take_the_room_of_the_node(clock: Clock) -> None:
    stats = Stats(clock=clock, aggregator=Aggregator(max_series=5, own_series=5))
    stats.message("\n".join(f"m{number}:1|A" for number in range(20)))
    stats.feed(Metric("own", 1.0, "A"), own=True)
    assert len(stats.query()) == 6
    assert stats.state()["series_refused"] == 15


async def test_monitor_network_and_memory_have_the_spec_s_tags(stats: Stats) -> None:
    await stats.monitor("memory")
    state = stats.query("machine.memory.swap.used")["machine.memory.swap.used"]
    assert [(tag.key, tag.value) for tag in state.tags] == [("type", "phys")]


async def test_monitor_unknown_domain_is_refused(stats: Stats) -> None:
    with pytest.raises(InvalidArgument, match="invalid monitoring domain: x"):
        await stats.monitor("x")


async def test_monitor_cpu_percent_is_over_the_time_between_two_looks(
    stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_LOOK_S", 0.01)
    await stats.monitor("cpu")
    found = stats.query("machine.CPU.percent", {"id": "0"})
    assert not found or 0 <= found["machine.CPU.percent/0"].last_value <= 100
    assert stats.query("machine.CPU.utilisation", {"id": "0"})["machine.CPU.utilisation/0"].op == "D"


def test_cpu_percent_of_two_looks() -> None:
    before = {"0": CpuTimes(10.0, 10.0, 8.0), "1": CpuTimes(5.0, 5.0, 1.0)}
    after = {"0": CpuTimes(11.0, 13.0, 9.0), "1": CpuTimes(5.0, 5.0, 1.0), "2": CpuTimes(1.0, 1.0, 1.0)}
    readings = monitor.cpu_percent(before, after)
    assert [(reading.id, reading.value) for reading in readings] == [("0", 25.0)]


async def test_run_measures_every_domain_and_survives_a_broken_one(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def broken() -> list[monitor.Reading]:
        raise ValueError("another kernel")

    monkeypatch.setattr(module, "CPU_LOOK_S", 0.01)
    monkeypatch.setattr(monitor, "disk_activity", broken)
    stats = Stats(period_s=0.01, clock=clock)
    task = asyncio.create_task(stats.run())
    try:
        await eventually(lambda: "machine.memory.ram.available" in stats.query())
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert not stats.query("disk.iops.read")
