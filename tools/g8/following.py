"""Showing what a job says as it says it (blocking), to its end, and what came of it."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

from g8tools.g8 import console
from g8tools.g8.results import ENDED, LEVEL_STDOUT, SUCCESS, Message, Return

if TYPE_CHECKING:
    from g8tools.g8.base import Response
    from g8tools.g8.client import Client
    from g8tools.g8.flow import Blocking

_EXIT_BASE: Final = 1000
_KILLED: Final = 999
_SIGNALLED: Final = 128
_SIGKILL: Final = 9
_SIGINT: Final = 2
_NOT_FOUND: Final = 404
_NOT_FOUND_STATUS: Final = 127
_RESULT_S: Final = 60.0
_RESULTS: Final = frozenset({20, 21, 22, 23, 30})


def exit_status(result: Return) -> int:
    """What a shell would say of the remote process: its exit code, 128 + the signal, 127 when not found."""
    if result.state == SUCCESS:
        return 0
    if result.code > _EXIT_BASE:
        return (result.code - _EXIT_BASE) & 0xFF
    if result.code == _KILLED:
        return _SIGNALLED + int(result.payload.get("signal") or _SIGKILL)
    return _NOT_FOUND_STATUS if result.code == _NOT_FOUND else 1


def _is_result(message: Message) -> bool:
    """Of a builtin, or of a program that is refused before it starts: no output."""
    return message.level in _RESULTS and bool(message.flags & ENDED)


def print_message(message: Message) -> None:
    """As the process would have printed it; results of builtins are not output."""
    if _is_result(message):
        return
    stream = sys.stdout if message.level == LEVEL_STDOUT else sys.stderr
    stream.write(message.text)
    if message.flags & ENDED and message.text and not message.text.endswith("\n"):
        stream.write("\n")  # why it could not be started
    stream.flush()


def as_json(message: Message) -> dict[str, Any]:
    return {"level": message.level, "text": message.text, "end": bool(message.flags & ENDED)}


class Absent(Exception):
    """The job that was to be followed is not there (any more)."""


def follow(
    client: "Client",
    response: "Response[Blocking]",
    *,
    killable: bool,
    lines: bool = False,
    of: str = "",
) -> Return:
    """Print a job's messages to its end; its result.

    `killable`: the first Ctrl-C is sent on to the job, the second gives up. `lines`: as JSON lines. `of`: the
    job that `response` subscribes to; Absent when there is none.
    """
    absent = msgspec.json.encode(f"job '{of}' does not exist").decode() if of else ""
    shown = interrupted = False
    while True:
        try:
            for message in response.messages():
                if of and message.text == absent and _is_result(message):
                    raise Absent
                shown = shown or (bool(message.text) and not _is_result(message))
                if lines:
                    console.line(as_json(message))
                else:
                    print_message(message)
            break
        except KeyboardInterrupt:
            if interrupted or not killable:
                raise
            interrupted = True
            with contextlib.suppress(RuntimeError):
                client.job.kill(response.id, _SIGINT)
    result = response.get(_RESULT_S)
    if not lines:
        explain(result, shown=shown)
    return result


def explain(result: Return, *, shown: bool) -> None:
    """Why it failed, where its output cannot tell."""
    if result.state == "TIMEOUT":
        print(f"g8: {result.command}: TIMEOUT: {result.critical or 'ended by the node'}", file=sys.stderr)
    elif result.state != SUCCESS and result.code < _KILLED and not shown:
        print(f"g8: {result.reason()}", file=sys.stderr)
