"""mount(2), umount2(2) and the mount table (blocking).

Mounts are found by reading mountinfo, never by touching mount points (style 2, R5).
"""

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from g8node.linux.guard import off_loop

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(IntFlag):
    """Flags of mount(2)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    NOATIME = 1024
    BIND = 4096
    MOVE = 8192
    REC = 16384
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20


FLAGS: Final = {
    "ro": Mount.RDONLY,
    "nosuid": Mount.NOSUID,
    "nodev": Mount.NODEV,
    "noexec": Mount.NOEXEC,
    "noatime": Mount.NOATIME,
}
"""By the words of mountinfo and mount(8)."""


class Umount(IntFlag):
    """Flags of umount2(2)."""

    FORCE = 1
    DETACH = 2
    NOFOLLOW = 8


def _check(result: int, what: str, path: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}", path)


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


@off_loop
def mount(source: str, target: str, fstype: str, flags: int = 0, data: str | None = None) -> None:
    """mount(2). The GIL is free during the call, so the source may lie on our own FUSE session."""
    result = _libc.mount(
        _bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(int(flags)), _bytes(data)
    )
    _check(result, f"mount {fstype or 'bind'} {source}", target)


@off_loop
def bind(source: str, target: str, *, readonly: bool = False, recursive: bool = False) -> None:
    """Bind mount; a read-only bind needs a second call (mount(2), "Creating a bind mount")."""
    flags = Mount.BIND | (Mount.REC if recursive else Mount(0))
    mount(source, target, "", flags)
    if readonly:
        mount("none", target, "", flags | Mount.REMOUNT | Mount.RDONLY)


_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same numbers on every architecture
_CLOEXEC, _CMD_CREATE = 1, 6


@off_loop
def detached(fstype: str) -> int:
    """A descriptor of a new mount that is in no mount namespace (fsopen(2), fsmount(2)); it ends with it.

    Of `sysfs`, the one of the calling thread's network namespace.
    """
    context = _libc.syscall(ctypes.c_long(_FSOPEN), fstype.encode(), ctypes.c_uint(_CLOEXEC))
    _check(context, "fsopen", fstype)
    try:
        made = _libc.syscall(
            ctypes.c_long(_FSCONFIG), ctypes.c_int(context), ctypes.c_uint(_CMD_CREATE), None, None, 0
        )
        _check(made, "fsconfig", fstype)
        fd: int = _libc.syscall(
            ctypes.c_long(_FSMOUNT), ctypes.c_int(context), ctypes.c_uint(_CLOEXEC), ctypes.c_uint(0)
        )
        _check(fd, "fsmount", fstype)
    finally:
        os.close(context)
    return fd


@off_loop
def known(fstype: str) -> bool:
    """Whether the kernel has the file system, its module loaded if need be."""
    context = _libc.syscall(ctypes.c_long(_FSOPEN), fstype.encode(), ctypes.c_uint(_CLOEXEC))
    if context < 0:
        return False
    os.close(context)
    return True


@off_loop
def unmount(target: str, flags: int = Umount.NOFOLLOW) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_bytes(target), int(flags)), "umount", target)


@off_loop
def unmount_if_mounted(target: str, *, lazy: bool = False) -> bool:
    """Unmount; False when nothing is mounted there (or the path is gone)."""
    try:
        unmount(target, Umount.NOFOLLOW | (Umount.DETACH if lazy else Umount(0)))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo (proc(5))."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    target: str
    options: str
    fstype: str
    source: str
    super_options: str


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def parse_mountinfo(text: str) -> list[MountEntry]:
    """The entries in mount order; a target may occur more than once, the last is on top."""
    entries = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        mount_id, parent_id, device, root, target, options, *_ = left.split(" ")
        fstype, source, super_options = right.split(" ", 2)
        entries.append(
            MountEntry(
                mount_id=int(mount_id),
                parent_id=int(parent_id),
                device=device,
                root=_unescape(root),
                target=_unescape(target),
                options=options,
                fstype=fstype,
                source=_unescape(source),
                super_options=super_options,
            )
        )
    return entries


@off_loop
def mounts(table: str = "/proc/self/mountinfo") -> list[MountEntry]:
    """What is mounted in this mount namespace, or in that of another process's table, oldest first."""
    with open(table, encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


@off_loop
def disk_types() -> frozenset[str]:
    """The file system types that lie on a block device (/proc/filesystems without "nodev")."""
    with open("/proc/filesystems", encoding="ascii") as table:
        pairs = (line.rstrip("\n").partition("\t") for line in table)
        return frozenset(name for nodev, _, name in pairs if not nodev)
