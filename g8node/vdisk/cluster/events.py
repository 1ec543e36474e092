"""What is told of the servers of a vdisk (pure): the original's lines of level 20, and our own statuses.

20::{"subject":"ardb","status":421,"data":{"address":"h:1","db":0,"type":"primary","vdiskID":"vd"}}
"""

from collections.abc import Callable
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


def status_of(reason: str) -> int:
    """The status for why a server was given up."""
    if "has not answered" in reason or "no connection within" in reason:
        return SERVER_TIMEOUT
    if "closed the connection" in reason or "refused" in reason:
        return DISCONNECTED
    return UNKNOWN
