"""How long a process waited for processors: on a busy machine that is no stall of its loop."""

import contextlib
import os
from pathlib import Path


class RunDelay:
    """From now on. All threads count: the loop's may wait for a lock of one that waits for a processor."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._now()

    def seconds(self) -> float:
        """Those of threads that have ended are not known."""
        return sum(delay_s - self._before.get(task, 0.0) for task, delay_s in self._now().items())

    def _now(self) -> dict[str, float]:
        tasks, found = Path(f"/proc/{self._pid}/task"), {}
        for task in os.listdir(tasks):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[task] = int((tasks / task / "schedstat").read_text().split()[1]) / 1e9
        return found
