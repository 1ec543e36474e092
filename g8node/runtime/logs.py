"""Structured records to stderr: the serial console of PID 1, an agent's terminal or journal (async-safe)."""

import logging
import sys
from typing import Any, TextIO

import structlog


def configure(level: str = "info", stream: TextIO | None = None, *, json: bool = False) -> None:
    """Send records of `level` and above to `stream` (default stderr), one line each."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def set_level(level: str) -> None:
    """Change the least level that is shown; the rest of the configuration stays."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        **{**structlog.get_config(), "wrapper_class": structlog.make_filtering_bound_logger(number)}
    )


def get(component: str) -> Any:
    """A logger whose records carry the component's name. Cheap; made once per module."""
    return structlog.get_logger(component=component)
