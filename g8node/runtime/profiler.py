"""A sampling profiler that is safe in process 1 (a thread): it only looks, it installs no hook.

Every 10 ms it notes where each thread of the process is, so what it counts is time on the wall: a thread
that waits is counted where it waits. The result is in the folded form of flame graphs, `frame;frame;frame
count`, the outermost frame first, the thread's name before it.
"""

import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Final

from g8node.errors import Conflict

INTERVAL_S: Final = 0.01
LIMIT_S: Final = 600.0
_STACKS_MAX: Final = 20_000
_DEPTH_MAX: Final = 64
_OTHERS: Final = "(others)"


class Profiler:
    """One profile at a time."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Begin to sample; ends by itself after ten minutes. Conflict when a profile is being taken."""
        if self._thread is not None:
            raise Conflict("a profile is being taken", hint="pprof.cpu.stop")
        self._counts = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="g8-profiler", daemon=True)
        self._thread.start()

    def stop(self) -> str:
        """The profile. Conflict when none is being taken."""
        if self._thread is None:
            raise Conflict("no profile is being taken", hint="pprof.cpu.start")
        self._ended.set()
        self._thread.join()
        self._thread = None
        return "".join(f"{stack} {count}\n" for stack, count in self._counts.most_common())

    def _sample(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        is_over = False
        while not is_over:  # so that the shortest profile has something
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            own = threading.get_ident()
            for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way
                if ident != own:
                    self._count(f"{names.get(ident, '?')};{folded(frame)}")
            is_over = self._ended.wait(INTERVAL_S) or time.monotonic() >= deadline

    def _count(self, stack: str) -> None:
        if len(self._counts) >= _STACKS_MAX and stack not in self._counts:
            stack = _OTHERS
        self._counts[stack] += 1


def folded(frame: FrameType | None) -> str:
    """The frame and its callers, the outermost first; of a very deep stack the innermost ones."""
    names: list[str] = []
    while frame is not None and len(names) < _DEPTH_MAX:
        code = frame.f_code
        names.append(f"{code.co_name} ({_short(code.co_filename)}:{frame.f_lineno})".replace(";", ","))
        frame = frame.f_back
    return ";".join(reversed(names))


def _short(path: str) -> str:
    return "/".join(path.rsplit("/", 2)[-2:])
