"""Metrics that a process prints at level 10 (pure): `key:value|op[|k=v,...]`, spec core0-protocol 5.2.

Any process may print anything: a line that is no metric is counted, never an error. Lines, keys, tags and the
number of lines of one message are bounded.
"""

import re
from typing import Final, Literal, NamedTuple

Op = Literal["A", "D"]
"""A: the average of the values; D: the difference per second of a counter."""

Tags = tuple[tuple[str, str], ...]
"""Sorted (name, value) pairs."""

MAX_LINES: Final = 256
MAX_LINE: Final = 1024
MAX_TAGS: Final = 16
MAX_VALUE: Final = 1e100
"""So that sums stay finite: JSON has no infinity."""

_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@%+-]{0,127}", re.ASCII)
_VALUE: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_TAG_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}", re.ASCII)
_TAG_VALUE_LENGTH: Final = 128


class Metric(NamedTuple):
    """One value of a series; a series is a key and its tags."""

    key: str
    value: float
    op: Op
    tags: Tags = ()


def parse_message(text: str) -> tuple[list[Metric], int]:
    """The metrics of one message, and how many of its lines are none. Empty lines do not count."""
    lines = text.split("\n", MAX_LINES)
    bad = 0
    if len(lines) > MAX_LINES:
        bad += 1  # all that follows
        lines.pop()
    metrics = []
    for line in lines:
        metric = parse_line(line)
        if metric is not None:
            metrics.append(metric)
        elif line.strip():
            bad += 1
    return metrics, bad


def parse_line(line: str) -> Metric | None:
    """One metric; None when the line is none."""
    if len(line) > MAX_LINE:
        return None
    head, bar, rest = line.strip().partition("|")
    op, _, pairs = rest.partition("|")
    key, colon, number = head.rpartition(":")
    key, op = key.strip(), op.strip()
    value = _number(number.strip())
    tags = _tags(pairs.strip())
    if not bar or not colon or value is None or tags is None or not _KEY.fullmatch(key):
        return None
    if op == "A":
        return Metric(key, value, "A", tags)
    if op == "D":
        return Metric(key, value, "D", tags)
    return None


def _number(text: str) -> float | None:
    if len(text) > 64 or not _VALUE.fullmatch(text):
        return None
    value = float(text)
    return value if abs(value) <= MAX_VALUE else None


def _tags(text: str) -> Tags | None:
    if not text:
        return ()
    pairs = text.split(",", MAX_TAGS)
    tags: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or name in tags or not _TAG_NAME.fullmatch(name):
            return None
        if len(value) > _TAG_VALUE_LENGTH or not value.isprintable():
            return None
        tags[name] = value
    return tuple(sorted(tags.items())) if len(tags) <= MAX_TAGS else None
