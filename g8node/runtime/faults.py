"""What nobody caught: errors in callbacks of the loop, in threads and in finalizers (any thread).

They end nothing, but they must be told: each is logged with its traceback and counted for `core.state`. A
fault that comes a hundred times a second is logged ten times and then counted only.
"""

import asyncio
import sys
import threading
import time
from typing import Any, Final

from g8node.runtime import logs

log = logs.get("faults")

_LOGGED_A_SECOND: Final = 10


class Faults:
    """`install` on the loop thread, once."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""
        self._second = 0
        self._logged = 0

    def install(self) -> None:
        """Take the hooks of the running loop, of threads and of the interpreter."""
        asyncio.get_running_loop().set_exception_handler(self._of_loop)
        threading.excepthook = self._of_thread
        sys.unraisablehook = self._of_finalizer

    def state(self) -> dict[str, Any]:
        """For core.state."""
        return {"count": self.count, "last": self.last}

    def report(self, where: str, error: BaseException | None) -> None:
        """Log and count one."""
        self.count += 1
        self.last = f"{where}: {type(error).__name__}: {error}" if error is not None else where
        now = int(time.monotonic())
        if now != self._second:
            self._second, self._logged = now, 0
        self._logged += 1
        if self._logged <= _LOGGED_A_SECOND:
            log.error("nobody caught an error", where=where, exc_info=error)

    def _of_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.report(str(context.get("message", "event loop")), context.get("exception"))

    def _of_thread(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            self.report(f"thread {args.thread.name if args.thread else '?'}", args.exc_value)

    def _of_finalizer(self, args: "sys.UnraisableHookArgs") -> None:
        self.report(f"{args.err_msg or 'ignored'}: {args.object!r}"[:200], args.exc_value)
