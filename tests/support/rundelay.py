"""How long a process waited for processors: on a busy machine that is no stall of its loop.

What the host took from this machine counts too: on a stolen processor a thread runs, its kernel thinks.
"""

import contextlib
import os
from pathlib import Path


class RunDelay:
    """From now on. All threads count: the loop's may wait for a lock of one that waits for a processor.

    Those of threads that end are known if somebody asks before.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._now()
        self._known = dict(self._before)
        self._stolen_before = _stolen_s()

    def seconds(self) -> float:
        for task, delay_s in self._now().items():
            self._known[task] = max(delay_s, self._known.get(task, 0.0))
        waited = sum(delay_s - self._before.get(task, 0.0) for task, delay_s in self._known.items())
        return waited + _stolen_s() - self._stolen_before

    def _now(self) -> dict[str, float]:
        tasks, found = Path(f"/proc/{self._pid}/task"), {}
        for task in os.listdir(tasks):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[task] = int((tasks / task / "schedstat").read_text().split()[1]) / 1e9
        return found


def _stolen_s() -> float:
    """Since the start of the machine, of all its processors."""
    total = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(total[8]) / os.sysconf("SC_CLK_TCK")
