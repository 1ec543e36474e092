"""`g8 container exec -i -t`: our terminal, or our input, for a program in a container (blocking)."""

import base64
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from g8tools.g8 import following
from g8tools.g8.results import ResultError, Return

if TYPE_CHECKING:
    from g8tools.g8.base import Response
    from g8tools.g8.client import Client
    from g8tools.g8.flow import Blocking

_READ_BYTES: Final = 64 << 10
_BUSY: Final = 503
_NOT_YET: Final = frozenset({404, 409})
_PAUSE_S: Final = 0.1
_START_S: Final = 120.0


def size() -> dict[str, int]:
    """Rows and columns of our terminal."""
    columns, rows = shutil.get_terminal_size()
    return {"rows": max(rows, 1), "columns": max(columns, 1)}


def talk(client: "Client", response: "Response[Blocking]", *, terminal: bool) -> Return:
    """Pass our input on and show the output, to the end of the job; its result."""
    ended = threading.Event()
    with _raw() if terminal else contextlib.nullcontext():
        speaking = threading.Thread(target=_speak, args=(client, response.id, ended), daemon=True)
        speaking.start()
        if terminal:
            signal.signal(signal.SIGWINCH, lambda *_: _resize(client, response.id))
        try:
            return following.follow(client, response, killable=not terminal)
        finally:
            ended.set()
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Our terminal passes everything on."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _resize(client: "Client", id: str) -> None:
    # In a thread: a signal handler may interrupt a request that is under way.
    threading.Thread(target=_quiet, args=(client, "job.resize", {"id": id, **size()}), daemon=True).start()


def _quiet(client: "Client", command: str, arguments: dict[str, Any]) -> None:
    with contextlib.suppress(RuntimeError, OSError):
        client.json(command, arguments)


def _speak(client: "Client", id: str, ended: threading.Event) -> None:
    """Until our input ends, or the job."""
    fd = sys.stdin.fileno()
    while not ended.is_set():
        if not select.select([fd], [], [], _PAUSE_S)[0]:
            continue
        data = os.read(fd, _READ_BYTES)
        arguments = {"id": id, "data": base64.b64encode(data).decode(), "close": not data}
        if not _sent(client, arguments, ended) or not data:
            return


def _sent(client: "Client", arguments: dict[str, Any], ended: threading.Event) -> bool:
    """Tried again while the process has not started, or does not read."""
    deadline = time.monotonic() + _START_S
    while not ended.is_set():
        try:
            client.json("job.input", arguments)
        except ResultError as error:
            if error.code != _BUSY and (error.code not in _NOT_YET or time.monotonic() > deadline):
                return False
            time.sleep(_PAUSE_S)
        else:
            return True
    return False
