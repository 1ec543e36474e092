"""The loop watchdog of design rule 4.1 (a thread beside the loop).

asyncio's slow-callback warning does not see uvloop's `data_received` and `add_reader` callbacks, so a
thread asks the loop for a sign of life every `interval_s`; no answer within `limit_s` is a stall, recorded
with the loop thread's stack. `faulthandler` covers the case in which even this thread cannot run because
the GIL is held: it dumps all stacks to stderr when the loop has not re-armed it for `hang_s`.
"""

import asyncio
import faulthandler
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass

from g8node.runtime import logs

log = logs.get("watchdog")

_KEPT = 100


@dataclass(frozen=True, slots=True)
class Stall:
    """The loop did not turn for `duration_s`; `stack` is where it was when the limit passed."""

    duration_s: float
    stack: str


class Watchdog:
    """Watches the loop it is started on."""

    def __init__(self, *, limit_s: float = 0.05, interval_s: float = 0.25, hang_s: float = 30.0) -> None:
        self._limit_s = limit_s
        self._interval_s = interval_s
        self._hang_s = hang_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.stalls: deque[Stall] = deque(maxlen=_KEPT)

    def start(self) -> None:
        """Call on the loop thread."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident()), name="g8-watchdog", daemon=True
        )
        self._rearm()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; safe to call twice."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._hang_s:
            faulthandler.cancel_dump_traceback_later()

    def _rearm(self) -> None:
        if self._hang_s:
            faulthandler.dump_traceback_later(self._hang_s, repeat=True)

    def _watch(self, loop: asyncio.AbstractEventLoop, loop_thread: int) -> None:
        alive = threading.Event()

        def answer() -> None:
            self._rearm()
            alive.set()

        while not self._ended.wait(self._interval_s):
            alive.clear()
            asked = time.monotonic()
            try:
                loop.call_soon_threadsafe(answer)
            except RuntimeError:
                return  # the loop is closed
            if alive.wait(self._limit_s):
                continue
            stack = _stack_of(loop_thread)
            while not alive.wait(0.5):
                if self._ended.is_set():
                    return
            self._stalled(Stall(time.monotonic() - asked, stack))

    def _stalled(self, stall: Stall) -> None:
        self.stalls.append(stall)
        log.warning("the event loop stalled", seconds=round(stall.duration_s, 3), stack=stall.stack)


def _stack_of(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to another thread's stack
    return "".join(traceback.format_stack(frame)) if frame else ""
