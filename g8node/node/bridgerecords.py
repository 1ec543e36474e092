"""What is remembered of the bridges that the node made, for the run after a kill (blocking).

<folder>/<bridge>   its plan; written before the link is made, and again when it is there
"""

import contextlib
import ipaddress
import os
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from g8node.linux import namespace
from g8node.linux.guard import off_loop


@dataclass(frozen=True, slots=True)
class Plan:
    """How a bridge is to be: without an address it only switches."""

    hwaddr: str = ""
    address: ipaddress.IPv4Interface | None = None
    address6: ipaddress.IPv6Interface | None = None
    lease_range: tuple[str, str] | None = None
    nat: bool = False


class Record(Struct, frozen=True):
    """`home` is the network namespace's number; not `made`: the link may be there, and is of no use."""

    home: int
    made: bool
    hwaddr: str
    cidr: str
    cidr6: str
    lease_range: tuple[str, str] | None
    nat: bool

    @property
    def plan(self) -> Plan:
        return Plan(
            self.hwaddr,
            ipaddress.IPv4Interface(self.cidr) if self.cidr else None,
            ipaddress.IPv6Interface(self.cidr6) if self.cidr6 else None,
            self.lease_range,
            self.nat,
        )


@off_loop
def write(folder: str, name: str, plan: Plan, *, made: bool) -> None:
    """Whole or not at all."""
    cidr, cidr6 = (str(address or "") for address in (plan.address, plan.address6))
    record = Record(
        namespace.namespace_id(os.getpid(), "net"), made, plan.hwaddr, cidr, cidr6, plan.lease_range, plan.nat
    )
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(f"{folder}.new", "wb") as file:
        file.write(msgspec.json.encode(record))
    os.replace(f"{folder}.new", f"{folder}/{name}")


@off_loop
def forget(folder: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{folder}/{name}")


@off_loop
def read(folder: str) -> dict[str, Record]:
    """Of every bridge; what cannot be read is left out."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            with contextlib.suppress(OSError, msgspec.MsgspecError), open(f"{folder}/{name}", "rb") as file:
                found[name] = msgspec.json.decode(file.read(), type=Record)
    return found
