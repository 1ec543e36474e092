"""One more flist over the root of a running container (async): `corex.flist-layer`.

The new overlay has the same upper folder as the old one, so that what the container wrote is there, and a
work folder of its own. Files that are still open on the old one are files of the upper folder or of a layer,
which both overlays read alike; whoever could still make or remove names by way of the old one is refused
(`linux/rootswap.py`), because two overlays do not hear of each other's names.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from g8node.errors import Conflict, Unavailable
from g8node.linux import cgroup, mount, rootswap
from g8node.linux.guard import off_loop
from g8node.node import owners, rootfs
from g8node.node.container import Container, Mounts
from g8node.runtime import blocking, logs

log = logs.get("containers")

_TRIES = 20
_PAUSE_S = 0.1


async def put(
    container: Container,
    flist: str,
    mounts: Mounts,
    note: Callable[[Container], Awaitable[None]],
    *,
    cgroups: bool,
) -> None:
    """Put the flist over the container's layers, in place of the one put before; all or nothing.

    `note` writes down that it is there, for the next agent. To be run to its end: a cancelled caller leaves
    it in the background. Conflict says who is in the way.
    """
    async with container.layering:
        _check(container)
        container.swaps += 1
        lower = f"{container.tree.top}/live{container.swaps}"
        async with AsyncExitStack() as undo:
            await blocking.run("path", os.mkdir, lower)
            undo.push_async_callback(blocking.run, "path", os.rmdir, lower)
            await mounts.attach(flist, lower, storage=container.spec.storage or "")
            undo.push_async_callback(mounts.detach, lower)
            await owners.map_layer(container, lower, undo)
            await swap(
                container, (*container.tree.layers[0].lowers, lower), container.cgroup if cgroups else ""
            )
            undo.pop_all()
        old, container.live, container.live_flist = container.live, lower, flist
        try:
            await note(container)
        except OSError as error:
            log.warning("a journal is not written", container=container.id, reason=str(error))
        if old:
            await _detach(container, old, mounts)
        await _renew(container)
    log.info("layer put over a running container", container=container.id, flist=flist)


@off_loop
def clear(top: str) -> None:
    """Remove the folders of layers that nobody takes over from an earlier agent."""
    for name in os.listdir(top):
        if re.fullmatch(r"live\d+(-own)?", name):
            rootfs.unmount(f"{top}/{name}")
            os.rmdir(f"{top}/{name}")


async def drop(container: Container, mounts: Mounts) -> None:
    """When the container has ended: detach its layer, after a `put` that is under way."""
    async with container.layering:
        old, container.live, container.live_flist = container.live, "", ""
        if old:
            await _detach(container, old, mounts)


def _check(container: Container) -> None:
    if container.cleaning or container.child is None or not container.child.running:
        raise Conflict(f"container {container.id} ended")


async def _renew(container: Container) -> None:
    """Let dispatched commands look things up in the new root."""
    if (inner := container.inner) is not None:
        await asyncio.wait([inner])
        if not inner.cancelled() and inner.exception() is None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                await inner.result().renew(container.pid)


async def _detach(container: Container, lower: str, mounts: Mounts) -> None:
    await owners.unmap_layer(container, lower)
    await mounts.detach(lower)
    await blocking.run("path", os.rmdir, lower)


async def swap(container: Container, lowers: tuple[str, ...], group: str, *, inside: bool = False) -> None:
    """Give the container a root of these lowers and its own upper folder. Conflict: who is in the way.

    `inside`: the flists mounted in it are mounted anew too. Somebody may have a folder open just for a
    moment: tried again until nobody has, or the last try.
    """
    for left in reversed(range(_TRIES)):
        try:
            _check(container)
            await blocking.run("path", _swap_now, container, _stack(container, lowers, inside), group)
        except Conflict:
            if not left:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return


def _stack(container: Container, lowers: tuple[str, ...], inside: bool) -> dict[str, rootfs.Layers]:
    """What is to be mounted, by the place whose mount it replaces; the root's first."""
    tree, turn = container.tree, container.swaps
    root, *others = tree.layers
    work, place = f"{tree.data}/work-live{turn}", f"{tree.top}/next"
    stack = {root.target: rootfs.Layers(lowers, root.upper, work, place, tree.mapped)}
    for number, old in enumerate(others if inside else ()):
        work, place = f"{tree.data}/work{number}-live{turn}", f"{tree.top}/next{number}"
        stack[old.target] = rootfs.Layers(old.lowers, old.upper, work, place, tree.mapped)
    return stack


@off_loop
def _swap_now(container: Container, stack: dict[str, rootfs.Layers], group: str) -> None:
    try:
        for layers in stack.values():
            for folder in (layers.work, layers.target):
                os.makedirs(folder, exist_ok=True)
            rootfs.over(layers, devices=bool(container.spec.privileged))
        _swap_still(container, stack, group)
    except BaseException:
        for layers in stack.values():
            rootfs.unmount(layers.target)
            for folder in (f"{layers.work}/work", layers.work):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(folder)
        raise
    else:
        for target, layers in stack.items():
            _show(container, layers.target, target)
    finally:
        for layers in stack.values():
            rootfs.unmount(layers.target)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(layers.target)


def _show(container: Container, place: str, target: str) -> None:
    """In the node's own tree as it is in the container."""
    rootfs.unmount(target)
    try:
        mount.bind(place, target)
    except OSError as error:
        log.error("a part of a container is not shown any more", container=container.id, error=str(error))


def _swap_still(container: Container, stack: dict[str, rootfs.Layers], group: str) -> None:
    """While nothing in the container moves, where it has a control group."""
    place, *others = (layers.target for layers in stack.values())
    devices = _devices(list(stack)[1:])
    try:
        if group:
            cgroup.freeze(group)
        rootswap.swap(container.pid, place, dict(zip(devices, others, strict=True)))
    except (FileNotFoundError, ProcessLookupError) as error:
        raise Conflict(f"container {container.id} ended") from error
    except OSError as error:
        raise Unavailable(f"the layer cannot be put over container {container.id}: {error}") from error
    finally:
        if group:
            cgroup.thaw(group)


def _devices(targets: list[str]) -> list[str]:
    """Of the file systems that are mounted there, as the kernel shows them."""
    table = {entry.target: entry.device for entry in mount.mounts()} if targets else {}
    return [
        table[f"{os.path.realpath(os.path.dirname(target))}/{os.path.basename(target)}"] for target in targets
    ]
