"""What the node knows of the network of one container (owned by `nics`)."""

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from g8node.linux.virtual_links import Taken
from g8node.node import nicspec
from g8node.node.nicspec import Nic

State = Literal["unknown", "configured", "destroyed"]


class WireRecord(Struct, frozen=True):
    """What is remembered of a nic for the run after a kill."""

    nic: Nic
    state: State
    cidrs: list[str]
    dns: list[str]
    link_name: str
    bridge: str
    taken: Taken | None


class Record(Struct, frozen=True):
    """What is remembered of a network; `home` is the number of the node's own namespace."""

    home: int
    names: list[str]
    wires: list[WireRecord]
    ports: dict[str, int]


@dataclass(eq=False, slots=True)
class Wire:
    """One nic of a container, and what it is now."""

    index: int
    nic: Nic
    state: State = "unknown"
    cidrs: list[str] = field(default_factory=list)
    dns: list[str] = field(default_factory=list)
    lease: "asyncio.Task[None] | None" = None
    link_name: str = ""
    """Its name inside, where it is not that of its place."""
    bridge: str = ""
    """The bridge of the node that it is a port of."""
    taken: Taken | None = None
    """What a link of type passthrough was before."""
    found: bool = False
    """An earlier run made it: it is there already."""
    undo: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def link(self) -> str:
        """Its name inside."""
        return self.link_name or self.nic.name or f"eth{self.index}"

    @property
    def wants_lease(self) -> bool:
        return self.nic.type != "default" and bool((self.nic.config or nicspec.Config()).dhcp)

    @property
    def record(self) -> WireRecord:
        return WireRecord(self.nic, self.state, self.cidrs, self.dns, self.link_name, self.bridge, self.taken)

    def shown(self) -> dict[str, Any]:
        return nicspec.shown(self.nic) | {"state": self.state, "addresses": list(self.cidrs)}


@dataclass(eq=False, slots=True)
class Network:
    """The network of one container; `space` is its namespace."""

    id: int
    names: tuple[str, ...]
    space: int = -1
    pid: int = 0
    wires: list[Wire] = field(default_factory=list)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    closed: bool = False

    @property
    def owner(self) -> str:
        return f"container {self.id}"

    @property
    def hostname(self) -> str:
        """What DHCP servers are told."""
        return self.names[0] if self.names else f"core-{self.id}"

    @property
    def path(self) -> str:
        """Where the runtime finds the namespace."""
        return f"/proc/{os.getpid()}/fd/{self.space}"

    @property
    def live(self) -> list[Wire]:
        return [wire for wire in self.wires if wire.state == "configured"]

    @property
    def nameservers(self) -> list[str]:
        return list(dict.fromkeys(server for wire in self.live for server in wire.dns))

    @property
    def address(self) -> str:
        """What the container calls itself by in /etc/hosts; empty when it has none."""
        found = next((cidr for wire in self.live for cidr in wire.cidrs), "")
        return found.partition("/")[0]

    def host_link(self, wire: Wire) -> str:
        return f"cont{'m' if wire.nic.monitor else ''}{self.id}-{wire.index}"

    def helper_link(self, wire: Wire) -> str:
        """What bounds the traffic that comes from the container."""
        return f"conti{self.id}-{wire.index}"

    def host_links(self) -> set[str]:
        """All links of the node that it may use."""
        found = set()
        for wire in self.live:
            found |= {self.host_link(wire), *([self.helper_link(wire)] if wire.nic.rate is not None else [])}
            if wire.nic.type in nicspec.TAGGED:
                found |= {wire.bridge, f"{wire.bridge}u"}
        return found


def restored(id: int, record: Record) -> Network:
    """A network as an earlier run left it, not held by us yet."""
    wires = [
        Wire(index, each.nic, each.state, list(each.cidrs), list(each.dns), None, each.link_name, each.bridge)
        for index, each in enumerate(record.wires)
    ]
    for wire, each in zip(wires, record.wires, strict=True):
        wire.taken, wire.found = each.taken, True
    return Network(id, tuple(record.names), wires=wires)
