"""container.start_vs_podman, start_net_vs_podman: a real agent against `podman run` of the same tree.

podman has its own network namespace here, and on the reference machine no control groups and lower limits
(bench.md); with a network, both sides make a link to a bridge with an address in the agent's namespace.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.containers import Agent, running
from tests.bench.host import first_byte_s, package, run
from tests.bench.rows import Row, compare
from tests.support.busybox import busybox_flist
from tests.support.netns import daemon_inside, inside

_IN_A_ROW = 20
_LIMITS = ("--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    if wanted("container.start_vs_podman"):
        with running(folder / "podman") as agent:
            yield _start("container.start_vs_podman", agent, [], "none")
    if wanted("container.start_net_vs_podman"):
        yield _start_net(folder / "podman-net")


def _start_net(folder: Path) -> Row:
    image = busybox_flist(folder)
    with daemon_inside(folder / "agent", "ip link set lo up") as node, node.gate() as gate:
        agent = Agent(node, gate, image, folder, {})
        agent.start_s(nics=[{"type": "default"}])  # makes the bridge
        row = _start(
            "container.start_net_vs_podman", agent, inside(node.pid), "podman", nics=[{"type": "default"}]
        )
    shutil.rmtree(folder)
    return row


def _start(name: str, agent: Agent, prefix: list[str], network: str, **ours: Any) -> Row:
    """`network`: podman's; `ours`: arguments of corex.create."""
    podman = [
        "podman",
        "--log-level=error",
        "--root",
        f"{agent.folder}/images",
        "--runroot",
        f"{agent.folder}/runroot",
    ]
    what = ["--rootfs", f"{agent.folder}/tree:O", "echo", "hi"]
    argv = [*prefix, *podman, "run", "--rm", *_LIMITS, f"--network={network}", *what]
    first_byte_s(argv)  # makes its folders, and its bridge
    row = compare(
        name,
        "ms",
        "lower",
        lambda: 1000 * median(agent.start_s(**ours) for _ in range(_IN_A_ROW)),
        lambda: 1000 * median(first_byte_s(argv) for _ in range(_IN_A_ROW)),
        f"podman run --network={network}",
        versions=[package(each) for each in ("podman", "conmon", "crun")],
        options=[*_LIMITS, "--rootfs with an overlay"],
        in_a_row=_IN_A_ROW,
    )
    run(*prefix, *podman, "system", "prune", "--force")
    return row
