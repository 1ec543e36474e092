"""The status screen as text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.wire import screen
from g8node.wire.screen import Facts, Feed, Link

FACTS = Facts(
    version="0.1 (abc)",
    hostname="box7",
    uptime_s=3725,
    stage="done",
    ready=4,
    services=6,
    failed=(("crash", "exit code 7: the disk is gone"),),
    links=(Link("eth0", "52:54:00:12:34:56", True, ("10.0.2.15/24",)), Link("eth1", "aa:bb", False)),
    gateway="10.0.2.2 on eth0",
    internet="reached (1.1.1.1:80)",
    gate="0.0.0.0:6379 (TLS)",
    containers=3,
    parameters="debug organization=acme",
    error="bus: commands cannot be read (wrong type)",
)


def test_rows_hold_everything_once() -> None:
    assert dict(screen.rows(FACTS)) == {
        "version": "0.1 (abc)",
        "host name": "box7",
        "boot": "done",
        "uptime": "1h 2m",
        "services": "4 of 6 ready",
        "failed crash": "exit code 7: the disk is gone",
        "link eth0": "10.0.2.15/24 (52:54:00:12:34:56)",
        "link eth1": "down (aa:bb)",
        "gateway": "10.0.2.2 on eth0",
        "internet": "reached (1.1.1.1:80)",
        "gate": "0.0.0.0:6379 (TLS)",
        "containers": "3",
        "parameters": "debug organization=acme",
        "last error": "bus: commands cannot be read (wrong type)",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m 0s"), (3600, "1h 0m"), (90061, "1d 1h"), (-1, "0s")],
)
def test_duration_has_the_two_largest_units(seconds: float, text: str) -> None:
    assert screen.duration(seconds) == text


def test_frame_fits_its_terminal() -> None:
    assert screen.frame(FACTS, 80, 24)[0] == "g8node"
    assert screen.frame(FACTS, 80, 24)[2].split() == ["version:", "0.1", "(abc)"]
    for width, height in ((80, 24), (20, 5), (1, 1), (200, 100), (40, 0)):
        lines = screen.frame(FACTS, width, height)
        assert len(lines) <= height
        assert all(len(line) <= width for line in lines)
    assert screen.frame(FACTS, 80, 5)[-1] == "... 12 more"


def test_terminal_is_sent_what_changed_only() -> None:
    first = screen.paint(None, ["one", "two"])
    assert first.startswith("\x1b[2J")
    assert screen.paint(["one", "two"], ["one", "two"]) == ""
    assert screen.paint(["one", "two"], ["one", "too"]) == "\x1b[2;1Htoo\x1b[K"
    assert screen.paint(["one", "two"], ["one"]) == "\x1b[2;1H\x1b[K"
    assert screen.paint(["one"], ["one", "two"]) == "\x1b[2;1Htwo\x1b[K"


@given(st.text(max_size=400), st.integers(0, 300))
def test_nothing_but_printable_ascii_gets_through(text: str, limit: int) -> None:
    cleaned = screen.clean(text, limit)
    assert len(cleaned) <= limit
    assert re.fullmatch(r"[ -~]*", cleaned)


def test_names_and_errors_cannot_move_the_cursor() -> None:
    bad = Facts("1", "a\x1b[2Jb", 0, "x\r\ny", error="\x07\x9b31m" * 1000, failed=(("\x1b", "\n\n"),))
    assert all(re.fullmatch(r"[ -~]*", line) for line in screen.frame(bad, 80, 24))
    assert dict(screen.rows(bad))["host name"] == "a?[2Jb"


def test_rows_are_bounded_however_many_links_there_are() -> None:
    many = Facts("1", "h", 0, "done", links=tuple(Link(f"e{n}", "", True) for n in range(1000)))
    assert len(screen.rows(many)) == 40


def test_serial_line_is_told_changes_only_and_not_the_uptime() -> None:
    feed = Feed(batch_s=5, row_s=30)
    assert len(feed.due(screen.rows(FACTS), 0)) == len(screen.rows(FACTS)) - 1
    assert feed.due(screen.rows(FACTS), 100) == []
    assert feed.due([("version", "2"), ("uptime", "9s")], 200)[0] == "version: 2"


def test_serial_line_is_never_flooded() -> None:
    feed, lines = Feed(batch_s=5, row_s=30, lines_max=20), []
    for second in range(600):
        rows = [(f"row {n}", f"{second}") for n in range(100)]
        lines += feed.due(rows, float(second))
    assert len(lines) <= 600 / 5 * 20
    assert max(lines.count(line) for line in lines) == 1
    one = Feed(batch_s=5, row_s=30)
    flapping = [line for second in range(600) for line in one.due([("link", f"{second % 2}")], float(second))]
    assert len(flapping) <= 20


def test_row_that_changed_back_is_not_told() -> None:
    feed = Feed(batch_s=5, row_s=30)
    assert feed.due([("link", "up")], 0) == ["link: up"]
    assert feed.due([("link", "down")], 10) == []
    assert feed.due([("link", "up")], 60) == []


def test_row_that_is_gone_is_told() -> None:
    feed = Feed(batch_s=5, row_s=30)
    feed.due([("failed x", "why"), ("boot", "done")], 0)
    assert feed.due([("boot", "done")], 40) == ["failed x: -"]
    assert feed.due([("boot", "done")], 80) == []
