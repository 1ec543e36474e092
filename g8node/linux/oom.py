"""Who dies when memory runs out (blocking, never waits); see proc(5), oom_score_adj.

The kernel spares process 1, and so core0 on a booted node, without being asked. Redis goes last of the
others, containers and what they run go first; services and jobs of the host, with 0, lie between.
"""

import contextlib
from typing import Final

REDIS: Final = -900
CONTAINERS: Final = 200


def adjust(pid: int, value: int) -> None:
    """Set it. A process that has ended, or a right to lower it that we lack (an agent's), changes nothing."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(value))
