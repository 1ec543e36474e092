"""Control groups of version 2 with limits that an operator sets (blocking): folders, members, files.

A group is a folder below `parent`, which `cgroup.delegate` has made, with the limits. A group of version 2
that gives its controllers on has no processes itself, so that its members are in the group `tasks` below it,
and each container that was put into it has one there too. OSError as the kernel gives it.
"""

import contextlib
import os
import time
from typing import Final

from g8node.linux.cgroup import MOUNT, becomes, delegate
from g8node.linux.guard import off_loop

NO_LIMIT: Final = 9223372036854771712
"""How version 1 says that memory is not limited; version 2 says `max`."""

_PREFIX: Final = "g-"  # no group can then be mistaken for a file of the kernel's, such as memory.max
_TASKS: Final = "tasks"
_LOOK_S: Final = 0.1


def path(parent: str, name: str) -> str:
    """Of the group below the mount point."""
    return f"{parent}/{_PREFIX}{name}"


def _folder(parent: str, name: str) -> str:
    return f"{MOUNT}/{path(parent, name)}"


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@off_loop
def create(parent: str, name: str) -> None:
    delegate(path(parent, name))
    os.makedirs(f"{_folder(parent, name)}/{_TASKS}", exist_ok=True)


@off_loop
def remove(parent: str, name: str, *, timeout_s: float = 2.0) -> None:
    """Move the members home, then remove the group; nothing happens when it is gone.

    Who is about to die moves no more and leaves a moment later; who was forked meanwhile is moved then.
    """
    folder = _folder(parent, name)
    if not os.path.isdir(folder):
        return
    deadline = time.monotonic() + timeout_s
    members = f"{path(parent, name)}/{_TASKS}"
    while True:
        for pid in _members(folder):
            leave(parent, name, pid)
        if becomes(members, "populated 0", timeout_s=_LOOK_S) or time.monotonic() > deadline:
            break
    os.rmdir(f"{folder}/{_TASKS}")
    os.rmdir(folder)


@off_loop
def tasks(parent: str, name: str) -> list[int]:
    """The processes of the group, those of containers in it too; none that our pid namespace hides."""
    folder = _folder(parent, name)
    found = _members(folder)
    for below, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):  # a container in it has just ended
            found |= _processes(below)
    return sorted(found)


def _members(folder: str) -> set[int]:
    """Those that are in no container."""
    return _processes(f"{folder}/{_TASKS}")


def _processes(folder: str) -> set[int]:
    return {pid for text in _read(f"{folder}/cgroup.procs").split() if (pid := int(text))}


@off_loop
def join(parent: str, name: str, pid: int) -> None:
    _write(f"{_folder(parent, name)}/{_TASKS}/cgroup.procs", str(pid))


@off_loop
def leave(parent: str, name: str, pid: int) -> bool:
    """Move a member to the group that the node itself is in; False when it is none, or is a container's."""
    if pid not in _members(_folder(parent, name)):
        return False
    try:
        _write(f"{MOUNT}{_home()}/cgroup.procs", str(pid))
    except ProcessLookupError:
        return False
    return True


def _home() -> str:
    """The node's own group (`/` for PID 1); cgroups(7)."""
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:].rstrip("/")
    return ""


@off_loop
def memory(parent: str, name: str) -> tuple[int, int]:
    """(memory, swap) in bytes; without a limit NO_LIMIT and 0, as version 1 answers (memsw - mem)."""
    folder = _folder(parent, name)
    limit = _read(f"{folder}/memory.max")
    try:
        swap = _read(f"{folder}/memory.swap.max")
    except FileNotFoundError:  # a kernel without swap accounting
        swap = "max"
    return NO_LIMIT if limit == "max" else int(limit), 0 if swap == "max" else int(swap)


@off_loop
def set_memory(parent: str, name: str, limit_bytes: int | None, swap_bytes: int | None) -> None:
    """None: no limit. The kernel reclaims, and kills if it must, when the group uses more than that."""
    folder = _folder(parent, name)
    _write(f"{folder}/memory.max", "max" if limit_bytes is None else str(limit_bytes))
    try:
        _write(f"{folder}/memory.swap.max", "max" if swap_bytes is None else str(swap_bytes))
    except FileNotFoundError:
        if swap_bytes:
            raise


@off_loop
def cpuset(parent: str, name: str) -> tuple[str, str]:
    """(cpus, memory nodes) that the group may use."""
    folder = _folder(parent, name)
    return _read(f"{folder}/cpuset.cpus.effective"), _read(f"{folder}/cpuset.mems.effective")


@off_loop
def set_cpuset(parent: str, name: str, cpus: str | None, mems: str | None) -> None:
    """None: leave it; an empty text: as the parent's."""
    folder = _folder(parent, name)
    if cpus is not None:
        _write(f"{folder}/cpuset.cpus", cpus or "\n")
    if mems is not None:
        _write(f"{folder}/cpuset.mems", mems or "\n")
