"""Containers that outlive the agent that started them, and how the next one takes them over (async).

Theory of operation. When an agent is killed its containers go on: their mounts are kept by `linux/survivor`,
their output stays in pipes that they themselves hold open for reading. What served the files of their flists
died with it, so that reading what is not in the page cache fails until the next agent has put new overlays,
on the same upper folders, under the whole container, as `corex.flist-layer` does, and in the place of the
flists that are mounted inside. A journal in the container's folder, written when it runs and when its network
or its layer changes, says all that is not in the runtime's own state: links stay as they are, forwards and
names are made anew. What cannot be taken over is ended and removed: a container without a journal or of a
backup, one whose links are gone or in another network namespace, and one in which a process stands in the way
of the new overlays. How a container ends that is not our child nobody tells us: its exit code is 255.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import msgspec
from msgspec import Struct

from g8node.errors import Conflict
from g8node.ids import ContainerId
from g8node.linux import files, survivor
from g8node.linux.guard import off_loop
from g8node.node import building, livelayer, owners, rootfs
from g8node.node.backups import is_backup, unmark
from g8node.node.bundle import Place
from g8node.node.container import Container, Mounts
from g8node.node.crun import Streams
from g8node.node.nics import Nics
from g8node.node.specs import Spec
from g8node.node.stillness import release
from g8node.node.volumes import Volumes
from g8node.node.wires import Network, Record
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
    place: Place
    runs: int
    network: Record | None
    """Its own."""
    live: str = ""
    """Where the flist is that was put over it, and which one."""
    live_flist: str = ""


class Journals:
    """Of running containers; `keeper` is a file of `linux.survivor`, without which none are kept."""

    def __init__(
        self, reaper: Reaper, nics: Nics | None, keeper: str, find: Callable[[int], Container | None]
    ) -> None:
        self._reaper = reaper
        self._nics = nics
        self._keeper = keeper
        self._find = find
        self._pinning = asyncio.Lock()
        if nics is not None and keeper:
            nics.on_change = self._network_changed

    @property
    def kept(self) -> bool:
        return bool(self._keeper)

    async def pin(self) -> None:
        """Keep our mount namespace alive from now on."""
        async with self._pinning:
            if not await blocking.run("disk", survivor.keeper, self._keeper):
                child = await self._reaper.spawn(survivor.SLEEPER)
                await blocking.run("disk", survivor.remember, self._keeper, child.pid)

    async def note(self, container: Container) -> None:
        """Write down that it runs, and how."""
        async with container.journaling:
            if self._keeper and not container.cleaning:
                network = container.network
                record = None if self._nics is None or network is None else await self._nics.record(network)
                await blocking.run("path", write, container, record)

    async def _network_changed(self, network: Network) -> None:
        container = self._find(network.id)
        if container is not None and container.running.is_set():
            try:
                await self.note(container)
            except OSError as error:
                log.warning("a journal is not written", container=container.id, reason=str(error))

    async def survivors(self, folder: str) -> dict[int, Journal]:
        """The containers that run and can be taken over, as far as the journals tell.

        The node's networks are as they were then, and other networks are gone.
        """
        if not self._keeper:
            return {}
        found = await blocking.run("path", read, folder)
        if self._nics is not None:
            await self._nics.recover(
                {id: each.network for id, each in found.items() if each.network is not None}
            )
        return found

    async def reconnect(self, container: Container, journal: Journal) -> None:
        """Give it the network that it had. NodeError when that is not there any more."""
        if self._nics is not None and journal.network is not None:
            network = await self._nics.adopt(container.id, journal.network, journal.pid)
            container.undo.push_async_callback(self._nics.close, network)
            container.network = network
            container.place = replace(container.place, netns=network.path)


@off_loop
def write(container: Container, network: Record | None) -> None:
    """Write down that the container runs, and how."""
    journal = Journal(
        container.pid,
        survivor.start_time(container.pid),
        container.spec,
        container.place,
        container.restarts.count,
        network,
        container.live,
        container.live_flist,
    )
    path = f"{container.tree.top}/{_NAME}"
    with open(f"{path}.new", "wb", opener=files.private) as file:
        file.write(msgspec.json.encode(journal))
    os.replace(f"{path}.new", path)


@off_loop
def read(folder: str) -> dict[int, Journal]:
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
        if alive and not is_backup(journal.spec.root):
            found[int(name)] = journal
    return found


def container_of(id: int, folder: str, journal: Journal) -> Container:
    """As it was; it has its child when it is `adopt`ed."""
    tree, place = building.tree(f"{folder}/{id}", journal.spec), journal.place
    container = Container(ContainerId(id), journal.spec, tree, place.cgroup, place)
    container.restarts.count = journal.runs
    container.pid = journal.pid
    return container


async def adopt(
    container: Container, journal: Journal, mounts: Mounts, volumes: Volumes, *, cgroups: bool
) -> None:
    """Give it files again, and a child that is followed; what is to be undone at its end is on its `undo`.

    Raises what is in the way; then it must be ended, and its `undo` be unwound.
    """
    tree, undo = container.tree, container.undo
    undo.push_async_callback(blocking.run, "path", rootfs.remove, tree)
    await owners.adopt(container, undo)
    undo.push_async_callback(blocking.run, "path", livelayer.clear, tree.top)
    undo.push_async_callback(livelayer.drop, container, mounts)
    await blocking.run("path", livelayer.clear, tree.top)
    await _attach(container, journal, mounts)
    for layers in tree.layers:
        undo.push_async_callback(blocking.run, "path", rootfs.unstack, layers)
    await volumes.attach(container.id, container.spec.volumes or {}, undo)
    container.swaps += 1
    while await blocking.run("path", os.path.exists, f"{tree.data}/work-live{container.swaps}"):
        container.swaps += 1
    container.child = await _followed(container.pid)
    container.running.set()
    group = container.cgroup if cgroups else ""
    if held := await blocking.run("path", os.path.exists, tree.held):
        await blocking.run("disk", release, container.pid, group)  # who has a folder open is to close it
    lowers = (*tree.layers[0].lowers, *([container.live] if container.live else []))
    await livelayer.swap(container, lowers, group, inside=True)
    if held:
        await blocking.run("path", unmark, container.rootfs)
        await blocking.run("path", os.unlink, tree.held)


async def _attach(container: Container, journal: Journal, mounts: Mounts) -> None:
    """Mount its flists where they were: of the root, inside, and the one put over it."""
    spec, tree = container.spec, container.tree
    storage = spec.storage or ""
    inside = [source for source in spec.mount or () if building.is_flist(source)]
    lowers = [lower for layers in tree.layers for lower in layers.lowers]
    for flist, lower in zip([spec.root, *(spec.layers or ()), *inside], lowers, strict=True):
        await owners.unmap_layer(container, lower)
        await blocking.run("path", rootfs.unmount, lower)
        await mounts.attach(flist, lower, storage=storage)
        container.undo.push_async_callback(mounts.detach, lower)
        await owners.map_layer(container, lower, container.undo)
    if journal.live:
        await mounts.attach(journal.live_flist, journal.live, storage=storage)
        container.live, container.live_flist = journal.live, journal.live_flist
        await owners.map_layer(container, journal.live, container.undo)


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
