"""The log lines of process 1 on their way to the console (a thread of its own).

A serial line takes 10 KB/s and may stop altogether, so nobody but this thread writes to it: a line waits in
a bounded queue, and when the queue is full it is dropped and counted. What should outlive the machine goes
to the kernel's log as well (`keep`), which a panic saves to persistent storage where there is some. A log
file gets the lines before the console does, a bounded number of them; it is opened for each batch, because a
disk may be mounted over its folder.
"""

import contextlib
import os
import threading
import time
from collections import deque
from typing import Final

_LINES_MAX: Final = 2000
_BATCH: Final = 32
_LINE_BYTES: Final = 16 << 10
_FILE_BYTES: Final = 1 << 20
_FILES_KEPT: Final = 4
_RECORD_CHARS: Final = 900  # the kernel cuts longer records
_PRIORITY: Final = b"<31>"  # daemon.debug: kept by the kernel, not shown on the console a second time


class Console:
    """A text stream for `logs.configure`. `fd` and `kernel_log` (-1: none) stay the caller's to close.

    `file` (empty: none) and four older ones hold 1 MiB each.
    """

    def __init__(self, fd: int, *, kernel_log: int = -1, file: str = "") -> None:
        self._fd = fd
        self._file = file
        self._is_turning = False
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

    def turn(self) -> None:
        """Begin a new log file with the next line; the one so far gets the time in its name."""
        self._is_turning = True

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
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
                if self._file:
                    self._save(b"".join(data for fd, data in batch if fd == self._fd))
                for fd, data in batch:
                    _write(fd, data)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                _write(self._fd, b"%d lines were dropped: the console is too slow\n" % dropped)
            self._busy = False

    def _save(self, data: bytes) -> None:
        """A disk that is full or gone takes nothing, and the console has it all the same."""
        with contextlib.suppress(OSError):
            if self._is_turning or _size(self._file) + len(data) > _FILE_BYTES:
                self._is_turning = False
                _turn(self._file)
            with open(self._file, "ab") as file:
                file.write(data)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _turn(path: str) -> None:
    """Rename the file to FILE.YYYYMMDD-HHMMSS; of those the newest stay."""
    folder, name = os.path.split(path)
    if os.path.exists(path):
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        os.replace(path, f"{path}.{stamp}")
    older = sorted(each for each in os.listdir(folder) if each.startswith(f"{name}."))
    for each in older[:-_FILES_KEPT]:
        os.unlink(f"{folder}/{each}")


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a line that hung up takes nothing; there is nobody to tell
        while data:
            data = data[os.write(fd, data) :]
