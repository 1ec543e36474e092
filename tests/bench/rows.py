"""How a figure is made: ABBA pairs, median ratio, spread, repeats when the machine was noisy."""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.bench.host import machine

Better = Literal["higher", "lower"]
PAIRS = 5
ATTEMPTS = 3
NOISY = 0.30


@dataclass
class Row:
    """One line of build/bench.json. `ratio` > 1 always means that we lead."""

    name: str
    unit: str
    better: Better
    ours: float
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    spread: list[float] | None = None
    runs: int = 1
    noisy: bool = False
    setup: dict[str, Any] = field(default_factory=dict)


def single(name: str, unit: str, better: Better, ours: float, **setup: Any) -> Row:
    """A figure without a peer."""
    return Row(name, unit, better, ours, setup=machine() | setup)


def compare(
    name: str,
    unit: str,
    better: Better,
    ours: Callable[[], float],
    peer: Callable[[], float],
    peer_name: str,
    **setup: Any,
) -> Row:
    """Median ratio over ABBA pairs, repeated up to three times while the spread is above 30 %."""
    for attempt in range(1, ATTEMPTS + 1):
        row = _attempt(name, unit, better, ours, peer, peer_name, PAIRS, machine() | setup)
        if not row.noisy or attempt == ATTEMPTS:
            return row
        print(f"{name}: spread {row.spread}, again", file=sys.stderr, flush=True)
    raise AssertionError("unreachable")


def _attempt(
    name: str,
    unit: str,
    better: Better,
    ours: Callable[[], float],
    peer: Callable[[], float],
    peer_name: str,
    pairs: int,
    setup: dict[str, Any],
) -> Row:
    mine, theirs, ratios = [], [], []
    for _ in range(pairs):
        first, second, third, fourth = ours(), peer(), peer(), ours()
        mine.append((first + fourth) / 2)
        theirs.append((second + third) / 2)
        ratios.append(mine[-1] / theirs[-1] if better == "higher" else theirs[-1] / mine[-1])
    ratio = statistics.median(ratios)
    return Row(
        name,
        unit,
        better,
        ours=round(statistics.median(mine), 4),
        peer=round(statistics.median(theirs), 4),
        peer_name=peer_name,
        ratio=round(ratio, 3),
        spread=[round(min(ratios), 3), round(max(ratios), 3)],
        runs=pairs,
        noisy=(max(ratios) - min(ratios)) / ratio > NOISY,
        setup=setup,
    )


def save(rows: list[Row], path: Path) -> None:
    """Merge into what is there: a run of some rows keeps the others."""
    kept = {}
    if path.exists():
        kept = {row["name"]: row for row in json.loads(path.read_text())}
    kept |= {row.name: asdict(row) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(kept.values()), indent=1) + "\n")


def table(rows: list[Row]) -> str:
    """The rows for a person to read."""
    lines = [f"{'row':34} {'ours':>11} {'peer':>11} {'ratio':>7}  spread         peer"]
    for row in rows:
        peer = "" if row.peer is None else f"{row.peer:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        spread = "" if row.spread is None else f"{row.spread[0]:.2f}..{row.spread[1]:.2f}"
        noisy = " noisy" if row.noisy else ""
        lines.append(
            f"{row.name:34} {row.ours:>11.4g} {peer:>11} {ratio:>7}  {spread:13}  "
            f"{row.peer_name or row.unit}{noisy}"
        )
    return "\n".join(lines)
