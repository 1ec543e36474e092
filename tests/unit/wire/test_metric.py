"""Metrics in the output of processes: what is one, and that nothing else is an error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.wire.metric import MAX_LINES, Metric, parse_line, parse_message


@pytest.mark.parametrize(
    ("line", "metric"),
    [
        ("cpu:1|A", Metric("cpu", 1.0, "A")),
        ("cpu:1.5|D\n", Metric("cpu", 1.5, "D")),
        (" a.b:-2e3|A|\r\n", Metric("a.b", -2000.0, "A")),
        ("disk:7|D|type=phys,id=sda1\n", Metric("disk", 7.0, "D", (("id", "sda1"), ("type", "phys")))),
        ("host:6379:.5|A|path=/a:b|c", Metric("host:6379", 0.5, "A", (("path", "/a:b|c"),))),
        ("k:1|A|empty=", Metric("k", 1.0, "A", (("empty", ""),))),
    ],
)
def test_metric_line_is_parsed(line: str, metric: Metric) -> None:
    assert parse_line(line) == metric


@pytest.mark.parametrize(
    "line",
    [
        "", "cpu", "cpu:1", "cpu|A", ":1|A", "cpu:|A", "cpu:1|", "cpu:1|X", "cpu:1|a", "cpu:nan|A",
        "cpu:inf|A", "cpu:1e999|A", "cpu:-1e101|A", "cpu:0x10|A", "cpu:1_000|A", "cpu:\u0661|A", "c pu:1|A",
        "c\0:1|A",
        "cpu:1|A|x", "cpu:1|A|=y", "cpu:1|A|x=1,x=2", "cpu:1|A|x=a\x1bb", "cpu:1|A|x=1,",
        "k" * 129 + ":1|A", "cpu:" + "1" * 65 + "|A", "cpu:1|A|x=" + "y" * 129,
        "cpu:1|A|" + ",".join(f"t{n}=1" for n in range(17)), "cpu:1|A|x=" + "y" * 2000,
    ],
)  # fmt: skip
def test_metric_bad_line_is_none(line: str) -> None:
    assert parse_line(line) is None


def test_metric_message_skips_bad_lines_and_counts_them() -> None:
    metrics, bad = parse_message("a:1|A\nrubbish\n\nb:2|D\n")
    assert [metric.key for metric in metrics] == ["a", "b"]
    assert bad == 1


def test_metric_message_is_bounded() -> None:
    metrics, bad = parse_message("a:1|A\n" * (10 * MAX_LINES))
    assert len(metrics) == MAX_LINES
    assert bad == 1


@given(st.text(alphabet=st.sampled_from("ab:.|=,AD019e-+ \n\0\u0661"), max_size=60))
def test_metric_any_text_gives_metrics_or_nothing(text: str) -> None:
    metrics, bad = parse_message(text)
    assert all(math.isfinite(metric.value) and metric.op in "AD" for metric in metrics)
    assert len(metrics) + bad <= text.count("\n") + 1
