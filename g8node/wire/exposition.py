"""Prometheus' text exposition format 0.0.4 (pure): families of samples, written once each.

Names and labels may come from anybody: what the format does not allow is replaced, and a second sample of
the same name and labels is dropped, because Prometheus refuses a page that has one.
"""

import math
import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NOT_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")

Kind = Literal["gauge", "counter"]


class Sample(NamedTuple):
    name: str
    kind: Kind
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    help: str = ""


def render(samples: Iterable[Sample]) -> str:
    """The page. Counters get the suffix `_total`; a family has the kind of its first sample."""
    families: dict[str, tuple[Kind, str, dict[str, float]]] = {}
    for sample in samples:
        name = _name(sample.name)
        if sample.kind == "counter" and not name.endswith("_total"):
            name += "_total"
        kind, _, values = families.setdefault(name, (sample.kind, sample.help, {}))
        if kind == sample.kind:
            values.setdefault(_labels(sample.labels), sample.value)
    lines = []
    for name, (kind, text, values) in families.items():
        if text:
            lines.append(f"# HELP {name} {_escape(text)}")
        lines.append(f"# TYPE {name} {kind}")
        lines += [f"{name}{labels} {_number(value)}" for labels, value in values.items()]
    return "\n".join(lines) + "\n"


def _name(text: str) -> str:
    name = _NOT_NAME.sub("_", text)
    return f"_{name}" if not name or name[0].isdigit() else name


def _labels(pairs: tuple[tuple[str, str], ...]) -> str:
    labels: dict[str, str] = {}
    for key, value in pairs:
        # Names that begin with two underscores are Prometheus' own.
        name = re.sub(r"^__+", "_", _name(key))
        labels.setdefault(name, _escape(value).replace('"', '\\"'))
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
