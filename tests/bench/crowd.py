"""container.idle_mb, container.create_drift: what five hundred idle containers cost, and the last of them."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import quantiles

from tests.bench.containers import Agent, running
from tests.bench.host import pss_mb
from tests.bench.rows import Row, single

_CONTAINERS = 500
_EDGE = 50
_NAMES = ("container.idle_mb", "container.create_drift")


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    if not any(map(wanted, _NAMES)):
        return
    with running(folder / "crowd") as agent:
        before = _size_mb(agent)
        seconds = []
        for _ in range(_CONTAINERS):
            began = time.perf_counter()
            agent.create(["sleep", "1000000"])
            seconds.append(time.perf_counter() - began)
        grown = _size_mb(agent) - before
        for container in agent.node.direct("corex.list"):
            agent.node.direct("corex.terminate", container=int(container))
    setup = {"containers": _CONTAINERS, "command": "sleep of busybox, host's network, one flist"}
    if wanted("container.idle_mb"):
        yield single("container.idle_mb", "MB", "lower", round(grown / _CONTAINERS, 3), **setup)
    if wanted("container.create_drift"):
        yield _drift(seconds, setup)


def _drift(seconds: list[float], setup: dict[str, int | str]) -> Row:
    """The 95th percentile of the last creates against the first ones."""
    first, last = (1000 * quantiles(part, n=20)[18] for part in (seconds[:_EDGE], seconds[-_EDGE:]))
    row = single("container.create_drift", "ms", "lower", round(last, 2), **setup)
    row.peer, row.peer_name, row.ratio = round(first, 2), f"the first {_EDGE}", round(first / last, 3)
    return row


def _size_mb(agent: Agent) -> float:
    """core0 and all processes that it is an ancestor of, but for redis-server."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(status.parent.name)] = (int(fields["PPid"]), fields["Name"])
    return sum(
        pss_mb(pid)
        for pid, (_, name) in parents.items()
        if name != "redis-server" and _descends(pid, agent.node.pid, parents)
    )


def _descends(pid: int, ancestor: int, parents: dict[int, tuple[int, str]]) -> bool:
    while pid in parents:
        if pid == ancestor:
            return True
        pid = parents[pid][0]
    return False
