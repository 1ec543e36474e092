"""Whose the files of a container with a user namespace of its own are (async).

Theory of operation. Container n has the ids n * 65536 and up, so that no two that run share one, without a
book that could be lost. Its layers, and what is mounted into it, are shown by mapped mounts beside them: the
files keep their owners, the container sees its own. What it writes is in the upper folder, its ids as the
node counts them; who reads its whole root for others (backups, flists) does so by an overlay of the layers
and of the upper folder mapped back.
"""

import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from g8node.errors import Conflict, Unavailable
from g8node.linux import userns
from g8node.linux.guard import off_loop
from g8node.linux.mount import Mount, mount
from g8node.linux.userns import Shown
from g8node.node import rootfs
from g8node.node.container import Container
from g8node.runtime import blocking
from g8node.runtime.finishing import between

Bind = tuple[str, str, bool]


async def make(container: Container, undo: AsyncExitStack) -> int:
    """Its user namespace, if it has one; a descriptor of a network namespace in it, -1 for none."""
    if not container.base:
        return -1
    await blocking.run("path", _check_passable, os.path.dirname(container.tree.top))
    try:
        user, net = await blocking.run("disk", userns.make, container.base)
    except OSError as error:
        raise Unavailable(f"userns: the kernel makes no user namespace: {error.strerror}") from error
    _hold(container, user, undo)
    return net


async def adopt(container: Container, undo: AsyncExitStack) -> None:
    """The namespace of a container that an earlier agent started, and what was mapped for it."""
    if not container.base:
        return
    try:
        space = await blocking.run("disk", userns.opened, container.pid)
    except OSError as error:
        raise Conflict(f"container {container.id} ended") from error
    _hold(container, space, undo)
    await blocking.run("path", _forget_plain, container.tree.top)
    sources = [source for source in container.spec.mount or () if "://" not in source]
    for number in range(len(sources) + len(container.spec.volumes or {})):
        undo.push_async_callback(blocking.run, "path", _unmap, _bound(container, number))


def _hold(container: Container, user: int, undo: AsyncExitStack) -> None:
    undo.push_async_callback(blocking.run, "disk", os.close, user)
    container.userspace = user
    container.place = replace(container.place, userns=f"/proc/{os.getpid()}/fd/{user}")


async def map_layer(container: Container, lower: str, undo: AsyncExitStack) -> None:
    """Show a layer with the container's owners. Unavailable when it cannot be."""
    if container.base:
        undo.push_async_callback(unmap_layer, container, lower)
        await blocking.run("path", _map_layer, lower, container.userspace)


async def unmap_layer(container: Container, lower: str) -> None:
    """Undo `map_layer`; nothing happens when there is nothing to undo."""
    if container.base:
        await blocking.run("path", _unmap, rootfs.own(lower))


async def map_sources(container: Container, sources: Sequence[str], undo: AsyncExitStack) -> list[str]:
    """Where folders and files of the node are shown with the container's owners. Unavailable."""
    return [await _map_source(container, source, n, Shown.NODEV, undo) for n, source in enumerate(sources)]


async def map_volumes(
    container: Container, volumes: Iterable[Bind], undo: AsyncExitStack
) -> tuple[Bind, ...]:
    """The same of volumes; the runtime sets no flags on what it did not mount."""
    first = sum("://" not in source for source in container.spec.mount or ())
    mapped = []
    for number, (source, path, readonly) in enumerate(volumes, first):
        flags = Shown.NODEV | Shown.NOSUID | (Shown.RDONLY if readonly else Shown(0))
        mapped.append((await _map_source(container, source, number, flags, undo), path, readonly))
    return tuple(mapped)


async def _map_source(
    container: Container, source: str, number: int, flags: Shown, undo: AsyncExitStack
) -> str:
    if not container.base:
        return source
    target = _bound(container, number)
    undo.push_async_callback(blocking.run, "path", _unmap, target)
    await blocking.run("path", _map, source, target, container.userspace, flags)
    return target


def _bound(container: Container, number: int) -> str:
    return f"{container.tree.top}/bind{number}"


@contextlib.asynccontextmanager
async def plain(container: Container) -> AsyncIterator[str]:
    """The root with the owners that its own tables name; the container must stand still meanwhile."""
    if not container.base:
        yield container.rootfs
        return
    top, root = container.tree.top, container.tree.layers[0]
    lowers = [*root.lowers, *([container.live] if container.live else [])]
    showing = blocking.run("path", _show_plain, top, root.upper, lowers, container.base)
    async with between(showing, lambda: blocking.run("path", _forget_plain, top)):
        yield f"{top}/plain"


@off_loop
def _check_passable(folder: str) -> None:
    """The runtime finds the root by its path when it is nobody already."""
    parts = os.path.realpath(folder).split("/")
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count]) or "/"
        if not os.stat(path).st_mode & stat.S_IXOTH:
            raise Unavailable(f"userns: {path} is closed to others", hint=f"chmod o+x {path}")


@off_loop
def _show_plain(top: str, upper: str, lowers: Sequence[str], base: int) -> None:
    space = userns.make_reverse(base)
    try:
        _map(upper, f"{top}/plain-upper", space)
    finally:
        os.close(space)
    os.mkdir(f"{top}/plain")
    rootfs.view([*lowers, f"{top}/plain-upper"], f"{top}/plain")


@off_loop
def _forget_plain(top: str) -> None:
    _unmap(f"{top}/plain")
    _unmap(f"{top}/plain-upper")


@off_loop
def _map_layer(lower: str, space: int) -> None:
    """Others may pass the container's folder: nothing there is to make anybody the node's root."""
    mount("none", lower, "", Mount.BIND | Mount.REMOUNT | Mount.RDONLY | Mount.NODEV | Mount.NOSUID)
    _map(lower, rootfs.own(lower), space)


@off_loop
def _map(source: str, target: str, space: int, flags: Shown = Shown.NODEV) -> None:
    """Show it at a new place. What is mounted below is mapped with it, or all is refused."""
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        userns.mapped(source, target, space, flags)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EPERM):
            raise Unavailable(
                f"userns: the owners of what is in {source} cannot be mapped",
                hint="not every file system can: FUSE cannot, and with it g8ufs.view = tree",
            ) from error
        raise


@off_loop
def _unmap(target: str) -> None:
    rootfs.unmount(target)
    if os.path.isdir(target):
        os.rmdir(target)
    elif os.path.lexists(target):
        os.unlink(target)
