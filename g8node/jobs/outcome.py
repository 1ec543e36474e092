"""How one run of a job ended (pure)."""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from g8node.errors import NodeError
from g8node.jobs.model import Level, State


class Outcome(Struct, frozen=True):
    """State, code and data of one run; a handler may return one to choose them itself."""

    state: State
    code: int = 0
    data: str = ""
    level: int = 0
    streams: tuple[str, str] | UnsetType = UNSET
    signal: int | UnsetType = UNSET

    @property
    def ok(self) -> bool:
        return self.state == "SUCCESS"


def success(value: Any) -> Outcome:
    """A builtin's value; TypeError when it cannot be written as JSON."""
    return Outcome("SUCCESS", 0, msgspec.json.encode(value).decode(), Level.RESULT_JSON)


def failure(error: BaseException) -> Outcome:
    """A builtin's error: a JSON string of the message; what is no NodeError is a bug (500)."""
    status = error.status if isinstance(error, NodeError) else 500
    text = str(error) if isinstance(error, NodeError) else f"{type(error).__name__}: {error}"
    return Outcome("ERROR", status, msgspec.json.encode(text).decode(), Level.RESULT_JSON)


def timeout(seconds: int) -> Outcome:
    """A builtin that took longer than its max_time."""
    text = f"deadline of {seconds} s exceeded"
    return Outcome("TIMEOUT", 504, msgspec.json.encode(text).decode(), Level.RESULT_JSON)
