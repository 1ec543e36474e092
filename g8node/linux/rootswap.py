"""Another root under a running container (blocking).

overlayfs takes no layer while it is mounted, so the container gets a new overlay and its whole mount
namespace is moved onto it: pivot_root(2) called inside that namespace also replaces the root, and a working
folder that is the root, of every process that has the old one (chroot_fs_refs in the kernel's
fs/fs_struct.c). What processes hold open of the old root they keep.
"""

import ctypes
import os
import platform
import stat
from collections.abc import Sequence
from typing import Final

from g8node.errors import Conflict
from g8node.linux import namespace
from g8node.linux.guard import off_loop
from g8node.linux.mount import Umount, mounts, unmount

_libc = ctypes.CDLL(None, use_errno=True)

_OPEN_TREE, _MOVE_MOUNT = 428, 429  # the same numbers on every architecture
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_AT_FDCWD: Final = -100
_CLONE_FS: Final = 0x200
_CLONE_NEWNS: Final = 0x20000
_TREE_CLONE: Final = 1
_EMPTY_PATH: Final = 4
_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@off_loop
def swap(pid: int, root: str) -> None:
    """Make the mount at `root` (ours) the root of all processes in the mount namespace of `pid`.

    All or nothing. Conflict: something in there would go on using the old root, or has no place in the new
    one. Processes should stand still meanwhile.
    """
    pivot_root = _PIVOT_ROOT[platform.machine()]
    tree = _call("open_tree", root, _OPEN_TREE, _AT_FDCWD, root, _TREE_CLONE | os.O_CLOEXEC)
    try:
        targets = _mounted(pid)
        for target in targets:
            _check_place(pid, tree, target)
        check_users(pid)
        inside = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace.call_alone(lambda: _enter(inside, tree, targets, pivot_root))
        finally:
            os.close(inside)
    finally:
        os.close(tree)


def _call(what: str, path: str, number: int, *args: int | str) -> int:
    values = [os.fsencode(arg) if isinstance(arg, str) else ctypes.c_long(arg) for arg in args]
    result: int = _libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}", path)
    return result


def _mounted(pid: int) -> list[str]:
    """What is mounted right on the root, in order; Conflict for a folder of the root mounted elsewhere."""
    table = mounts(f"/proc/{pid}/mountinfo")
    root = next((entry for entry in reversed(table) if entry.target == "/"), None)
    if root is None:
        raise Conflict("process 1 has another root than its mount namespace: it would not see the layer")
    for entry in table:
        if entry.device == root.device and entry is not root:
            raise Conflict(f"{entry.target} is a part of the root that is mounted there: it would not change")
    return [entry.target for entry in table if entry.parent_id == root.mount_id]


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


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _enter(inside: int, tree: int, targets: Sequence[str], pivot_root: int) -> None:
    """In a thread that ends afterwards: it stays in the container's namespace, and imports nothing there."""
    for what, result in (
        ("unshare(CLONE_FS)", _libc.unshare(_CLONE_FS)),
        ("setns", _libc.setns(inside, _CLONE_NEWNS)),
    ):
        if result < 0:
            raise OSError(ctypes.get_errno(), what)
    _call("move_mount", "/", _MOVE_MOUNT, tree, "", _AT_FDCWD, "/", _EMPTY_PATH)
    os.fchdir(tree)
    moved: list[str] = []
    try:
        for target in targets:
            _call("move_mount", target, _MOVE_MOUNT, _AT_FDCWD, target, tree, target.lstrip("/"), 0)
            moved.append(target)
        _call("pivot_root", "/", pivot_root, ".", ".")
    except BaseException:
        for target in reversed(moved):
            _call("move_mount", target, _MOVE_MOUNT, tree, target.lstrip("/"), _AT_FDCWD, target, 0)
        unmount(".", Umount.DETACH)
        raise
    unmount(".", Umount.DETACH)  # the old root, which lies on the new one
