"""Another root under a running container (blocking).

overlayfs takes no layer while it is mounted, so the container gets a new overlay and its whole mount
namespace is moved onto it: pivot_root(2) called inside that namespace also replaces the root, and a working
folder that is the root, of every process that has the old one (chroot_fs_refs in the kernel's
fs/fs_struct.c). What processes hold open of the old root they keep. Other mounts in there can be replaced in
the same turn; who works in one of them stays on the old one, which can only be read from then on.
"""

import contextlib
import ctypes
import errno
import os
import platform
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from g8node.errors import Conflict
from g8node.linux import mounttree, namespace
from g8node.linux.guard import off_loop
from g8node.linux.mount import FLAGS, Mount, MountEntry, Umount, mount, mounts, unmount
from g8node.linux.mounttree import AT_FDCWD

_libc = ctypes.CDLL(None, use_errno=True)

_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_CLONE_FS: Final = 0x200
_CLONE_NEWNS: Final = 0x20000
_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Change:
    """A mount at `target` in the namespace, and the descriptor of the one that takes its place."""

    target: str
    tree: int
    flags: int
    children: tuple[str, ...] = ()
    """What is mounted right on it, below `target`."""
    user: str = ""
    """Who would stay on it with a folder of it."""


@off_loop
def swap(pid: int, root: str, others: Mapping[str, str] | None = None) -> None:
    """Make the mount at `root` (ours) the root of all processes in the mount namespace of `pid`.

    `others`: the device of a file system that is mounted in there -> the mount (ours) that takes its place.
    All or nothing, of the root; a failure may come after it, with others. Conflict: something in there would
    go on using the old root, or has no place in the new one. Processes should stand still meanwhile.
    """
    pivot_root = _PIVOT_ROOT[platform.machine()]
    with ExitStack() as open_ones:
        tree = _clone(root, open_ones)
        table = mounts(f"/proc/{pid}/mountinfo")
        old = _root(table)
        change = _Change("/", tree, _flags(old), _on(table, old))
        for target in change.children:
            _check_place(pid, tree, target)
        check_users(pid)
        later = _changes(pid, table, others or {}, open_ones)
        inside = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        open_ones.callback(os.close, inside)
        namespace.call_alone(lambda: _enter(inside, change, later, pivot_root))


def _clone(path: str, open_ones: ExitStack) -> int:
    tree = mounttree.clone(path)
    open_ones.callback(os.close, tree)
    return tree


def _flags(entry: MountEntry) -> int:
    return sum(FLAGS.get(word, 0) for word in entry.options.split(","))


def _changes(
    pid: int, table: Sequence[MountEntry], others: Mapping[str, str], open_ones: ExitStack
) -> list[_Change]:
    """The outermost first. Conflict for a mount that cannot be replaced."""
    changes = []
    for entry in table:
        if entry.device not in others:
            continue
        children = tuple(target.removeprefix(entry.target) for target in _on(table, entry))
        if entry.root != "/" or "" in children:
            raise Conflict(f"{entry.target} cannot be mounted anew: it is a part of a mount, or covered")
        tree = _clone(others[entry.device], open_ones)
        changes.append(_Change(entry.target, tree, _flags(entry), children, _user(pid, entry.device)))
    return changes


def _root(table: Sequence[MountEntry]) -> MountEntry:
    """Conflict for a folder of the root mounted elsewhere."""
    root = next((entry for entry in reversed(table) if entry.target == "/"), None)
    if root is None:
        raise Conflict("process 1 has another root than its mount namespace: it would not see the layer")
    for entry in table:
        if entry.device == root.device and entry is not root:
            raise Conflict(f"{entry.target} is a part of the root that is mounted there: it would not change")
    return root


def _on(table: Sequence[MountEntry], mounted: MountEntry) -> tuple[str, ...]:
    """What is mounted right on it, in order."""
    return tuple(entry.target for entry in table if entry.parent_id == mounted.mount_id)


def _check_place(pid: int, tree: int, target: str) -> None:
    """The mount point must be in the new root as it is in the old one, without links on the way."""
    is_folder = stat.S_ISDIR(os.stat(f"/proc/{pid}/root{target}").st_mode)
    fd = os.dup(tree)
    try:
        for name in target.strip("/").split("/"):
            below = os.open(name, _PATH, dir_fd=fd)
            os.close(fd)
            fd = below
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise Conflict(f"the layer leaves no place for the mount at {target}: {error.strerror}") from error
    finally:
        os.close(fd)
    if stat.S_ISLNK(mode) or stat.S_ISDIR(mode) != is_folder:
        raise Conflict(f"the layer leaves no place for the mount at {target}: it is of another type")


@off_loop
def check_users(pid: int) -> None:
    """Conflict names a process that would stay on the old root with a folder of it, and make names there."""
    place = os.stat(f"/proc/{pid}/root")
    space = namespace.namespace_id(pid, "mnt")
    for outer, inner in namespace.inner_pids(pid).items():
        try:
            _check_user(outer, place, space)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        except Conflict as error:
            raise Conflict(f"process {inner} ({_name(outer)}) {error.message}") from None


def _check_user(pid: int, place: os.stat_result, space: int) -> None:
    proc = f"/proc/{pid}"
    if namespace.namespace_id(pid, "mnt") != space:
        raise Conflict("has a mount namespace of its own: it would not see the layer")
    root = os.stat(f"{proc}/root")
    if not os.path.samestat(root, place):
        raise Conflict(f"has another root, {os.readlink(f'{proc}/root')}: it would not see the layer")
    folder = os.stat(f"{proc}/cwd")
    if folder.st_dev == place.st_dev and not os.path.samestat(folder, place):
        raise Conflict(f"works in {os.readlink(f'{proc}/cwd')}: only / and mounted folders can be kept")
    for fd in os.listdir(f"{proc}/fd"):
        _check_open(f"{proc}/fd/{fd}", place)


def _check_open(path: str, place: os.stat_result) -> None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return  # closed meanwhile
    if stat.S_ISDIR(found.st_mode) and found.st_dev == place.st_dev:
        raise Conflict(f"has the folder {os.readlink(path)} open: it would not see the layer")


def _user(pid: int, device: str) -> str:
    """A process that works in a folder of the file system, or has one open; empty for none."""
    major, _, minor = device.partition(":")
    wanted = os.makedev(int(major), int(minor))
    for outer, inner in namespace.inner_pids(pid).items():
        try:
            held = [
                f"/proc/{outer}/cwd",
                *(f"/proc/{outer}/fd/{fd}" for fd in os.listdir(f"/proc/{outer}/fd")),
            ]
        except OSError:
            continue  # it ended meanwhile
        for path in held:
            with contextlib.suppress(OSError):
                found = os.stat(path)
                if found.st_dev == wanted and stat.S_ISDIR(found.st_mode):
                    return f"process {inner} ({_name(outer)})"
    return ""


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _enter(inside: int, root: _Change, others: Sequence[_Change], pivot_root: int) -> None:
    """In a thread that ends afterwards: it stays in the container's namespace, and imports nothing there."""
    for what, result in (
        ("unshare(CLONE_FS)", _libc.unshare(_CLONE_FS)),
        ("setns", _libc.setns(inside, _CLONE_NEWNS)),
    ):
        if result < 0:
            raise OSError(ctypes.get_errno(), what)
    for change in others:
        _end_writing(change)
    mounttree.move(root.tree, "", AT_FDCWD, "/")
    os.fchdir(root.tree)
    moved: list[str] = []
    try:
        _set_flags(".", root.flags)
        for target in root.children:
            below = target.lstrip("/")
            mounttree.move(AT_FDCWD, target, root.tree, below)
            moved.append(target)
        mounttree.call("pivot_root", "/", pivot_root, ".", ".")
    except BaseException:
        for target in reversed(moved):
            mounttree.move(root.tree, target.lstrip("/"), AT_FDCWD, target)
        unmount(".", Umount.DETACH)
        raise
    # The old root lies on the new one, and the others on it, so that one after another is on top.
    for done, change in enumerate(others):
        try:
            _replace(change)
        except BaseException:
            _unstack(done + 1)
            raise
    _unstack(len(others) + 1)


def _set_flags(target: str, flags: int) -> None:
    mount("none", target, "", Mount.BIND | Mount.REMOUNT | flags)


def _end_writing(change: _Change) -> None:
    """Nobody makes names by the old mount any more: two file systems over one upper folder do not hear of
    each other's. Files that are open for writing go on being written, and are in the way of it."""
    try:
        _set_flags(change.target, change.flags | Mount.RDONLY)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        if change.user:
            raise Conflict(
                f"{change.user} has a folder of {change.target}, in which files are written"
            ) from error


def _replace(change: _Change) -> None:
    """The old one goes on top of the old root, and what is mounted on it to the new one."""
    old = os.open(change.target, _PATH)
    try:
        mounttree.move(AT_FDCWD, change.target, AT_FDCWD, ".")
        mounttree.move(change.tree, "", AT_FDCWD, change.target)
        _set_flags(change.target, change.flags)
        for child in change.children:
            below = child.lstrip("/")
            mounttree.move(old, below, change.tree, below)
    finally:
        os.close(old)


def _unstack(count: int) -> None:
    for _ in range(count):
        unmount(".", Umount.DETACH)
