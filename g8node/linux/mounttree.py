"""Mounts by descriptor: open_tree(2), move_mount(2), mount_setattr(2), for which old libcs have no functions.

Everything raises OSError with the path. It may run in a thread that has entered another mount namespace.
"""

import ctypes
import os
from typing import Final

AT_FDCWD: Final = -100

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same numbers on every architecture
_CLONE: Final = 1
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_FROM_EMPTY_PATH: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, path: str, number: int, *args: int | str | bytes) -> int:
    """A system call by its number; `what` and `path` are for the error."""
    values = [ctypes.c_long(arg) if isinstance(arg, int) else os.fsencode(arg) for arg in args]
    result: int = _libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}", path)
    return result


def clone(path: str, *, recursive: bool = False) -> int:
    """A descriptor of a copy of the mount at `path` that is mounted nowhere; with what is mounted in it."""
    flags = _CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return call("open_tree", path, _OPEN_TREE, AT_FDCWD, path, flags)


def move(source: int, path: str, folder: int, target: str) -> None:
    """Move the mount at `path` from `source`, or `source` itself for "", to `target` from `folder`."""
    flags = 0 if path else _FROM_EMPTY_PATH
    call("move_mount", path or target, _MOVE_MOUNT, source, path, folder, target, flags)


def set_attributes(tree: int, path: str, attributes: bytes) -> None:
    """Set a `struct mount_attr` on a mount and on what is mounted in it; `path` is for the error."""
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    call("mount_setattr", path, _MOUNT_SETATTR, tree, "", flags, attributes, len(attributes))
