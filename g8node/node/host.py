"""What the host can give to containers, and what they use of it (blocking)."""

import os
import resource
import time
from collections.abc import Sequence
from typing import Any

from g8node.linux import cgroup, namespace, procfs
from g8node.linux.guard import off_loop
from g8node.node.bundle import Host
from g8node.runtime import logs

log = logs.get("containers")


@off_loop
def find_out(parent: str) -> Host:
    """What this host can give to containers; their control groups will lie below `parent`."""
    cgroups = cgroup.usable()
    if cgroups:
        cgroup.delegate(parent)
    else:
        log.warning("no control groups of version 2: containers run without limits and device rules")
    return Host(
        capabilities=namespace.own_capabilities(),
        cgroups=cgroups,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


@off_loop
def usage(wanted: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """`{cpu, rss, vms, swap}` for each pid, its control group (if any) counted in; zeros when it is gone."""
    return [_usage(pid, group) for pid, group in wanted]


def _usage(pid: int, group: str) -> dict[str, Any]:
    used = procfs.usage(pid) or {"cpu": 0.0, "rss": 0, "vms": 0, "swap": 0}
    inside = cgroup.usage(group) if group else None
    if inside is not None:
        age_s = max(time.time() - os.stat(f"{cgroup.MOUNT}/{group}").st_ctime, 0.01)
        used |= {"cpu": round(100 * inside.cpu_s / age_s, 3)}
        used |= {"rss": inside.memory_bytes, "swap": inside.swap_bytes}
    return used


@off_loop
def any_hears(pid: int, number: int) -> bool:
    """Whether a process in the pid namespace of `pid` has a handler for the signal."""
    return any(namespace.catches(each, number) for each in namespace.inner_pids(pid))


@off_loop
def make_folders(state: str, folder: str) -> None:
    """Make both folders."""
    os.makedirs(folder, mode=0o711, exist_ok=True)  # the runtime passes it as the root of a user namespace
    os.chmod(folder, 0o711)
    os.makedirs(state, mode=0o700, exist_ok=True)
