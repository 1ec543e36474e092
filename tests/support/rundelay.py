"""How long a process waited for processors: on a busy machine that is no stall of its loop.

Nor is what a hypervisor took from the processors while the process had them.
"""

import contextlib
import os
from pathlib import Path


class RunDelay:
    """From now on. All threads count: the loop's may wait for a lock of one that waits for a processor."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._now()

    def seconds(self) -> float:
        """Those of threads that have ended are not known, those stolen are the machine's."""
        return sum(delay_s - self._before.get(task, 0.0) for task, delay_s in self._now().items())

    def _now(self) -> dict[str, float]:
        tasks, found = Path(f"/proc/{self._pid}/task"), {"stolen": _stolen_s()}
        for task in os.listdir(tasks):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[task] = int((tasks / task / "schedstat").read_text().split()[1]) / 1e9
        return found


def _stolen_s() -> float:
    ticks = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return ticks / os.sysconf("SC_CLK_TCK")
