"""How a command talks (blocking): results on stdout, progress and errors on stderr, fixed exit codes.

A terminal gets a progress bar, anything else one plain line per task. `--json` prints one JSON document.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Coroutine, Iterator
from typing import Any, Final, Protocol, TypeVar

import msgspec

from g8node.errors import DeadlineExceeded, Exhausted, NodeError, Unavailable

T = TypeVar("T")

WRONG_USE: Final = 100
OUR_BUG: Final = 101
SYSTEM_FAILED: Final = 111


def exit_code(error: BaseException) -> int:
    """100: the same call will never work. 111: a system call, a service or time failed. 101: a bug."""
    if isinstance(error, OSError | Unavailable | DeadlineExceeded | Exhausted):
        return SYSTEM_FAILED
    return WRONG_USE if isinstance(error, NodeError) else OUR_BUG


def describe(error: BaseException) -> str:
    """One line that says what is wrong."""
    if isinstance(error, NodeError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__


def show(value: Any, *, json: bool, text: str = "") -> None:
    """Print a result: JSON when asked, the text otherwise (JSON too when there is none)."""
    if json or not text:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
        sys.stdout.flush()
    else:
        print(text)


def table(rows: list[tuple[str, ...]]) -> str:
    """Left-aligned columns; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


class Progress(Protocol):
    """What a long task tells: amounts done out of a total, in bytes or pieces."""

    def total(self, amount: int) -> None: ...

    def advance(self, amount: int) -> None: ...


class _Lines:
    """For logs: how it ended."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._done = self._total = 0
        self._began = time.monotonic()

    def total(self, amount: int) -> None:
        self._total = amount

    def advance(self, amount: int) -> None:
        self._done += amount

    def end(self) -> None:
        took_s = time.monotonic() - self._began
        total = f" of {self._total}" if self._total else ""
        print(f"{self._what}: {self._done}{total}{self._unit}, {took_s:.1f} s", file=sys.stderr)


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def total(self, amount: int) -> None:
        self._bars.update(self._task, total=amount)

    def advance(self, amount: int) -> None:
        self._bars.advance(self._task, amount)


@contextlib.contextmanager
def progress(what: str, *, count_bytes: bool = False) -> Iterator[Progress]:
    """A task's progress on stderr. `count_bytes`: amounts are bytes."""
    if not sys.stderr.isatty():
        lines = _Lines(what, " bytes" if count_bytes else "")
        yield lines
        lines.end()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    amount = DownloadColumn(binary_units=True) if count_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars, bars.add_task(what, total=None))
