"""What a container uses, whole (blocking): its control group, else the sum of its processes."""

import contextlib
import os
from typing import Any, Final

from g8node.linux import cgroup, namespace
from g8node.linux.guard import off_loop

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@off_loop
def stats(pid: int, group: str) -> dict[str, Any]:
    """Of the container whose process 1 is `pid`; `group` is empty where there are no control groups.

    `{source, processes, cpu: {used_s, ...}, memory: {used, limit, ...}, io: {read, written}}`, in bytes and
    seconds. What cannot be known is left out.
    """
    return _of_group(group) if group else _of_processes(pid)


def _of_group(group: str) -> dict[str, Any]:
    cpu = cgroup.table(group, "cpu.stat")
    events = cgroup.table(group, "memory.events")
    io = cgroup.io_total(group)
    memory = {
        "used": cgroup.number(group, "memory.current"),
        "peak": cgroup.number(group, "memory.peak"),
        "limit": cgroup.number(group, "memory.max"),
        "swap": cgroup.number(group, "memory.swap.current"),
        "oom_kills": events.get("oom_kill", 0),
    }
    return {
        "source": "cgroup",
        "processes": cgroup.number(group, "pids.current") or 0,
        "processes_limit": cgroup.number(group, "pids.max"),
        "cpu": {
            "used_s": cpu.get("usage_usec", 0) / 1e6,
            "user_s": cpu.get("user_usec", 0) / 1e6,
            "system_s": cpu.get("system_usec", 0) / 1e6,
            "throttled_s": cpu.get("throttled_usec", 0) / 1e6,
        },
        "memory": {key: value for key, value in memory.items() if value is not None},
        "io": {"read": io.get("rbytes", 0), "written": io.get("wbytes", 0)},
    }


def _of_processes(pid: int) -> dict[str, Any]:
    user = system = memory = read = written = threads = 0
    for each in namespace.inner_pids(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            fields = _stat(each)
            # Of itself and of the children that it has waited for; proc(5), utime to cstime.
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
            threads += int(fields[17])
            memory += int(fields[21]) * _PAGE
            io = _io(each)
            read, written = read + io.get("read_bytes", 0), written + io.get("write_bytes", 0)
    return {
        "source": "processes",
        "processes": threads,
        "cpu": {
            "used_s": (user + system) / _TICKS,
            "user_s": user / _TICKS,
            "system_s": system / _TICKS,
        },
        "memory": {"used": memory},
        "io": {"read": read, "written": written},
    }


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold anything; the state is the first."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _io(pid: int) -> dict[str, int]:
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return {key: int(value) for key, _, value in (line.partition(": ") for line in file)}
    except OSError:
        return {}
