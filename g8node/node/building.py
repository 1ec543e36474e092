"""Root and bundle of a container, from its arguments (async; the second half runs in the "path" pool)."""

import os
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

import msgspec

from g8node.errors import Conflict, InvalidArgument, NotFound, Unavailable
from g8node.linux import cgroup, devices, files, rootpath, userns
from g8node.linux.devices import Device
from g8node.linux.guard import off_loop
from g8node.node import bundle, image, limits, nicspec, owners, rootfs, specs, users
from g8node.node.backups import Backups, is_backup, of_root
from g8node.node.bundle import Host
from g8node.node.container import Container, Mounts
from g8node.node.crun import Crun
from g8node.node.groups import Groups
from g8node.node.innertree import InnerTree
from g8node.node.nics import Nics
from g8node.node.specs import DEFAULT_HOSTNAME, Spec
from g8node.node.volumes import Volumes
from g8node.runtime import blocking

STARTUP: Final = "/.startup.toml"


def tree(folder: str, spec: Spec) -> rootfs.Tree:
    """Where the parts of a container with this spec lie."""
    flists = sum(is_flist(source) for source in spec.mount or {})
    return rootfs.Tree(folder, flists, len(spec.layers or ()), spec.size or 0, bool(spec.userns))


def is_flist(source: str) -> bool:
    return "://" in source


def check(spec: Spec, host: Host) -> None:
    """Unavailable: this host cannot hold what is asked for. InvalidArgument: no repository."""
    of_root(spec.root)
    if spec.limits is not None and not host.cgroups:
        raise Unavailable(
            "limits: this host has no control groups of version 2",
            hint="leave limits out, or mount cgroup2 alone on /sys/fs/cgroup",
        )


async def enter(container: Container, undo: AsyncExitStack, groups: Groups | None, host: Host) -> None:
    """Put its control group into the one that the caller names. NotFound, InvalidArgument, Unavailable."""
    if not container.spec.cgroups:
        return
    if groups is None or not host.cgroups:
        raise Unavailable("cgroups: this node has no control groups of version 2")
    name = await groups.enter(container.spec.cgroups)
    undo.callback(groups.leave, name)
    container.cgroup = f"{groups.path(name)}/{container.name}"
    container.place = replace(container.place, cgroup=container.cgroup)


async def connect(container: Container, undo: AsyncExitStack, nics: Nics | None, space: int) -> None:
    """Its network, in the namespace `space` when that is there already."""
    spec = container.spec
    if spec.host_network:
        return
    if nics is None:
        if space >= 0:
            await blocking.run("disk", os.close, space)
        if spec.nics:
            raise Unavailable("nics: this node makes no networks")
        return
    names = nicspec.labels(spec.name, spec.hostname)
    network = await nics.open(container.id, spec.nics or (), spec.port or {}, names, space)
    undo.push_async_callback(nics.close, network)
    container.network = network


async def build(
    container: Container,
    undo: AsyncExitStack,
    mounts: Mounts,
    backups: Backups,
    volumes: Volumes,
    host: Host,
    crun: Crun,
) -> None:
    """Everything up to the start; what was done is on `undo`, also when this fails half-way."""
    spec, tree = container.spec, container.tree
    hosts = {source: target for source, target in (spec.mount or {}).items() if not is_flist(source)}
    flists = {source: target for source, target in (spec.mount or {}).items() if is_flist(source)}
    if hosts:
        await blocking.run("path", rootfs.check_sources, list(hosts))
    undo.push_async_callback(blocking.run, "path", rootfs.remove, tree)
    await blocking.run("path", rootfs.make, tree)
    lowers = [lower for layers in tree.layers for lower in layers.lowers]
    for flist, lower in zip([spec.root, *(spec.layers or ()), *flists], lowers, strict=True):
        if lower == lowers[0] and is_backup(flist):
            await backups.attach(container, lower, undo)
            await owners.map_layer(container, lower, undo)
            container.place = replace(container.place, program=image.program(spec, {}))
            continue
        attached = await mounts.attach(flist, lower, storage=spec.storage or "")
        undo.push_async_callback(mounts.detach, lower)
        await owners.map_layer(container, lower, undo)
        if lower == lowers[0]:
            container.place = replace(container.place, program=image.program(spec, attached.info))
    for layers in tree.layers:
        undo.push_async_callback(blocking.run, "path", rootfs.unstack, layers)
    kept = await volumes.attach(container.id, spec.volumes or {}, undo)
    kept = await owners.map_volumes(container, kept, undo)
    shown = await owners.map_sources(container, list(hosts), undo)
    container.place = replace(container.place, volumes=kept)
    inside = zip((layers.target for layers in tree.layers[1:]), flists.values(), strict=True)
    binds = (*zip(shown, hosts.values(), strict=True), *inside)
    await blocking.run("path", _finish, container, binds, host, crun)


def _finish(container: Container, binds: tuple[tuple[str, str], ...], host: Host, crun: Crun) -> None:
    """The second half of `build`, in one trip to a thread."""
    spec, network = container.spec, container.network
    for layers in container.tree.layers:
        rootfs.stack(layers, devices=bool(spec.privileged))
    with userns.acting(container.base):
        resolv_conf = rootfs.fill(
            container.rootfs,
            spec.hostname or DEFAULT_HOSTNAME,
            spec.config or {},
            resolv_conf=bool(spec.host_network),
            address=network.address if network is not None else "",
            nameservers=network.nameservers if network is not None else (),
        )
    container.place = replace(
        container.place,
        binds=binds,
        resolv_conf=resolv_conf,
        netns=network.path if network is not None else "",
        devices=_devices(spec),
        resources=_resources(spec),
        user=_read(container),
    )
    write(container, host, crun)


@off_loop
def write(container: Container, host: Host, crun: Crun) -> None:
    """The bundle, for the next run of the container."""
    spec = container.spec
    compiled = "" if spec.privileged else crun.compiled_filter(bundle.capabilities(spec, host))
    config = bundle.config(spec, host, container.place, compiled_filter=compiled)
    with open(f"{container.tree.top}/config.json", "wb", opener=files.private) as file:
        file.write(msgspec.json.encode(config))


async def limit(container: Container, wanted: limits.Limits, host: Host, crun: Crun) -> None:
    """Other limits for a running container, and for its next runs. InvalidArgument, NotFound, Conflict."""
    async with container.layering:
        asked = limits.merged(container.spec.limits, wanted)
        try:
            await blocking.run("disk", _limit, container.cgroup, wanted)
        except FileNotFoundError as error:
            raise Conflict(
                f"container {container.id} ended, or the kernel has no {error.filename}"
            ) from error
        except OSError as error:
            raise InvalidArgument(f"limits: the kernel refuses them: {error.strerror}") from error
        container.spec = msgspec.structs.replace(container.spec, limits=asked)
        container.place = replace(
            container.place, resources=await blocking.run("disk", _resources, container.spec)
        )
        await blocking.run("path", write, container, host, crun)


def _limit(group: str, wanted: limits.Limits) -> None:
    lines = limits.io_lines(wanted, numbers_of(wanted))
    cgroup.set_files(group, limits.files(wanted), lines)


def _devices(spec: Spec) -> tuple[tuple[Device, str], ...]:
    found = [(device, "rwm") for device in devices.host_devices()] if spec.privileged else []
    for rule in spec.devices or ():
        path, inside, access = specs.device_rule(rule)
        try:
            found.append((devices.host_device(path, inside), access))
        except OSError as error:
            raise NotFound(f"devices: {path}: {error.strerror}") from error
    return tuple(found)


def numbers_of(names: limits.Limits | None) -> dict[str, tuple[int, int]]:
    """(major, minor) of the devices whose io is limited (blocking). NotFound, InvalidArgument."""
    found = {}
    for name in (names.io or {}) if names is not None else ():
        try:
            device = devices.host_device(name if name.startswith("/") else f"/dev/{name}", name)
        except OSError as error:
            raise NotFound(f"limits.io: {name[:200]}: {error.strerror}") from error
        if device.kind != "b":
            raise InvalidArgument(f"limits.io: expected a block device, got {name[:200]!r}")
        found[name] = (device.major, device.minor)
    return found


def _resources(spec: Spec) -> dict[str, Any]:
    return limits.resources(spec.limits, numbers_of(spec.limits)) if spec.limits is not None else {}


def _read(container: Container) -> users.User:
    """What the root itself says: who the user is, and its services."""
    tree = InnerTree(rootpath.open_root(os.path.realpath(container.rootfs)))
    try:
        container.startup = tree.text(STARTUP)
        wanted = container.place.program.user
        return (
            users.resolve(wanted, tree.text("/etc/passwd"), tree.text("/etc/group")) if wanted else users.ROOT
        )
    finally:
        tree.close()
