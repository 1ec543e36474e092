"""The status screen as text (pure); spec core0-protocol 1.8.

Three faces of the same rows: a frame of a terminal, what to send to a terminal that shows the last frame, and
what to tell a serial line, which keeps everything that it is told and takes 10 KB/s at best. All text is
printable ASCII, whatever the facts hold: names and errors come from outside, and consoles may be dumb.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

Rows = list[tuple[str, str]]

_MOVING: Final = frozenset({"uptime"})
"""What changes all the time and is for terminals only."""
_VALUE_MAX: Final = 200
_ROWS_MAX: Final = 40
_SHOWN_FAILURES: Final = 5
_CLEAR: Final = "\x1b[2J"
_TO_END: Final = "\x1b[K"


@dataclass(frozen=True, slots=True)
class Link:
    """A network link; `addresses` as a/n."""

    name: str
    hardware: str
    up: bool
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the screen shows."""

    version: str
    hostname: str
    uptime_s: float
    stage: str
    """How far the boot is."""
    ready: int = 0
    services: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    """Services that failed, with the reason."""
    links: tuple[Link, ...] = ()
    gateway: str = ""
    internet: str = ""
    gate: str = ""
    """Where the gate listens and how."""
    containers: int = 0
    parameters: str = ""
    """Of the kernel command line, those that matter."""
    error: str = ""
    """The last error of the log."""


def rows(facts: Facts) -> Rows:
    """Label and value, in the order shown."""
    found = [
        ("version", facts.version),
        ("host name", facts.hostname),
        ("boot", facts.stage),
        ("uptime", duration(facts.uptime_s)),
        ("services", f"{facts.ready} of {facts.services} ready"),
        *((f"failed {id}", reason) for id, reason in facts.failed[:_SHOWN_FAILURES]),
        *((f"link {link.name}", _link(link)) for link in facts.links),
        ("gateway", facts.gateway or "none"),
        ("internet", facts.internet),
        ("gate", facts.gate),
        ("containers", str(facts.containers)),
        ("parameters", facts.parameters),
        ("last error", facts.error),
    ]
    return [(clean(label, 40), clean(value, _VALUE_MAX)) for label, value in found if value][:_ROWS_MAX]


def _link(link: Link) -> str:
    what = " ".join(link.addresses) if link.up else "down"
    return f"{what or 'no address'} ({link.hardware})" if link.hardware else what or "no address"


def duration(seconds: float) -> str:
    """As `3d 4h`, `2h 5m`, `7m 12s`, `4s`: the two largest units."""
    whole = max(0, int(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{value}{unit}" for value, unit in parts[:2])


def clean(text: str, limit: int) -> str:
    """One line of printable ASCII of at most `limit` characters: no escape sequence gets through."""
    line = "".join(char if " " <= char <= "~" else "?" for char in " ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else line[: max(0, limit - 3)] + "..."[: max(0, limit)]


def frame(facts: Facts, width: int, height: int) -> list[str]:
    """The lines of a terminal of that size, at most `height` of at most `width` characters."""
    shown = rows(facts)
    column = max(len(label) for label, _ in shown) + 2
    lines = ["g8node", "", *(f"{label + ':':{column}}{value}" for label, value in shown)]
    if len(lines) > height:
        missing = len(lines) - max(0, height - 1)
        lines = [*lines[: max(0, height - 1)], f"... {missing} more"][:height]
    return [line[:width] for line in lines]


def paint(old: Sequence[str] | None, new: Sequence[str]) -> str:
    """What turns a terminal that shows `old` into one that shows `new`; None: it shows anything."""
    if old is None:
        return _CLEAR + "".join(_at(number, line) for number, line in enumerate(new))
    before = [*old, *[""] * (len(new) - len(old))]
    after = [*new, *[""] * (len(old) - len(new))]
    pairs = enumerate(zip(before, after, strict=True))
    return "".join(_at(number, line) for number, (was, line) in pairs if was != line)


def _at(number: int, line: str) -> str:
    return f"\x1b[{number + 1};1H{line}{_TO_END}"


@dataclass(slots=True)
class Feed:
    """Decides which rows a serial line is told, and when: changes only, and never more than the limits.

    `batch_s` between two batches, `row_s` between two words about the same row, `lines_max` in one batch:
    what changed meanwhile comes later, what changed back not at all.
    """

    batch_s: float = 5.0
    row_s: float = 30.0
    lines_max: int = 20
    _told: dict[str, tuple[str, float]] = field(default_factory=dict)
    _next: float = 0.0

    def due(self, rows: Rows, now: float) -> list[str]:
        """The lines to write at `now` (seconds that only grow)."""
        if now < self._next:
            return []
        wanted = {label: value for label, value in rows if label not in _MOVING}
        gone = {label: "" for label in self._told if label not in wanted}
        lines: list[str] = []
        for label, value in {**wanted, **gone}.items():
            told, at = self._told.get(label, ("", float("-inf")))
            if value == told or now - at < self.row_s or len(lines) >= self.lines_max:
                continue
            self._told[label] = (value, now)
            lines.append(f"{label}: {value or '-'}")
        if lines:
            self._next = now + self.batch_s
        return lines
