"""User namespaces of containers: ranges of ids, and what shows files under them (blocking).

The ids of a container are a range of the host's: `0..65535` inside are `base..base+65535` here. A mount that
is mapped (mount_setattr(2), MOUNT_ATTR_IDMAP) shows the owner n of a file as base+n; the file keeps n.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from enum import IntFlag
from typing import Final

from g8node.linux import _userns, mounttree
from g8node.linux.guard import off_loop
from g8node.linux.mounttree import AT_FDCWD

COUNT: Final = 65536

_IDMAP: Final = 0x00100000
_PRIVATE: Final = 1 << 18
_CAPABILITIES_3: Final = 0x20080522


class Shown(IntFlag):
    """Attributes of a mount, MOUNT_ATTR_* of linux/mount.h."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4


_libc = ctypes.CDLL(None, use_errno=True)


@off_loop
def make(base: int) -> tuple[int, int]:
    """Descriptors of a user namespace with these ids, and of a network namespace that belongs to it."""
    return _userns.make(f"0 {base} {COUNT}\n")


@off_loop
def make_reverse(base: int) -> int:
    """A descriptor of a user namespace that maps them back: a mount with it shows base+n as n."""
    user, net = _userns.make(f"{base} 0 {COUNT}\n")
    os.close(net)
    return user


@off_loop
def opened(pid: int) -> int:
    """A descriptor of the user namespace of a process. OSError when it is gone."""
    return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


@off_loop
def mapped(source: str, target: str, space: int, flags: Shown) -> None:
    """Bind mount `source` and what is mounted in it, the owners mapped by the user namespace `space`.

    OSError EINVAL: a file system of it cannot do that.
    """
    tree = mounttree.clone(source, recursive=True)
    try:
        attributes = struct.pack("=QQQQ", _IDMAP | flags, 0, _PRIVATE, space)
        mounttree.set_attributes(tree, source, attributes)
        mounttree.move(tree, "", AT_FDCWD, target)
    finally:
        os.close(tree)


@contextlib.contextmanager
def acting(base: int) -> Iterator[None]:
    """This thread makes files as the owner `base`, and may do all that it may; nothing happens for 0.

    setfsuid(2) takes the capabilities that concern files from who stops to be 0: they are taken up again.
    """
    if not base:
        yield
        return
    held = _capabilities()
    group, user = _libc.setfsgid(base), _libc.setfsuid(base)
    try:
        _take_up(held)
        yield
    finally:
        _libc.setfsuid(user)
        _libc.setfsgid(group)
        _take_up(held)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _capabilities() -> "ctypes.Array[_Set]":
    held = (_Set * 2)()
    if _libc.capget(ctypes.byref(_Header(_CAPABILITIES_3, 0)), held) < 0:
        raise OSError(ctypes.get_errno(), "capget")
    return held


def _take_up(held: "ctypes.Array[_Set]") -> None:
    if _libc.capset(ctypes.byref(_Header(_CAPABILITIES_3, 0)), held) < 0:
        raise OSError(ctypes.get_errno(), "capset")
