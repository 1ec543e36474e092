"""The files of volumes (blocking).

<volumes>/<name>/volume.json   what it is
                 data          what containers see; with a size, the mount point of
                 image         a btrfs of that size, mounted while somebody uses it
         /.new-<name>          one that is being made
         /.old-<n>             one that is being removed

A limit that holds whatever a container does is that of a file system of its own. Its blocks are reserved,
since it breaks when its loop device finds no space; not so in memory, of which it takes what is written.
"""

import contextlib
import errno
import itertools
import os
import shutil
import stat
from typing import Final

import msgspec
from msgspec import Struct

from g8node.errors import Exhausted
from g8node.linux import blockdev, mount, rootpath
from g8node.linux.guard import off_loop
from g8node.linux.mount import Mount
from g8node.linux.nowait import in_memory
from g8node.node import rootfs

_ABOUT: Final = "volume.json"
_ABOUT_BYTES: Final = 4096
_FLAGS: Final = Mount.NODEV | Mount.NOSUID | Mount.NOATIME
_BLOCK: Final = 512
_PATH_BYTES: Final = 4000
_COUNTED_MAX: Final = 1 << 20


class Record(Struct, frozen=True):
    """One volume; `size` in bytes, 0 for no limit, `created` in ms since the epoch."""

    name: str
    size: int
    created: int


def data(folder: str, name: str) -> str:
    return f"{folder}/{name}/data"


def image(folder: str, name: str) -> str:
    return f"{folder}/{name}/image"


@off_loop
def begin(folder: str, record: Record) -> str:
    """All of a new volume but its name and its file system; its folder. Exhausted: no space."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fresh = f"{folder}/.new-{record.name}"
    _discard(fresh)
    os.mkdir(fresh, 0o700)
    os.mkdir(f"{fresh}/data")
    os.chmod(f"{fresh}/data", 0o755)  # the umask has no say
    with open(f"{fresh}/{_ABOUT}", "wb") as about:
        about.write(msgspec.json.encode(record))
        about.flush()
        os.fsync(about.fileno())
    if record.size:
        _reserve(f"{fresh}/image", record.size)
    return fresh


def _reserve(path: str, size_bytes: int) -> None:
    space = os.statvfs(os.path.dirname(path))
    if space.f_blocks and space.f_bavail * space.f_frsize < size_bytes:  # ramfs tells nothing
        raise _no_space(size_bytes)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size_bytes)
        if not in_memory(fd):
            os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise _no_space(size_bytes) from error
        raise
    finally:
        os.close(fd)


def _no_space(size_bytes: int) -> Exhausted:
    return Exhausted(f"size: the node has no {size_bytes} bytes left for volumes")


@off_loop
def finish(folder: str, name: str) -> None:
    """Give a new volume its name."""
    os.rename(f"{folder}/.new-{name}", f"{folder}/{name}")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@off_loop
def give_up(folder: str, name: str) -> None:
    """Remove what `begin` has made."""
    _discard(f"{folder}/.new-{name}")


@off_loop
def read(folder: str, name: str) -> Record | None:
    """None when there is no such volume."""
    try:
        with open(f"{folder}/{name}/{_ABOUT}", "rb") as about:
            return msgspec.json.decode(about.read(_ABOUT_BYTES), type=Record)
    except (FileNotFoundError, NotADirectoryError):
        return None


@off_loop
def names(folder: str) -> list[str]:
    """Of all volumes."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []


@off_loop
def show(folder: str, name: str) -> None:
    """Mount a volume that has a size; nothing happens when it is. OSError."""
    target = data(folder, name)
    if name in mounted(folder):
        return
    file = image(folder, name)
    # A container's mounts may outlive it for a moment: two devices over one file would ruin it.
    fd, device = blockdev.loop_find(file) or blockdev.loop_attach(file, writable=True)
    try:
        mount.mount(device, target, "btrfs", _FLAGS, "nodiscard")
    finally:
        os.close(fd)


@off_loop
def hide(folder: str, name: str) -> None:
    """Undo `show`."""
    rootfs.unmount(data(folder, name))


@off_loop
def mounted(folder: str) -> set[str]:
    """The volumes that are mounted."""
    start = f"{os.path.realpath(folder)}/"
    targets = (entry.target for entry in mount.mounts())
    return {target.removeprefix(start).partition("/")[0] for target in targets if target.startswith(start)}


@off_loop
def used(folder: str, record: Record) -> int | None:
    """Bytes that a volume takes; None when it holds too many files to be counted.

    One with a size must be mounted: its file system knows.
    """
    top = data(folder, record.name)
    if record.size:
        space = os.statvfs(top)
        return (space.f_blocks - space.f_bfree) * space.f_frsize
    return _sum(top)


def _sum(top: str) -> int | None:
    """What lies deeper than a path can name is not counted; of a file with many names each is a part.

    Links that come while we look lead nowhere: they end at the top.
    """
    total, count, left = 0, 0, [""]
    root = rootpath.open_root(top)
    try:
        while left:
            folder = left.pop()
            with contextlib.suppress(OSError):  # it is gone again
                sizes, below = _listed(root, folder)
                total += sum(sizes)
                count += len(sizes)
                left += [path for name in below if len(path := f"{folder}/{name}") < _PATH_BYTES]
            if count > _COUNTED_MAX:
                return None
    finally:
        os.close(root)
    return total


def _listed(root: int, folder: str) -> tuple[list[int], list[str]]:
    """Bytes of what is in a folder, and the names of the folders in it."""
    sizes, below = [], []
    fd = rootpath.open_in_root(root, folder.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                is_folder = stat.S_ISDIR(about.st_mode)
                sizes.append(about.st_blocks * _BLOCK // (1 if is_folder else max(about.st_nlink, 1)))
                if is_folder:
                    below.append(entry.name)
                if len(sizes) > _COUNTED_MAX:
                    break
    finally:
        os.close(fd)
    return sizes, below


@off_loop
def remove(folder: str, name: str) -> None:
    """Take a volume's name away and remove it; what cannot be removed now is at the next start. OSError."""
    for number in itertools.count():
        old = f"{folder}/.old-{number}"
        if not os.path.lexists(old):
            break
    os.rename(f"{folder}/{name}", old)
    _discard(old)


@off_loop
def clear(folder: str) -> None:
    """Remove what an earlier run has left half made or half removed. OSError."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.startswith((".new-", ".old-")):
                _discard(f"{folder}/{name}")


def _discard(top: str) -> None:
    """Remove a folder; its `data`, which strangers have filled, however deep it is.

    Folder by folder from the top, what is in one moved up: no recursion, no long paths, no links followed.
    """
    if not os.path.lexists(top):
        return
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        numbers = itertools.count()
        while names := os.listdir(fd):
            for name in names:
                _flatten(fd, name, numbers)
    finally:
        os.close(fd)
    os.rmdir(top)


def _flatten(top: int, name: str, numbers: "itertools.count[int]") -> None:
    """Remove one thing; what is in a folder comes to lie beside it."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=top)
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for below in os.listdir(fd):
            if not stat.S_ISDIR(os.stat(below, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(below, dir_fd=fd)
                continue
            try:
                os.rename(below, f".{next(numbers)}", src_dir_fd=fd, dst_dir_fd=top)
            except OSError as error:
                if error.errno != errno.EXDEV:  # a subvolume of btrfs, which whoever may write can make
                    raise
                shutil.rmtree(below, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)
