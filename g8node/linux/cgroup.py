"""Control groups, version 2 only (blocking): detection, delegation, usage, removal."""

import contextlib
import errno
import os
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from g8node.linux.guard import off_loop

MOUNT: Final = "/sys/fs/cgroup"
NEEDED: Final = frozenset({"cpu", "memory", "pids"})


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@off_loop
def controllers() -> frozenset[str]:
    """What version 2 controls at the mount point; empty where version 1 is mounted there or has them all."""
    try:
        return frozenset(_read(f"{MOUNT}/cgroup.controllers").split())
    except FileNotFoundError:
        return frozenset()


@off_loop
def usable() -> bool:
    """Whether containers can be limited: a hybrid layout leaves version 2 without its controllers."""
    return controllers() >= NEEDED


@off_loop
def delegate(path: str) -> None:
    """Make the group `path` (relative) and let its children have every controller there is."""
    at = MOUNT
    for name in ("", *path.split("/")):
        at = f"{at}/{name}" if name else at
        os.makedirs(at, exist_ok=True)
        for controller in sorted(_read(f"{at}/cgroup.controllers").split()):
            # One at a time: a kernel that refuses one (cpu with real-time threads) still gives the others.
            with contextlib.suppress(OSError):
                _write(f"{at}/cgroup.subtree_control", f"+{controller}")


@off_loop
def kill(path: str) -> None:
    """SIGKILL to every process of the group and below it; nothing happens when it is gone."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _write(f"{MOUNT}/{path}/cgroup.kill", "1")


@off_loop
def freeze(path: str, *, timeout_s: float = 2.0) -> None:
    """Let every process of the group stand still; returns when all do, or after the time limit."""
    _write(f"{MOUNT}/{path}/cgroup.freeze", "1")
    becomes(path, "frozen 1", timeout_s=timeout_s)


@off_loop
def thaw(path: str) -> None:
    """Undo `freeze`; nothing happens when the group is gone."""
    with contextlib.suppress(OSError):
        _write(f"{MOUNT}/{path}/cgroup.freeze", "0")


@off_loop
def becomes(path: str, line: str, *, timeout_s: float) -> bool:
    """Wait until the group's `cgroup.events` has the line (`frozen 1`, `populated 0`).

    The kernel tells of its changes. False: not within the time limit. FileNotFoundError: the group is gone.
    """
    deadline = time.monotonic() + timeout_s
    with open(f"{MOUNT}/{path}/cgroup.events", "rb", buffering=0) as file:
        change = select.poll()
        change.register(file, select.POLLPRI)
        while line not in _read_again(file.fileno()).splitlines():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            change.poll(left_s * 1000)
    return True


def _read_again(fd: int) -> str:
    """A small file of the kernel's, from its beginning."""
    try:
        return os.pread(fd, 4096, 0).decode("ascii")
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        raise


@off_loop
def remove(path: str, *, timeout_s: float = 2.0) -> None:
    """Remove the group and those below it. Killed processes leave a group a moment after their death."""
    deadline = time.monotonic() + timeout_s
    for folder, _, _ in os.walk(f"{MOUNT}/{path}", topdown=False):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                raise
            except OSError:
                below = os.path.relpath(folder, MOUNT)
                if not becomes(below, "populated 0", timeout_s=deadline - time.monotonic()):
                    raise
                os.rmdir(folder)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group uses now; cpu since its beginning."""

    memory_bytes: int
    swap_bytes: int
    cpu_s: float


@off_loop
def usage(path: str) -> Usage | None:
    """None when the group (or its controllers) does not exist."""
    at = f"{MOUNT}/{path}"
    try:
        stat = dict(line.split(" ", 1) for line in _read(f"{at}/cpu.stat").splitlines())
        memory = int(_read(f"{at}/memory.current"))
    except FileNotFoundError:
        return None
    swap = 0
    with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting
        swap = int(_read(f"{at}/memory.swap.current"))
    return Usage(memory, swap, int(stat["usage_usec"]) / 1e6)


@off_loop
def set_files(path: str, files: Mapping[str, str], io: Sequence[str] = ()) -> None:
    """Write the group's files; `io` are lines for io.max, one a write. OSError as the kernel gives it.

    A kernel without swap accounting has no memory.swap.max: then there is no limit of it, as before.
    """
    for name, text in files.items():
        try:
            _write(f"{MOUNT}/{path}/{name}", text)
        except (FileNotFoundError, PermissionError):
            if name != "memory.swap.max" or not os.path.isdir(f"{MOUNT}/{path}"):
                raise
    for line in io:
        _write(f"{MOUNT}/{path}/io.max", line)


@off_loop
def table(path: str, name: str) -> dict[str, int]:
    """A flat file of the group as numbers by key (`memory.events`, `cpu.stat`); empty when it is gone."""
    try:
        lines = _read(f"{MOUNT}/{path}/{name}").splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, value in (line.split(" ", 1) for line in lines)}


@off_loop
def number(path: str, name: str) -> int | None:
    """A file with one number; None when it is gone or says `max`."""
    try:
        text = _read(f"{MOUNT}/{path}/{name}").strip()
    except OSError:
        return None
    return None if text == "max" else int(text)


@off_loop
def io_total(path: str) -> dict[str, int]:
    """What the group has read and written on all devices, by the keys of io.stat."""
    total: dict[str, int] = {}
    try:
        lines = _read(f"{MOUNT}/{path}/io.stat").splitlines()
    except OSError:
        return {}
    for line in lines:
        for pair in line.split()[1:]:
            key, _, value = pair.partition("=")
            if value.isdigit():
                total[key] = total.get(key, 0) + int(value)
    return total
