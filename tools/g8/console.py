"""How a command talks (blocking): results on stdout, progress and errors on stderr, fixed exit codes.

A terminal gets a progress bar, anything else one plain line per task. `--json` prints one JSON document.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from g8node.errors import DeadlineExceeded, Exhausted, InvalidArgument, NodeError, Unavailable

T = TypeVar("T")

WRONG_USE: Final = 100
OUR_BUG: Final = 101
SYSTEM_FAILED: Final = 111


_NODE_FAILED: Final = frozenset({503, 504})  # of a job: what it needs is not there now

_json = False


def set_json(on: bool, *, afresh: bool = False) -> None:
    """Whether failures are to be JSON too; said once, it stays so until begun afresh."""
    global _json
    _json = on or (_json and not afresh)


def json_asked(on: bool) -> bool:
    """`--json` of one command, for typer."""
    set_json(on)
    return on


def is_json() -> bool:
    return _json


def done(**fields: Any) -> None:
    """Nothing to say but that it worked; with --json what it was about."""
    if _json:
        show({"ok": True, **fields}, json=True)


def exit_code(error: BaseException) -> int:
    """100: the same call will never work. 111: a system call, a service or time failed. 101: a bug."""
    if isinstance(error, OSError | Unavailable | DeadlineExceeded | Exhausted):
        return SYSTEM_FAILED
    if (code := _code_of_result(error)) is not None:
        return SYSTEM_FAILED if code in _NODE_FAILED else WRONG_USE
    return WRONG_USE if isinstance(error, NodeError) else OUR_BUG


def _code_of_result(error: BaseException) -> int | None:
    """Of a ResultError, which takes too long to import here."""
    code = getattr(error, "code", None) if isinstance(error, RuntimeError) else None
    return code if isinstance(code, int) else None


def describe(error: BaseException) -> str:
    """One line that says what is wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, NodeError) or (text and _code_of_result(error) is not None):
        return text
    if isinstance(error, OSError):
        if error.strerror:
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def fail(error: BaseException) -> int:
    """Say what went wrong: a line on stderr, or with --json an object on stdout. The exit code."""
    code = exit_code(error)
    if _json:
        status = error.status if isinstance(error, NodeError) else getattr(error, "code", 0)
        show({"error": {"message": describe(error), "code": status, "exit": code}}, json=True)
    else:
        print(f"g8: {describe(error)}", file=sys.stderr)
    return code


def show(value: Any, *, json: bool, text: str | None = None) -> None:
    """Print a result: JSON when asked, here or before the command, else the text (JSON if there is none)."""
    if json or _json or text is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
        sys.stdout.buffer.flush()
    elif text:
        print(text)


def line(value: Any) -> None:
    """One JSON document on one line."""
    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Aligned columns (`right` are those of numbers); the first row is the header. A terminal gets the header
    in bold, and lines that fit.
    """
    is_terminal = sys.stdout.isatty()
    cells = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    width = shutil.get_terminal_size().columns if is_terminal else 0
    lines = [
        "  ".join(
            cell.rjust(size) if column in right else cell.ljust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    if width:
        lines = [each if len(each) <= width else f"{each[: width - 1]}…" for each in lines]
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Without what would move the cursor: much of it comes from containers and their users."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def fields(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values below each other; what has no value is left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {_plain(value)}" for name, value in shown)


_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def amount(count: float) -> str:
    """Bytes for people: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} PiB"


def size_of(text: str, name: str = "size") -> int:
    """Bytes of `10G`, `512M`, `4096`, also `10GiB`. Raises InvalidArgument."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in _UNITS and not number[-1:].isdigit() else ""
    digits = number.removesuffix(unit)
    if not digits.isascii() or not digits.isdigit() or len(digits) > 20:
        raise InvalidArgument(f"{name}: expected bytes as 4096, 512M, 10G or 2T, not {text[:40]!r}")
    return int(digits) * _UNITS[unit]


def duration(seconds: float) -> str:
    """For people: 3d 4h, 5m 3s, 12s."""
    whole = int(max(seconds, 0))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on uvloop."""
    import asyncio

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
