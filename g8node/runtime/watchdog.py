"""The loop watchdog of design rule 4.1 (a thread beside the loop), and the feeding of /dev/watchdog.

asyncio's slow-callback warning does not see uvloop's `data_received` and `add_reader` callbacks, so a
thread asks the loop for a sign of life every `interval_s`; no answer within `limit_s` is a stall, recorded
with the loop thread's stack. A stall of `hang_s` is a hang: its stack and the last log lines go to where they
outlive the machine. `faulthandler` covers the case in which even this thread cannot run because the GIL is
held: it dumps all stacks to stderr when the loop has not re-armed it for `hang_s`.

Only a sign of life feeds the hardware watchdog, so a loop that never comes back restarts the machine.
"""

import asyncio
import contextlib
import faulthandler
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from g8node.linux.hardware_watchdog import HardwareWatchdog
from g8node.runtime import logs

log = logs.get("watchdog")

_KEPT: Final = 100
_FEEDS: Final = 6
"""Feeds in one timeout of the device."""
_REARMS: Final = 10
"""Times that faulthandler is armed anew in `hang_s`."""
_SEARCH_S: Final = 120.0
"""How long after the start the device may appear: its module is loaded in the background."""


@dataclass(frozen=True, slots=True)
class Stall:
    """The loop did not turn for `duration_s`; `stack` is where it was when the limit passed."""

    duration_s: float
    stack: str


class Watchdog:
    """Watches the loop it is started on."""

    def __init__(
        self,
        *,
        limit_s: float = 0.05,
        interval_s: float = 0.25,
        hang_s: float = 30.0,
        device: str = "",
        timeout_s: int = 60,
    ) -> None:
        """`device` is fed, and restarts the machine when it is not for `timeout_s`; empty: none."""
        self._limit_s = limit_s
        self._interval_s = interval_s
        self._hang_s = hang_s
        self._device = device
        self._timeout_s = timeout_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._hardware: HardwareWatchdog | None = None
        self._started = self._fed = self._looked = self._armed = 0.0
        self.stalls: deque[Stall] = deque(maxlen=_KEPT)

    def start(self) -> None:
        """Call on the loop thread."""
        loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._thread = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident()), name="g8-watchdog", daemon=True
        )
        self._rearm()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and the device's timer; safe to call twice."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._hang_s:
            faulthandler.cancel_dump_traceback_later()
        if self._hardware is not None:
            self._hardware.close()
            self._hardware = None

    def state(self) -> dict[str, Any]:
        """For core.state."""
        hardware = self._hardware
        return {
            "stalls": len(self.stalls),
            "device": hardware.identity or self._device if hardware is not None else "",
            "timeout_s": hardware.timeout_s if hardware is not None else 0,
        }

    def _rearm(self) -> None:
        """Each time costs a thread, so not at every sign of life."""
        now = time.monotonic()
        if self._hang_s and now - self._armed > self._hang_s / _REARMS:
            self._armed = now
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
            if not alive.wait(self._limit_s):
                stack = _stack_of(loop_thread)
                self._wait_out(alive, asked, loop_thread)
                if not alive.is_set():
                    return
                self._stalled(Stall(time.monotonic() - asked, stack))
            self._feed()

    def _wait_out(self, alive: threading.Event, asked: float, loop_thread: int) -> None:
        """Returns at the next sign of life, or when the watch is over."""
        is_told = not self._hang_s
        while not alive.wait(0.5) and not self._ended.is_set():
            if not is_told and time.monotonic() - asked > self._hang_s:
                is_told = True
                _tell_hang(time.monotonic() - asked, _stack_of(loop_thread))

    def _stalled(self, stall: Stall) -> None:
        self.stalls.append(stall)
        log.warning("the event loop stalled", seconds=round(stall.duration_s, 3), stack=stall.stack)

    def _feed(self) -> None:
        now = time.monotonic()
        if self._hardware is not None:
            if now - self._fed >= self._hardware.timeout_s / _FEEDS:
                self._fed = now
                self._hardware.feed()
        elif self._device and now - self._started < _SEARCH_S and now - self._looked >= 1:
            self._looked = now
            with contextlib.suppress(OSError):
                self._hardware = HardwareWatchdog(self._device, self._timeout_s)
                self._fed = now
                log.info(f"{self._device} restarts the machine when this loop hangs", **self.state())


def _stack_of(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to another thread's stack
    return "".join(traceback.format_stack(frame)) if frame else ""


def _tell_hang(seconds: float, stack: str) -> None:
    """While the thread can still run: the stack to the console, both it and the last lines to what stays."""
    lines = logs.recent()
    log.critical("the event loop hangs", seconds=round(seconds, 1), stack=stack)
    logs.keep("the last log lines:\n" + "\n".join(lines))
