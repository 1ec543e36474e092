"""Aggregation per period: the vectors of spec core0-protocol 7, bounds, queries."""

import hashlib

import msgspec
import pytest

from g8node.wire.aggregate import HISTORY, IDLE_S, Aggregator, Point, Sample
from g8node.wire.metric import Metric, Op

T0 = 1_700_000_000  # a multiple of 50


def fed(op: Op, values: list[tuple[int, float]], *periods: int) -> tuple[Aggregator, list[tuple[int, Point]]]:
    aggregator = Aggregator(periods)
    points = []
    for now, value in values:
        points += aggregator.feed(now, Metric("key", value, op))[1]
    return aggregator, points


@pytest.mark.parametrize("start", [0, T0])
def test_average_of_the_spec_s_vector(start: int) -> None:
    values = [
        (start + 1, 10.0),
        (start + 11, 10.0),
        (start + 21, 15.0),
        (start + 31, 30.0),
        (start + 50, 1.0),
    ]
    _, points = fed("A", [*values, (start + 50, 1.0)], 50)
    assert points == [(50, Point(16.25, 65.0, 30.0, 4, start, "key", {}))]


def test_difference_of_unit_steps_every_ten_seconds() -> None:
    values = [(T0 + 10 * step, float(step)) for step in range(7)]
    _, points = fed("D", values, 50)
    ((period, point),) = points
    assert period == 50
    assert point.avg == pytest.approx(0.1)
    assert point.count == 4  # the first value is the baseline


def test_difference_first_value_is_a_baseline_only() -> None:
    aggregator, _ = fed("D", [(T0, 5.0)], 300)
    (state,) = aggregator.query().values()
    assert state.last_value == 5.0
    assert state.current["300"] == Sample()


def test_value_of_the_same_second_is_ignored() -> None:
    aggregator, _ = fed("A", [(T0, 1.0), (T0, 9.0), (T0 - 5, 9.0)], 300)
    (state,) = aggregator.query().values()
    assert state.current["300"].count == 1
    assert state.last_value == 1.0


def test_value_that_overflows_is_ignored() -> None:
    aggregator, _ = fed("D", [(T0, -1.7e308), (T0 + 1, 1.7e308)], 300)
    (state,) = aggregator.query().values()
    assert state.current["300"].count == 0


def test_maximum_of_negative_values() -> None:
    aggregator, _ = fed("A", [(T0, -5.0), (T0 + 1, -3.0)], 300)
    assert aggregator.query()["key"].current["300"].max == -3.0


def test_periods_are_flushed_each_at_its_own_end() -> None:
    values = [(T0 - T0 % 3600 + 60 * minute, 1.0) for minute in range(61)]
    _, points = fed("A", values, 300, 3600)
    assert [period for period, _ in points].count(300) == 12
    assert [point.count for period, point in points if period == 3600] == [60]


def test_history_keeps_the_last_five_samples_newest_last() -> None:
    aggregator, _ = fed("A", [(T0 + 50 * step, float(step)) for step in range(9)], 50)
    history = aggregator.query()["key"].history["50"]
    assert [sample.avg for sample in history] == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert len(history) == HISTORY


def test_state_is_written_as_the_original_writes_it() -> None:
    aggregator = Aggregator()
    series, _ = aggregator.feed(T0, Metric("k", 2.0, "A", (("id", "0"), ("type", "phys"))))
    assert series is not None
    state = msgspec.to_builtins(series.state)
    sample = {"avg": 2.0, "total": 2.0, "max": 2.0, "count": 1, "start": T0 - T0 % 300}
    assert state["current"]["300"] == sample
    assert state["history"] == {"300": [], "3600": []}
    assert state["tags"] == [{"key": "id", "value": "0"}, {"key": "type", "value": "phys"}]
    assert {name: state[name] for name in ("op", "last_value", "last_time")} == {
        "op": "A", "last_value": 2.0, "last_time": T0,
    }  # fmt: skip
    digest = hashlib.md5(b"[{id 0} {type phys}]").hexdigest()
    assert series.redis_key == f"state:k:{digest}"


def test_series_are_bounded_and_the_node_s_own_find_room() -> None:
    aggregator = Aggregator(max_series=2, own_series=1)
    for number in range(3):
        aggregator.feed(T0, Metric(f"job{number}", 1.0, "A"))
    assert aggregator.counters.refused == 1
    series, _ = aggregator.feed(T0, Metric("own", 1.0, "A"), own=True)
    assert series is not None
    assert aggregator.feed(T0, Metric("own2", 1.0, "A"), own=True) == (None, [])
    assert len(aggregator) == 3


def test_series_keeps_its_op() -> None:
    aggregator = Aggregator()
    aggregator.feed(T0, Metric("k", 1.0, "A"))
    assert aggregator.feed(T0 + 1, Metric("k", 1.0, "D")) == (None, [])
    assert aggregator.counters.conflicts == 1


def test_idle_series_expire() -> None:
    aggregator, _ = fed("A", [(T0, 1.0)], 300)
    assert aggregator.expire(T0 + IDLE_S) == 0
    assert aggregator.expire(T0 + IDLE_S + 1) == 1
    assert aggregator.query() == {}


def test_query_by_key_and_tags() -> None:
    aggregator = Aggregator()
    for nic in ("eth0", "eth1"):
        aggregator.feed(T0, Metric("rx", 1.0, "A", (("id", nic), ("kind", "device"))))
    aggregator.feed(T0, Metric("rx", 1.0, "A", (("id", "eth0"), ("kind", "bridge"))))
    aggregator.feed(T0, Metric("ram", 1.0, "A"))
    assert set(aggregator.query()) >= {"rx/eth0", "rx/eth1", "ram"}
    assert len(aggregator.query("rx")) == 3
    assert set(aggregator.query("rx", {"id": "eth1"})) == {"rx/eth1"}
    assert set(aggregator.query(tags={"kind": "bridge", "id": "eth0"})) == {"rx/eth0"}
    assert aggregator.query("r") == {}


def test_series_begins_anew_when_the_clock_was_set_back() -> None:
    aggregator, _ = fed("A", [(T0 + 9000, 7.0), (T0, 1.0), (T0 + 1, 3.0)], 300)
    (state,) = aggregator.query().values()
    assert (state.last_time, state.current["300"].count, state.current["300"].avg) == (T0 + 1, 2, 2.0)


def test_series_without_values_give_way_when_there_is_no_room() -> None:
    aggregator = Aggregator(max_series=2)
    aggregator.feed(T0, Metric("old", 1.0, "A"))
    aggregator.feed(T0 + 300, Metric("live", 1.0, "A"))
    assert aggregator.feed(T0 + 300, Metric("new", 1.0, "A")) == (None, [])
    assert aggregator.feed(T0 + 311, Metric("new", 1.0, "A"))[0] is not None
    assert aggregator.query().keys() == {"live", "new"}
