"""The log lines of process 1 on their way to the console (a thread of its own).

A serial line takes 10 KB/s and may stop altogether, so nobody but this thread writes to it: a line waits in
a bounded queue, and when the queue is full it is dropped and counted. What should outlive the machine goes to
the kernel's log as well (`keep`), which a panic saves to persistent storage where there is some.
"""

import contextlib
import os
import threading
import time
from collections import deque
from typing import Final

_LINES_MAX: Final = 2000
_LINE_BYTES: Final = 16 << 10
_RECORD_CHARS: Final = 900  # the kernel cuts longer records
_PRIORITY: Final = b"<31>"  # daemon.debug: kept by the kernel, not shown on the console a second time


class Console:
    """A text stream for `logs.configure`. `fd` and `kernel_log` (-1: none) stay the caller's to close."""

    def __init__(self, fd: int, *, kernel_log: int = -1) -> None:
        self._fd = fd
        self._kernel_log = kernel_log
        self._queue: deque[tuple[int, bytes]] = deque()
        self._filled = threading.Event()
        self._busy = False
        self._dropped = 0
        self._thread = threading.Thread(target=self._drain, name="g8-console", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Never waits. Lines longer than 16 KiB are cut."""
        data = text.encode(errors="replace")
        if len(data) > _LINE_BYTES:
            data = data[:_LINE_BYTES] + b"...\n"
        self._put(self._fd, data)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def keep(self, text: str) -> None:
        """Copy the lines of text to the kernel's log; never waits."""
        if self._kernel_log >= 0:
            for line in text.splitlines():
                record = line[:_RECORD_CHARS].encode(errors="replace")
                self._put(self._kernel_log, _PRIORITY + b"g8node: " + record)

    def drained(self, limit_s: float) -> bool:
        """Wait until all is written; False when the console takes longer."""
        deadline = time.monotonic() + limit_s
        while self._queue or self._busy:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _put(self, fd: int, data: bytes) -> None:
        if len(self._queue) >= _LINES_MAX:
            self._dropped += 1
            return
        self._queue.append((fd, data))
        self._filled.set()

    def _drain(self) -> None:
        while True:
            self._filled.wait()
            self._busy = True
            self._filled.clear()
            while self._queue:
                _write(*self._queue.popleft())
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                _write(self._fd, b"%d lines were dropped: the console is too slow\n" % dropped)
            self._busy = False


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a line that hung up takes nothing; there is nobody to tell
        while data:
            data = data[os.write(fd, data) :]
