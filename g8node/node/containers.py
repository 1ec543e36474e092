"""Owner of the node's containers (async); usable without Redis.

Theory of operation. `prepare` reserves an id and builds root and bundle, all or nothing; `start` runs it
under the OCI runtime. From then on the exit of its PID 1, however it comes, is what cleans up: the kernel
has killed every process of the pid namespace before we hear of it. `terminate` only brings that exit about.
What has begun in a thread or a child is never abandoned half-way: a cancelled caller leaves a task behind
that finishes and undoes it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

import msgspec

from g8node.errors import (
    Conflict,
    DeadlineExceeded,
    Exhausted,
    InvalidArgument,
    NodeError,
    NotFound,
)
from g8node.ids import ContainerId
from g8node.linux import cgroup, namespace
from g8node.node import (
    adoption,
    building,
    bundle,
    collecting,
    host,
    livelayer,
    owners,
    rootfs,
    specs,
    usage,
)
from g8node.node.backups import Backups
from g8node.node.container import Container, Mounts
from g8node.node.crun import Crun, Streams
from g8node.node.execs import Execs
from g8node.node.groups import Groups
from g8node.node.inner import Inner, close_inner
from g8node.node.leftovers import Places, end_workers
from g8node.node.limits import Limits
from g8node.node.lives import Life, Lives, event, first, stop
from g8node.node.nics import Nics
from g8node.node.ooms import Ooms
from g8node.node.specs import Spec
from g8node.node.volumes import Volumes
from g8node.node.wires import Network
from g8node.runtime import blocking, logs
from g8node.runtime.process import Child, Reaper

log = logs.get("containers")

T = TypeVar("T")

MAX_ID: Final = 65533  # the next one's address, 172.18.255.255, would be that of the broadcast
_DEFAULT_MAX: Final = 1000
_START_WAIT_S: Final = 120.0


class Containers:
    """Registry and lifecycle. `open` before anything else, `close` at the end."""

    def __init__(
        self,
        reaper: Reaper,
        mounts: Mounts,
        nics: Nics | None = None,
        *,
        folder: str,
        state: str,
        max_count: int = 0,
        starts: int = 8,
        keeper: str = "",
        groups: Groups | None = None,
        restored: str = "",
        volumes: str = "",
    ) -> None:
        """`folder` holds bundles and roots, `state` is the runtime's; both are made when missing.

        Without `nics` containers have no link but their loopback, without `groups` none is put into a group
        of an operator. `restored` is for roots of backups. With `keeper`, a file of `linux.survivor`,
        containers outlive us when we are killed.
        """
        if any(char in folder for char in ",:\\"):
            raise InvalidArgument(f"folder of containers: expected a path without , : and \\, got {folder}")
        self._reaper = reaper
        self._mounts = mounts
        self._nics = nics
        self._groups = groups
        self._folder = folder
        self._state = state
        self._max_count = max_count or _DEFAULT_MAX
        self._starts = asyncio.Semaphore(starts)
        self.execs = Execs(self, self._background, most=2 * starts)
        self.backups = Backups(self, reaper, restored or f"{folder}/restored")
        self.volumes = Volumes(reaper, volumes or f"{folder}/volumes")
        self._journals = adoption.Journals(reaper, nics, keeper, self.find_id)
        self.adopted: list[tuple[Container, Life]] = []  # what an earlier agent has started
        self._live: dict[int, Container] = {}
        self._last_id = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._host: bundle.Host | None = None
        self._crun: Crun | None = None
        self.listeners: list[Callable[[Container, dict[str, Any]], None]] = []
        """Told of every event of a container; see `lives.event`."""
        self._sequence = 0
        self._ooms = Ooms(self._out_of_memory)
        self._lives = Lives(self._run, self._between, self.exec, self._tell, self._ooms)
        self._parent = "g8" if os.getpid() == 1 else f"g8-{os.getpid()}"

    async def open(self) -> None:
        """Find out what the host can do, and clear away what an earlier run left in our folders."""
        self._host = await blocking.run("disk", host.find_out, self._parent)
        self._crun = Crun(self._reaper, self._state, cgroups=self._host.cgroups)
        await blocking.run("disk", host.make_folders, self._state, self._folder)
        await blocking.run("disk", end_workers, self._places())
        if self._host.cgroups:
            self._ooms.open()
        if found := await self._journals.survivors(self._folder):
            await asyncio.gather(*(self._adopt(id, journal) for id, journal in found.items()))
        earlier = await collecting.ownerless(self._places(), lambda: self._live)
        await collecting.remove(earlier, self._places(), self._crun)
        if not self._live:
            await blocking.run("path", rootfs.clear, self._folder)
        await self.backups.clear()
        await self.volumes.open()

    async def _adopt(self, id: int, journal: adoption.Journal) -> None:
        """Take a container over, or end it."""
        facts, crun = self.opened()
        container = self._live[id] = adoption.container_of(id, self._folder, journal)
        try:
            async with self._starts:
                await self._journals.reconnect(container, journal)
                await adoption.adopt(container, journal, self._mounts, self.volumes, cgroups=facts.cgroups)
                streams = None
                if container.may_restart:
                    await blocking.run("path", building.write, container, facts, crun)
                    streams = await blocking.run("path", adoption.inputs, container.pid)
        except (NodeError, OSError) as error:
            log.warning("a container cannot be taken over", container=id, error=str(error))
            await crun.delete(container.name)
            await container.undo.aclose()
            self._forget(container)
            return
        assert container.child is not None
        if self._nics is not None and container.network is not None:
            self._nics.began(container.network, container.pid)
        life = Life(container.child)
        self.adopted.append((container, life))
        self._last_id = max(self._last_id, id)
        if facts.cgroups:
            await self._ooms.add(id, container.cgroup)
        self._background(self._watch(container, life, streams))
        self._tell(container, "adopted", pid=container.pid)

    async def close(self) -> None:
        """Terminate every container and wait until nothing of them is left."""
        await asyncio.gather(
            *(self.terminate(id, grace_s=2.0) for id in list(self._live)), return_exceptions=True
        )
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._crun is not None:
            self._crun.close()
        await self._ooms.close()
        if self._host is not None and self._host.cgroups:
            with contextlib.suppress(OSError):
                await blocking.run("disk", cgroup.remove, self._parent)

    # --- life

    async def prepare(self, spec: Spec) -> Container:
        """Reserve an id, build root and bundle. Cancelling is safe; a failure leaves nothing behind."""
        specs.validate(spec)
        building.check(spec, self.opened()[0])
        container = self._reserve(spec)
        container.step = self._background(self._prepare(container))
        try:
            await asyncio.shield(container.step)
        except asyncio.CancelledError:
            self.abandon(container)
            raise
        self._tell(container, "created")
        return container

    async def start(self, container: Container, streams: Streams) -> Child:
        """Start a prepared container; it cleans up after itself from here on, also when this fails."""
        task = container.step = self._background(self._start(container, streams.copy()))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.abandon(container)
            raise

    def abandon(self, container: Container) -> None:
        """Undo `prepare` and `start`, however far they are; returns at once. For whoever cannot wait."""
        self._background(self._abandon(container))

    async def exec(self, id: int, argv: Sequence[str], streams: Streams, **options: Any) -> Child:
        """Start a process in a container; see `Execs.start`."""
        return await self.execs.start(id, argv, streams, **options)

    async def terminate(self, id: int, *, grace_s: float = 10.0) -> None:
        """TERM, grace, KILL; returns when nothing of the container is left. NotFound for an unknown id."""
        container = self.get(id)
        container.ending.set()
        while not container.running.is_set() and not container.gone.is_set():
            await first(container.running.wait(), container.gone.wait())
        if container.child is not None and container.child.running:
            await stop(container, container.child, grace_s)
        await container.gone.wait()

    async def put_layer(self, id: int, flist: str) -> None:
        """Put an flist over the root of a running container; a second one takes the first one's place.

        NotFound, what is wrong with the flist, Conflict: the container ended, or a process of it hinders.
        """
        container = await self.started(id)
        facts, _ = self.opened()
        putting = livelayer.put(container, flist, self._mounts, self._journals.note, cgroups=facts.cgroups)
        await asyncio.shield(self._background(putting))

    async def limit(self, id: int, wanted: Limits) -> Limits:
        """Change what a running container may use; the limits it has then.

        Unavailable without control groups, NotFound for a device, InvalidArgument: the kernel refuses.
        """
        container = await self.started(id)
        building.check(msgspec.structs.replace(container.spec, limits=wanted), self.opened()[0])
        await asyncio.shield(self._background(building.limit(container, wanted, *self.opened())))
        return container.spec.limits or Limits()

    async def collect(self, *, dry_run: bool) -> list[dict[str, Any]]:
        """What belongs to no container, `{kind, name, container}` each; removed unless `dry_run`."""
        found = await collecting.ownerless(self._places(), lambda: self._live)
        if dry_run:
            rows = [{"kind": each.kind, "name": each.name, "container": each.container} for each in found]
        else:
            rows = await collecting.remove(found, self._places(), self.opened()[1])
        if self._nics is None:
            return rows
        return rows + await collecting.networks(self._nics, self._live.__contains__, dry_run=dry_run)

    async def keep_clean(self) -> None:
        """Collect at intervals, for ever."""
        while True:
            await asyncio.sleep(collecting.PERIOD_S)
            await self.collect(dry_run=False)

    def _places(self) -> Places:
        groups: tuple[str, ...] = ()
        if self.opened()[0].cgroups:
            groups = (self._parent, *(self._groups.paths() if self._groups is not None else ()))
        links = self._nics is not None and self._nics.makes_networks
        return Places(self._folder, self._state, groups, links=links)

    def lost(self, targets: Iterable[str]) -> None:
        """The flists at these folders broke under the containers that stand on them: end those."""
        gone = set(targets)
        for container in list(self._live.values()):
            lowers = [lower for layers in container.tree.layers for lower in layers.lowers]
            if not gone.isdisjoint([*lowers, container.live]):
                log.error("container is ended: its flist was lost", container=container.id)
                self._background(self._terminate_lost(container))

    async def _terminate_lost(self, container: Container) -> None:
        with contextlib.suppress(NotFound):  # it ended by itself
            await self.terminate(container.id, grace_s=1.0)

    # --- look-ups

    def get(self, id: int) -> Container:
        """NotFound when there is none of that id."""
        container = self.find_id(id)
        if container is None:
            raise NotFound(f"container {id} does not exist")
        return container

    def find_id(self, id: int) -> Container | None:
        """The container of that id, also while it is starting."""
        return self._live.get(id)

    def find_name(self, name: str) -> Container | None:
        """The oldest running container of that name, in any case of letters."""
        wanted = name.casefold()
        return next((c for c in self.all() if (c.spec.name or "").casefold() == wanted), None)

    def find(self, tags: Iterable[str]) -> list[Container]:
        """Running containers that have all the tags."""
        wanted = set(tags)
        return [container for container in self.all() if wanted <= set(container.spec.tags or ())]

    def all(self) -> list[Container]:
        """Running containers in id order."""
        return sorted((c for c in self._live.values() if c.child is not None), key=lambda c: c.id)

    async def started(self, id: int) -> Container:
        """The container once it runs. NotFound, Conflict when its start failed, DeadlineExceeded."""
        container = self.get(id)
        if container.resting:
            raise Conflict(f"container {id} is between two runs")
        if not container.running.is_set():
            try:
                waiting = first(container.running.wait(), container.gone.wait())
                await asyncio.wait_for(waiting, _START_WAIT_S)
            except TimeoutError as error:
                raise DeadlineExceeded(f"container {id} did not start within {_START_WAIT_S:g} s") from error
        if container.child is None or not container.child.running:
            raise Conflict(f"container {id} ended")
        return container

    async def network(self, id: int) -> Network:
        """The network of a running container; InvalidArgument when it shares the node's. NotFound, ..."""
        container = await self.started(id)
        if container.network is None:
            raise InvalidArgument(f"container: {id} has no network of its own")
        return container.network

    async def usage(self, containers: Sequence[Container]) -> list[dict[str, Any]]:
        """`{cpu (% since the start), rss, vms, swap}` of each; zeros when it has just ended.

        Where the host has no control groups to give, of its PID 1 alone.
        """
        cgroups = self.opened()[0].cgroups
        wanted = [(container.pid, container.cgroup if cgroups else "") for container in containers]
        return await blocking.run("disk", host.usage, wanted)

    async def stats(self, id: int) -> dict[str, Any]:
        """What the whole container uses; see `usage.stats`. Conflict when it has ended."""
        container = await self.started(id)
        group = container.cgroup if self.opened()[0].cgroups else ""
        return await blocking.run("disk", usage.stats, container.pid, group)

    async def processes(self, container: Container) -> dict[int, int]:
        """Its processes, host pid -> inner pid."""
        return await blocking.run("disk", namespace.inner_pids, container.pid)

    async def inner(self, container: Container) -> Inner:
        """What dispatched commands work on; Conflict when the container has ended or ends meanwhile."""
        await self.started(container.id)
        if container.inner is None:
            container.inner = self._background(Inner.open(self._reaper, container))
        task = container.inner
        try:
            return await asyncio.shield(task)
        finally:
            if task.done() and (task.cancelled() or task.exception() is not None):
                container.inner = None

    # --- the work itself

    def opened(self) -> tuple[bundle.Host, Crun]:
        """What the host can give, and the runtime."""
        assert self._host is not None, "Containers.open was not called"
        assert self._crun is not None
        return self._host, self._crun

    def _reserve(self, spec: Spec) -> Container:
        if len(self._live) >= self._max_count:
            raise Exhausted(f"{len(self._live)} containers exist, the limit is containers.max_count")
        id = self._last_id
        while True:
            id = id % MAX_ID + 1
            if id not in self._live:
                break
        self._last_id = id
        tree = building.tree(f"{self._folder}/{id}", spec)
        group = f"{self._parent}/c{id}"
        place = bundle.Place(id, tree.layers[0].target, group)
        container = Container(ContainerId(id), spec, tree, group, place)
        self._live[id] = container
        return container

    async def _prepare(self, container: Container) -> None:
        async with AsyncExitStack() as undo:
            undo.callback(self._forget, container)
            async with self._starts:
                await building.enter(container, undo, self._groups, self.opened()[0])
                space = await owners.make(container, undo)
                await building.connect(container, undo, self._nics, space)
                parts = self._mounts, self.backups, self.volumes
                await building.build(container, undo, *parts, *self.opened())
            container.undo = undo.pop_all()

    async def _start(self, container: Container, streams: Streams) -> Child:
        held: Streams | None = None
        try:
            if self._journals.kept:
                await self._journals.pin()
                lasting = await blocking.run("path", adoption.lasting, streams)
                streams.close()
                streams = lasting
            held = streams.copy() if container.may_restart else None
            if container.cleaning or container.gone.is_set():
                raise Conflict(f"container {container.id} was given up before its start")
            child = await self._run(container, streams)
        except BaseException:
            if held is not None:
                held.close()
            await self._clean(container)
            raise
        finally:
            streams.close()
        life = Life(child)
        self._background(self._watch(container, life, held))
        return life

    async def _run(self, container: Container, streams: Streams) -> Child:
        """One run of process 1."""
        facts, crun = self.opened()
        async with self._starts:
            if container.ending.is_set():
                raise Conflict(f"container {container.id} was given up before its start")
            child = await crun.run(container.name, container.tree.top, streams)
        container.child, container.pid = child, child.pid
        if self._nics is not None and container.network is not None:
            self._nics.began(container.network, child.pid)
        if facts.cgroups:
            await self._ooms.add(container.id, container.cgroup)
        await self._journals.note(container)
        container.running.set()
        self._tell(container, "started", pid=child.pid)
        if not container.spec.privileged:
            crun.keep_filter(container.name, bundle.capabilities(container.spec, facts))
        return child

    async def _watch(self, container: Container, life: Life, streams: Streams | None) -> None:
        try:
            await self._lives.keep(container, life, streams)
        finally:
            await self._clean(container)

    async def _between(self, container: Container) -> None:
        """Two runs: let go of the one that ended."""
        opening, container.inner = container.inner, None
        await close_inner(opening)
        await self.opened()[1].delete(container.name)

    def _tell(self, container: Container, name: str, **detail: Any) -> None:
        self._sequence += 1
        told = event(container, name, self._sequence, detail)
        log.info(f"container {name}", container=container.id, **detail)
        for listener in self.listeners:
            listener(container, told)

    def _out_of_memory(self, id: int, killed: int) -> None:
        if (container := self._live.get(id)) is not None:
            self._tell(container, "oom", killed=killed)

    async def _abandon(self, container: Container) -> None:
        container.ending.set()
        if container.step is not None:
            await asyncio.wait([container.step])
            container.step.exception()  # its caller has gone
        if container.child is None:
            await self._clean(container)
        else:
            container.child.signal(signal.SIGKILL, group=False)  # its exit cleans up

    async def _clean(self, container: Container) -> None:
        if container.cleaning or container.gone.is_set():
            await container.gone.wait()
            return
        container.cleaning = True
        facts, crun = self.opened()
        async with container.journaling:
            pass  # none is written any more
        try:
            await close_inner(container.inner)
            await crun.delete(container.name)
            await livelayer.drop(container, self._mounts)
            if facts.cgroups:
                await blocking.run("disk", cgroup.remove, container.cgroup)
            await container.undo.aclose()
        except Exception:
            log.exception("a container could not be cleaned up", container=container.id)
        finally:
            self._forget(container)

    def _forget(self, container: Container) -> None:
        if self._live.get(container.id) is container:
            del self._live[container.id]
        container.gone.set()

    def _background(self, call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
