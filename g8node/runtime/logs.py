"""Structured records to stderr: the serial console of PID 1, an agent's terminal or journal (async-safe).

The last records are kept in memory, for whoever tells of a hang or shows the node's last error.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

_KEPT: Final = 50
_KEPT_CHARS: Final = 2000
_TROUBLE: Final = frozenset({"warning", "error", "critical"})


class Stream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> Any: ...

    def flush(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last record of level error or above: one line, and when (epoch seconds)."""

    text: str
    at: float


class _Memory:
    """Renders, and remembers what it rendered."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT)
        self.trouble: Trouble | None = None
        self.keep: Callable[[str], None] | None = None
        self.turn: Callable[[], None] | None = None
        self.renderer: Any = None

    def __call__(self, logger: Any, name: str, record: Any) -> str:
        level, component, event = (record.get(key, "") for key in ("level", "component", "event"))
        reason = record.get("reason") or record.get("error") or ""
        text: str = self.renderer(logger, name, record)
        self.lines.append(text[:_KEPT_CHARS])
        if level in _TROUBLE:
            if level != "warning":
                line = f"{component}: {event}" + (f" ({reason})" if reason else "")
                self.trouble = Trouble(" ".join(line.split())[:_KEPT_CHARS], time.time())
            if self.keep is not None:
                self.keep(text)
        return text


_memory = _Memory()


def configure(
    level: str = "info",
    stream: Stream | None = None,
    *,
    json: bool = False,
    keep: Callable[[str], None] | None = None,
    turn: Callable[[], None] | None = None,
) -> None:
    """Send records of `level` and above to `stream` (default stderr), one line each.

    `keep` is called with what is a warning or worse, `turn` begins a new log file.
    """
    _memory.keep, _memory.turn = keep, turn
    _memory.renderer = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
            structlog.processors.format_exc_info,
            _memory,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stderr),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


def set_level(level: str) -> None:
    """Change the least level that is shown; the rest of the configuration stays."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        **{**structlog.get_config(), "wrapper_class": structlog.make_filtering_bound_logger(number)}
    )


def recent() -> list[str]:
    """The last 50 records as they were written, oldest first."""
    return list(_memory.lines)


def trouble() -> Trouble | None:
    """The last error, if there was any."""
    return _memory.trouble


def keep(text: str) -> None:
    """Hand text to where records outlive the process, if there is such a place."""
    if _memory.keep is not None:
        _memory.keep(text)


def reopen() -> None:
    """Begin a new log file, if there is one."""
    if _memory.turn is not None:
        _memory.turn()


def get(component: str) -> Any:
    """A logger whose records carry the component's name. Cheap; made once per module."""
    return structlog.get_logger(component=component)
