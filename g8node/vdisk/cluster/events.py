"""What is told of the servers of a vdisk (pure): the original's lines of level 20, and our own statuses.

20::{"subject":"ardb","status":421,"data":{"address":"h:1","db":0,"type":"primary","vdiskID":"vd"}}
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

RETURNED: Final = 200
"""A server that was given up answers again (ours)."""
REPAIRED: Final = 210
RESPREAD: Final = 211
UNKNOWN: Final = 400
CLUSTER_TIMEOUT: Final = 401
INVALID_CONFIG: Final = 403
SERVER_TIMEOUT: Final = 421
DISCONNECTED: Final = 422

_FIGURES: Final = (
    ("iops.read", "read_ops", 1),
    ("iops.write", "write_ops", 1),
    ("throughput.read", "read_bytes", 1024),
    ("throughput.write", "write_bytes", 1024),
)

Role = Literal["primary", "template", "slave"]


class Event(Struct, frozen=True):
    """`subject`: ardb for any redis-protocol server, or etcd."""

    subject: Literal["ardb", "etcd"]
    status: int
    data: Any


class ServerData(Struct, frozen=True, rename={"vdisk": "vdiskID"}):
    """The data of an event about a server."""

    address: str
    db: int
    type: Role
    vdisk: str


Tell = Callable[[Event], None]


def line(event: Event) -> str:
    """As the original printed it on its stdout."""
    return f"20::{msgspec.json.encode(event).decode()}"


def figures(vdisk: str, tags: str, before: Mapping[str, int], now: Mapping[str, int], seconds: float) -> str:
    """What a vdisk did in some seconds, as the original printed it (lines of level 10): per second and KiB/s.

    `before` and `now` are counters (see `vdisk.limits`); smaller ones than before begin at 0.
    """
    rows = []
    for name, key, unit in _FIGURES:
        done = now.get(key, 0) - before.get(key, 0)
        rate = (now.get(key, 0) if done < 0 else done) / unit / max(seconds, 1.0)
        rows.append(f"10::vdisk.{name}@virt.{vdisk}:{rate:f}|A|{tags}\n")
    return "".join(rows)


def status_of(reason: str) -> int:
    """The status for why a server was given up."""
    if "has not answered" in reason or "no connection within" in reason:
        return SERVER_TIMEOUT
    if "closed the connection" in reason or "refused" in reason:
        return DISCONNECTED
    return UNKNOWN
