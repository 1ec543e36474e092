"""Settings of FUSE connections: /sys/fs/fuse/connections and the bdi (blocking).

fusectl is mounted in a private place for the moment of use when the system has not mounted it.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Final

from g8node.linux.guard import off_loop
from g8node.linux.mount import mount, mounts, unmount

_CONNECTIONS: Final = "/sys/fs/fuse/connections"


@contextlib.contextmanager
def _connections() -> Iterator[str]:
    if any(entry.target == _CONNECTIONS and entry.fstype == "fusectl" for entry in mounts()):
        yield _CONNECTIONS
        return
    with tempfile.TemporaryDirectory(prefix="g8-fusectl-") as place:
        mount("fusectl", place, "fusectl")
        try:
            yield place
        finally:
            unmount(place)


@off_loop
def device_of(mountpoint: str) -> tuple[int, int]:
    """(major, minor) of the FUSE mount, from the mount table: the mount itself is not touched."""
    for entry in reversed(mounts()):
        if entry.target == mountpoint and entry.fstype.startswith("fuse"):
            major, minor = entry.device.split(":")
            return int(major), int(minor)
    raise FileNotFoundError(f"no FUSE mount at {mountpoint}")


@off_loop
def tune(mountpoint: str, *, read_ahead_kb: int, max_background: int) -> None:
    """Set read-ahead (only files opened afterwards see it) and the number of reads in flight."""
    major, minor = device_of(mountpoint)
    _write(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb", read_ahead_kb)
    with _connections() as connections:
        _write(f"{connections}/{minor}/max_background", max_background)
        _write(f"{connections}/{minor}/congestion_threshold", max_background * 3 // 4)


@off_loop
def abort(minor: int) -> None:
    """Answer every waiting request with ECONNABORTED; the connection is dead afterwards."""
    with _connections() as connections, contextlib.suppress(FileNotFoundError):
        _write(f"{connections}/{minor}/abort", 1)


@off_loop
def alive() -> set[int]:
    """Minor numbers of the connections that exist."""
    with _connections() as connections:
        return {int(name) for name in os.listdir(connections)}


def _write(path: str, value: int) -> None:
    with open(path, "w", encoding="ascii") as control:
        control.write(str(value))
