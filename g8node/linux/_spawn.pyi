# Types of _spawn.c.
from typing import Any

def make_outbox() -> tuple[Any, int]: ...
def submit(
    outbox: Any,
    token: int,
    words: bytes,
    env: bytes,
    search: str | None,
    program: str | None,
    stdio: tuple[int, int, int],
    keep: tuple[int, ...],
    keep_on_failure: bool,
    /,
) -> None: ...
def answers(outbox: Any, /) -> list[tuple[int, int, int]]: ...
def watch(wanted: bool, /) -> int: ...
def reap(pid: int, /) -> tuple[int, int] | None: ...
