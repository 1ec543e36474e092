"""Device nodes of the host (blocking)."""

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

from g8node.linux.guard import off_loop

# What the OCI runtime makes itself, and mount points of their own.
_RUNTIMES_OWN: Final = frozenset(
    {
        "console",
        "full",
        "null",
        "ptmx",
        "random",
        "tty",
        "urandom",
        "zero",
        "pts",
        "shm",
        "mqueue",
        "hugepages",
    }
)
_MAX = 4096


@dataclass(frozen=True, slots=True)
class Device:
    """One node; `kind` is "c" or "b"."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@off_loop
def host_device(path: str, inside: str) -> Device:
    """The node at `path`, by the name `inside`. OSError: there is none, ENODEV: it is something else."""
    info = os.stat(path)
    kind = _kind(info)
    if not kind:
        raise OSError(errno.ENODEV, "no device node", path)
    mode = stat.S_IMODE(info.st_mode)
    return Device(
        inside, kind, os.major(info.st_rdev), os.minor(info.st_rdev), mode, info.st_uid, info.st_gid
    )


def _kind(info: os.stat_result) -> str:
    return "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""


@off_loop
def host_devices(top: str = "/dev") -> list[Device]:
    """Every node below `top` but those that each container has anyway, in path order."""
    found: list[Device] = []
    for folder, folders, names in os.walk(top):
        if folder == top:
            folders[:] = [name for name in folders if name not in _RUNTIMES_OWN]
            names = [name for name in names if name not in _RUNTIMES_OWN]
        for name in names:
            path = f"{folder}/{name}"
            try:
                info = os.lstat(path)
            except FileNotFoundError:  # a disk or terminal that has gone since its folder was read
                continue
            kind = _kind(info)
            if kind and len(found) < _MAX:
                major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
                mode = stat.S_IMODE(info.st_mode)
                found.append(Device(path, kind, major, minor, mode, info.st_uid, info.st_gid))
    return sorted(found, key=lambda device: device.path)
