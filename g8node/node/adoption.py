"""Containers that outlive the agent that started them, and how the next one takes them over (async).

Theory of operation. When an agent is killed its containers go on: their mounts are kept by `linux/survivor`,
their output stays in pipes that they themselves hold open for reading. What served the files of their flists
died with it, so that reading what is not in the page cache fails until the next agent has put a new overlay,
on the same upper folder, under the whole container, as `corex.flist-layer` does. A journal in the container's
folder, written when it runs, says all that is not in the runtime's own state. What cannot be taken over is
ended and removed: a container without a journal, of a backup, or with links and forwards, with flists mounted
inside or put over it while it ran, and one in which a process stands in the way of the new overlay. How a
container ends that is not our child nobody tells us: its exit code is 255.
"""

import asyncio
import os
import stat
from typing import Final

import msgspec
from msgspec import Struct

from g8node.errors import Conflict
from g8node.ids import ContainerId
from g8node.linux import survivor
from g8node.linux.guard import off_loop
from g8node.node import building, livelayer, rootfs
from g8node.node.backups import is_backup
from g8node.node.bundle import Place
from g8node.node.container import Container, Mounts
from g8node.node.crun import Streams
from g8node.node.image import Program
from g8node.node.specs import Spec
from g8node.node.users import User
from g8node.runtime import blocking, logs
from g8node.runtime.process import Child, Reaper

log = logs.get("containers")

UNKNOWN_CODE: Final = 255
_NAME: Final = "journal.json"


class Journal(Struct, frozen=True):
    """A running container; `since` is the start time of its process 1."""

    pid: int
    since: int
    spec: Spec
    cgroup: str
    program: Program
    user: User
    runs: int
    connected: bool
    """It has links of its own."""


async def pin(reaper: Reaper, path: str) -> None:
    """Keep our mount namespace alive from now on."""
    if not await blocking.run("disk", survivor.keeper, path):
        child = await reaper.spawn(survivor.SLEEPER)
        await blocking.run("disk", survivor.remember, path, child.pid)


@off_loop
def write(container: Container) -> None:
    """Write down that the container runs."""
    network = container.network
    journal = Journal(
        container.pid,
        survivor.start_time(container.pid),
        container.spec,
        container.cgroup,
        container.place.program,
        container.place.user,
        container.restarts.count,
        connected=network is not None and bool(network.wires),
    )
    path = f"{container.tree.top}/{_NAME}"
    with open(f"{path}.new", "wb") as file:
        file.write(msgspec.json.encode(journal))
    os.replace(f"{path}.new", path)


@off_loop
def survivors(folder: str) -> dict[int, Journal]:
    """The containers that run and can be taken over, as far as the journals tell."""
    found = {}
    for name in os.listdir(folder):
        if not name.isdigit():
            continue
        try:
            with open(f"{folder}/{name}/{_NAME}", "rb") as file:
                journal = msgspec.json.decode(file.read(), type=Journal)
        except (OSError, msgspec.MsgspecError):
            continue
        alive = journal.since and survivor.start_time(journal.pid) == journal.since
        simple = not (
            journal.connected
            or is_backup(journal.spec.root)
            or any(building.is_flist(source) for source in journal.spec.mount or ())
        )
        if alive and simple and not os.path.exists(f"{folder}/{name}/live1"):
            found[int(name)] = journal
    return found


def container_of(id: int, folder: str, journal: Journal) -> Container:
    """As it was; it has its child when it is `adopt`ed."""
    tree = building.tree(f"{folder}/{id}", journal.spec)
    place = Place(id, tree.layers[0].target, journal.cgroup, program=journal.program, user=journal.user)
    container = Container(ContainerId(id), journal.spec, tree, journal.cgroup, place)
    container.restarts.count = journal.runs
    container.pid = journal.pid
    return container


async def adopt(container: Container, mounts: Mounts, *, cgroups: bool) -> None:
    """Give it files again, and a child that is followed; what is to be undone at its end is on its `undo`.

    Raises what is in the way; then it must be ended, and its `undo` be unwound.
    """
    tree, undo = container.tree, container.undo
    root = tree.layers[0]
    undo.push_async_callback(blocking.run, "path", rootfs.remove, tree)
    for flist, lower in zip([container.spec.root, *(container.spec.layers or ())], root.lowers, strict=True):
        await blocking.run("path", rootfs.unmount, lower)
        await mounts.attach(flist, lower, storage=container.spec.storage or "")
        undo.push_async_callback(mounts.detach, lower)
    undo.push_async_callback(blocking.run, "path", rootfs.unstack, root)
    container.swaps += 1
    while await blocking.run("path", os.path.exists, f"{tree.data}/work-live{container.swaps}"):
        container.swaps += 1
    container.child = await _followed(container.pid)
    container.running.set()
    await livelayer.swap(container, root.lowers, container.cgroup if cgroups else "")


async def _followed(pid: int) -> Child:
    """A process that is not our child. Conflict when it has ended."""
    loop = asyncio.get_running_loop()
    try:
        group, fd = os.getpgid(pid), os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise Conflict(f"process {pid} ended") from error
    exited: asyncio.Future[int] = loop.create_future()

    def ended() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        if not exited.done():
            exited.set_result(UNKNOWN_CODE)

    loop.add_reader(fd, ended)
    return Child(pid, exited, group)


@off_loop
def outputs(pid: int) -> tuple[int, int]:
    """Descriptors that read what the process writes to its stdout and stderr; of /dev/null for no pipe."""
    return _pipe(f"/proc/{pid}/fd/1", os.O_RDONLY), _pipe(f"/proc/{pid}/fd/2", os.O_RDONLY)


@off_loop
def inputs(pid: int) -> Streams:
    """What a later run of it is to have as its streams: the same pipes."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return Streams(null, _pipe(f"/proc/{pid}/fd/1", os.O_RDWR), _pipe(f"/proc/{pid}/fd/2", os.O_RDWR))


@off_loop
def lasting(streams: Streams) -> Streams:
    """The same pipes, which have a reader as long as somebody has one of these: a copy, to be closed."""
    outs = (_pipe(f"/proc/self/fd/{fd}", os.O_RDWR) for fd in (streams.stdout, streams.stderr))
    return Streams(os.dup(streams.stdin), *outs)


def _pipe(path: str, flags: int) -> int:
    """Looked at before it is opened: what a container has there may be anything."""
    try:
        seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        if stat.S_ISFIFO(os.fstat(seen).st_mode):
            return os.open(f"/proc/self/fd/{seen}", flags | os.O_CLOEXEC)
        return os.dup(int(path.rpartition("/")[2])) if path.startswith("/proc/self/") else _null()
    finally:
        os.close(seen)


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
