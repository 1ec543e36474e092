"""What containers leave in the kernel and in our folders, found by its name (blocking).

Everything that belongs to a container carries its id: the runtime's state `c<id>`, the folder `<id>` with its
mounts, processes whose root is an overlay of that folder, the control group `c<id>`, links `cont<id>-<n>`.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from typing import Final, Literal

from g8node.linux import cgroup, mount, namespace, netlink, pidfd
from g8node.linux.guard import off_loop
from g8node.node import rootfs

Kind = Literal["runtime", "process", "mount", "folder", "cgroup", "link"]

ORDER: Final[tuple[Kind, ...]] = ("runtime", "process", "mount", "folder", "cgroup", "link")
"""In which they are removed."""

_STATE: Final = re.compile(r"c(\d{1,5})")
LINK: Final = re.compile(r"cont[im]?(\d{1,5})-\d+p?")
_UPPER: Final = re.compile(r"upperdir=([^,]+)/(\d{1,5})/data/upper(?:,|$)")
_DEATH_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing of the container with that id; `name` is a path, a pid, or the name of a link."""

    kind: Kind
    name: str
    container: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look: the folder of bundles, the runtime's, the parents of control groups, if any."""

    folder: str
    state: str
    parents: tuple[str, ...]
    links: bool
    """Whether the links of this network namespace are ours to look at."""


@off_loop
def scan(places: Places) -> set[Leftover]:
    """Everything of every container, of those that live too."""
    folder = os.path.realpath(places.folder)
    found = {Leftover("runtime", name, id) for name, id in _named(_STATE, places.state)}
    found |= {
        Leftover("folder", f"{folder}/{name}", id) for name, id in _named(re.compile(r"(\d{1,5})"), folder)
    }
    for entry in mount.mounts():
        if entry.target.startswith(f"{folder}/"):
            top = entry.target.removeprefix(f"{folder}/").partition("/")[0]
            if top.isdigit():
                found.add(Leftover("mount", entry.target, int(top)))
    found |= {Leftover("process", str(pid), id) for pid, id in _processes(folder).items()}
    for parent in places.parents:
        found |= {
            Leftover("cgroup", f"{parent}/{name}", id)
            for name, id in _named(_STATE, f"{cgroup.MOUNT}/{parent}")
        }
    if places.links:
        names = ((link.name, LINK.fullmatch(link.name)) for link in netlink.links())
        found |= {Leftover("link", name, int(match[1])) for name, match in names if match is not None}
    return found


def _named(pattern: re.Pattern[str], folder: str) -> list[tuple[str, int]]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [(name, int(match[1])) for name in names if (match := pattern.fullmatch(name)) is not None]


def _processes(folder: str) -> dict[int, int]:
    """Processes whose root is a container's, with its id."""
    found: dict[int, int] = {}
    known: dict[int, int] = {}  # one look for each mount namespace
    own = namespace.namespace_id(os.getpid(), "mnt")
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            space = namespace.namespace_id(int(name), "mnt")
            if space != own:
                if space not in known:
                    known[space] = _container_of(int(name), folder)
                if known[space]:
                    found[int(name)] = known[space]
    return found


def _container_of(pid: int, folder: str) -> int:
    """The container in whose root the process is; 0 when it is in none of this folder."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as table:
        for line in table:
            if line.split(" ", 5)[4] == "/":
                match = _UPPER.search(line.rstrip("\n"))
                if match is not None and os.path.realpath(match[1]) == folder:
                    return int(match[2])
    return 0


@off_loop
def remove(leftover: Leftover, places: Places) -> None:
    """Remove it (all but what only the runtime can); nothing happens when it is gone. OSError."""
    if leftover.kind == "process":
        if _processes(os.path.realpath(places.folder)).get(int(leftover.name)) == leftover.container:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(leftover.name), signal.SIGKILL)
    elif leftover.kind == "mount":
        rootfs.unmount(leftover.name)
    elif leftover.kind == "folder":
        if not any(entry.target.startswith(f"{leftover.name}/") for entry in mount.mounts()):
            shutil.rmtree(leftover.name, ignore_errors=True)
    elif leftover.kind == "cgroup":
        cgroup.kill(leftover.name)
        cgroup.remove(leftover.name)
    elif leftover.kind == "link":
        netlink.link_remove(leftover.name)


@off_loop
def end_workers(places: Places) -> None:
    """Kill what an agent of before has left at work on containers, and wait until it is gone.

    The runtime could still start something; a snapshot of restic would lack the files that nobody serves now.
    """
    deadline = time.monotonic() + _DEATH_S
    while time.monotonic() < deadline:  # again: who was being started by one may be one
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and _works(int(name), places)]
        if not pids:
            return
        for pid in pids:
            pidfd.kill(pid, functools.partial(_works, pid, places), _DEATH_S)


def _works(pid: int, places: Places) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            words = file.read().split("\0")
        if words[0].endswith("/restic"):
            inside = os.readlink(f"/proc/{pid}/cwd").removeprefix(f"{os.path.realpath(places.folder)}/")
            return re.fullmatch(r"\d{1,5}/(rootfs|plain)", inside) is not None
    except OSError:
        return False
    return words[0].endswith("/crun") and words[1:3] == ["--root", places.state]
