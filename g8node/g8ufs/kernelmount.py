"""The kernel's part of a mounted flist: the EROFS on the session's entry and binds of it (blocking).

Touches paths of our own session: only in the "path" pool (R5).
"""

import contextlib
import errno
import os

from g8node.errors import Unavailable
from g8node.linux import blockdev
from g8node.linux import mount as linux
from g8node.linux.guard import off_loop
from g8node.linux.mount import Mount
from g8node.runtime import logs

log = logs.get("g8ufs.mounts")


@off_loop
def bind(place: str, target: str, nosuid: bool) -> None:
    os.makedirs(target, exist_ok=True)
    linux.bind(place, target)
    if nosuid:
        flags = Mount.BIND | Mount.REMOUNT | Mount.RDONLY | Mount.NODEV | Mount.NOSUID
        try:
            linux.mount("none", target, "", flags)
        except OSError:
            linux.unmount_if_mounted(target, lazy=True)
            raise


@off_loop
def mount_erofs(path: str, place: str) -> None:
    """File-backed where the kernel can (6.12), through a loop device before."""
    os.makedirs(place)
    flags = Mount.RDONLY | Mount.NODEV
    try:
        try:
            linux.mount(path, place, "erofs", flags)
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
            fd, device = blockdev.loop_attach(path)
            try:
                linux.mount(device, place, "erofs", flags)
            finally:
                os.close(fd)
    except OSError as error:
        os.rmdir(place)
        raise Unavailable(f"cannot mount the image {path}: {error}") from error


@off_loop
def mount_tree(path: str, place: str) -> None:
    """The tree view: a folder of the session, with the flags that an EROFS would have."""
    os.makedirs(place)
    try:
        linux.bind(path, place)
        linux.mount("none", place, "", Mount.BIND | Mount.REMOUNT | Mount.RDONLY | Mount.NODEV)
    except OSError as error:
        linux.unmount_if_mounted(place, lazy=True)
        os.rmdir(place)
        raise Unavailable(f"cannot mount the tree {path}: {error}") from error


@off_loop
def unmount(target: str, *, remove: bool = False) -> None:
    """Unmount, lazily when it is in use."""
    try:
        linux.unmount_if_mounted(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        linux.unmount_if_mounted(target, lazy=True)
    if remove:
        os.rmdir(target)


@off_loop
def sweep(session: str, images: str) -> None:
    """Unmount what a dead predecessor left, the newest first, and remove its mount points."""
    for entry in reversed(linux.mounts()):
        if entry.target == session or entry.target.startswith(f"{images}/"):
            log.warning("unmounting what a dead process left", target=entry.target)
            linux.unmount_if_mounted(entry.target, lazy=True)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(images):
            os.rmdir(f"{images}/{name}")
