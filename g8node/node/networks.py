"""Owner of the node's bridges: addresses, DNS, DHCP, masquerading (async); spec core0-resources 2.1.

Theory of operation. A bridge is made step by step, each with its undo; what the last step leaves is undone
in the opposite order by `delete`, by a failed `create`, and by `close`. Changes come in turn and to their
end, also when the caller is cancelled. Each bridge has a record, by which the run after a kill takes it over:
the link stays, rules and server are made anew, leases are kept.
"""

import asyncio
import ipaddress
import os
import re
import signal
from collections.abc import Callable, Coroutine, Sequence, Set
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from g8node.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NodeError, NotFound
from g8node.linux import namespace, netlink, sysctl
from g8node.linux.guard import off_loop
from g8node.node import bridgerecords, dnsmasq, programs
from g8node.node.bridgerecords import Plan
from g8node.node.claim import Claim
from g8node.node.dnsmasq import PROGRAM, Server
from g8node.node.firewall import Firewall
from g8node.node.links import Links, node_error
from g8node.runtime import blocking, logs
from g8node.runtime.finishing import finish
from g8node.wire import nft

log = logs.get("networks")

T = TypeVar("T")

DEFAULT: Final = "core0"
_OURS: Final = re.compile(r"cont[a-z]?[0-9]+-[0-9]+p?|g8[vx][0-9.]+u?")
"""Names that only the node's own links have."""


class Servers(Protocol):
    """Programs that run until they are stopped."""

    async def start(self, id: str, argv: Sequence[str], is_ready: Callable[[], bool]) -> None: ...

    def signal(self, id: str, number: int) -> None: ...

    async def stop(self, id: str) -> None: ...


@dataclass(eq=False, slots=True)
class Bridge:
    """A bridge that the node made."""

    name: str
    plan: Plan
    server: Server | None = None
    undo: AsyncExitStack = field(default_factory=AsyncExitStack)


class Networks:
    """`close` at the end takes back all that was made."""

    def __init__(
        self,
        links: Links,
        firewall: Firewall,
        servers: Servers,
        claim: Claim,
        *,
        folder: str,
        records: str,
        default: str,
    ) -> None:
        """`folder` is for the files of the DHCP and DNS servers, `default` the address of `core0`.

        Both are used when they are needed. `records` is the folder of `bridgerecords`.
        """
        self._links = links
        self._firewall = firewall
        self._servers = servers
        self.claim = claim
        claim.on_taking(self._clear_away)
        self._folder = folder
        self._records = records
        self._default_cidr = default
        self._bridges: dict[str, Bridge] = {}
        self._changing = asyncio.Lock()

    async def close(self) -> None:
        async def all_of_them() -> None:
            for bridge in reversed(list(self._bridges.values())):
                await self._take_down(bridge)

        await self._change(all_of_them())

    def find(self, name: str) -> Bridge | None:
        """A bridge that the node made."""
        return self._bridges.get(name)

    async def default(self) -> Bridge:
        """The bridge of `default` nics, which is made on first use."""
        found = self._bridges.get(DEFAULT)
        return found if found is not None else await self._change(self._default())

    async def _default(self) -> Bridge:
        if DEFAULT not in self._bridges:
            try:
                address = ipaddress.IPv4Interface(self._default_cidr)
            except ValueError as error:
                raise FailedPrecondition(
                    f"network.default: expected an IPv4 address/prefix, got {self._default_cidr!r}"
                ) from error
            await self._create(DEFAULT, Plan(address=address, nat=True))
        return self._bridges[DEFAULT]

    async def create(self, name: str, plan: Plan) -> None:
        """AlreadyExists for the name, Conflict for a network that overlaps with that of any link."""
        if name in (DEFAULT, "default"):
            raise InvalidArgument(f"name: {name} is the default network's, expected another")
        await self._change(self._create(name, plan))

    async def delete(self, name: str) -> None:
        """NotFound, InvalidArgument for a link that is no bridge; any bridge may go but the default one."""
        if name == DEFAULT:
            raise Conflict(f"name: {DEFAULT} is the default network: it stays")
        await self._change(self._delete(name))

    async def fix_lease(self, name: str, ip: str, mac: str) -> None:
        """Give a MAC address always the same address. NotFound for a bridge without a DHCP server."""
        bridge = self._bridges.get(name)
        if bridge is None or bridge.server is None or bridge.server.lease_range is None:
            raise NotFound(f"bridge: {name} has no DHCP server")
        if ipaddress.IPv4Address(ip) not in bridge.server.address.network:
            raise InvalidArgument(f"ip: {ip} is not in the bridge's network {bridge.server.address.network}")
        await blocking.run("disk", bridge.server.fix_lease, ip, mac.lower())
        self._servers.signal(bridge.server.job, signal.SIGHUP)

    # --- names

    async def name(self, bridge: str, key: str, addresses: Sequence[str], names: Sequence[str]) -> None:
        """Let the bridge's DNS server answer `names`; nothing happens when it has none."""
        found = self._bridges.get(bridge)
        if names and found is not None and found.server is not None:
            await blocking.run("disk", found.server.name, key, addresses, names)

    async def unname(self, bridge: str, key: str) -> None:
        found = self._bridges.get(bridge)
        if found is not None and found.server is not None:
            await blocking.run("disk", found.server.unname, key)

    # --- what nobody owns

    async def collect(self, lives: Callable[[str], bool], *, dry_run: bool) -> list[tuple[str, str]]:
        """(kind, name) of servers, links and rules without an owner; removed unless `dry_run`.

        `lives` tells of each owner of rules that is no bridge.
        """
        return await self._change(self._collect(lives, dry_run=dry_run)) if self.claim.held else []

    async def _collect(self, lives: Callable[[str], bool], *, dry_run: bool) -> list[tuple[str, str]]:
        def owner_lives(owner: str) -> bool:
            kind, _, name = owner.partition(" ")
            return name in self._bridges if kind == "bridge" else lives(owner)

        found: list[tuple[str, str]] = []
        for pid, bridge in (await blocking.run("disk", dnsmasq.running, self._folder)).items():
            if bridge not in self._bridges:
                found.append(("server", f"dnsmasq-{bridge} ({pid})"))
                if not dry_run:
                    await blocking.run("disk", dnsmasq.end, pid, bridge, self._folder)
        links = await blocking.run("disk", netlink.links)
        if DEFAULT not in self._bridges and any(_is_default(link) for link in links):
            found.append(("link", DEFAULT))
            if not dry_run:
                await blocking.run("disk", netlink.link_remove, DEFAULT)
        rules = await self._firewall.collect(owner_lives, dry_run=dry_run)
        return found + [("rule", rule) for rule in rules]

    # --- the work itself

    async def _change(self, change: Coroutine[Any, Any, T]) -> T:
        async def whole() -> T:
            async with self._changing:
                return await change

        return await finish(whole())

    async def recover(self, keep: Set[str]) -> None:
        """After a kill: own the namespace again and take over its bridges; of our other links only `keep`.

        Conflict when another node has the namespace.
        """
        await self._change(self._recover(keep))

    async def _recover(self, keep: Set[str]) -> None:
        records = await blocking.run("disk", bridgerecords.read, self._records)
        here = await blocking.run("disk", namespace.namespace_id, os.getpid(), "net")
        bridges = {name for name, record in records.items() if record.home == here and record.made}
        await self.claim.take(keep | bridges)
        there = {link.name for link in await blocking.run("disk", netlink.links) if link.kind == "bridge"}
        for name, record in records.items():
            if name in bridges & there:
                await self._resume(name, record.plan)
                continue
            if record.home == here and not record.made and name in there:
                await blocking.run("disk", netlink.link_remove, name)
            await blocking.run("disk", bridgerecords.forget, self._records, name)

    async def _resume(self, name: str, plan: Plan) -> None:
        bridge = Bridge(name, plan)
        try:
            async with AsyncExitStack() as undo:
                undo.push_async_callback(blocking.run, "disk", bridgerecords.forget, self._records, name)
                undo.push_async_callback(blocking.run, "disk", netlink.link_remove, name)
                await self._open(bridge, undo, again=True)
                bridge.undo = undo.pop_all()
        except (NodeError, OSError) as error:
            log.warning("a bridge of an earlier run cannot be taken over", bridge=name, reason=str(error))
        else:
            self._bridges[name] = bridge

    async def _clear_away(self, keep: Set[str]) -> None:
        for name in await blocking.run("disk", dnsmasq.end_leftovers, self._folder):
            log.warning("ended a server of an earlier run", bridge=name)
        for name in await blocking.run("disk", _remove_links, keep):
            log.warning("removed a link of an earlier run", link=name)

    async def _create(self, name: str, plan: Plan) -> None:
        await self.claim.take()
        await self._refuse_overlap(plan)
        bridge = Bridge(name, plan)
        async with AsyncExitStack() as undo:
            if any(row["name"] == name for row in await self._links.list()):
                raise AlreadyExists(f"name: {name} exists already")
            undo.push_async_callback(blocking.run, "disk", bridgerecords.forget, self._records, name)
            await blocking.run("disk", bridgerecords.write, self._records, name, plan, made=False)
            await self._links.add_bridge(name, plan.hwaddr or _random_mac())
            undo.push_async_callback(blocking.run, "disk", netlink.link_remove, name)
            cidrs = [str(address) for address in (plan.address, plan.address6) if address is not None]
            try:
                await blocking.run("disk", _set_up, name, cidrs, nat=plan.nat)
                if plan.nat and plan.address6 is not None:
                    await blocking.run("disk", sysctl.forward_ipv6)
            except OSError as error:
                raise node_error(name, error) from error
            await self._open(bridge, undo)
            await blocking.run("disk", bridgerecords.write, self._records, name, plan, made=True)
            bridge.undo = undo.pop_all()
        self._bridges[name] = bridge

    async def _open(self, bridge: Bridge, undo: AsyncExitStack, *, again: bool = False) -> None:
        """The rules and the server of a bridge that is there; `again`: the server keeps its leases."""
        plan, owner = bridge.plan, f"bridge {bridge.name}"
        rules = nft.services(bridge.name, owner)
        if plan.nat and plan.address is not None:
            networks = [str(each.network) for each in (plan.address, plan.address6) if each is not None]
            rules += nft.masquerade(networks, bridge.name, owner)
        undo.push_async_callback(self._firewall.remove, owner)
        await self._firewall.add(owner, rules)
        if plan.address is None:
            return
        program = await blocking.run("disk", programs.find, PROGRAM)
        server = Server(self._folder, bridge.name, plan.address, plan.lease_range)
        undo.push_async_callback(blocking.run, "disk", server.remove)
        user = await blocking.run("disk", server.prepare, again=again)
        undo.push_async_callback(self._servers.stop, server.job)
        address = str(plan.address.ip)
        undo.callback(self._firewall.own_addresses.discard, address)
        self._firewall.own_addresses.add(address)
        await self._servers.start(server.job, server.argv(program, user), server.is_ready)
        bridge.server = server

    async def _refuse_overlap(self, plan: Plan) -> None:
        for wanted in (plan.address, plan.address6):
            if wanted is None:
                continue
            for cidr in await blocking.run("disk", netlink.all_addresses):
                other = ipaddress.ip_interface(cidr)
                if other.version == wanted.version and wanted.network.overlaps(other.network):
                    raise Conflict(f"cidr: {wanted} overlaps with {cidr}, which a link of the node has")

    async def _delete(self, name: str) -> None:
        await self.claim.take()
        bridge = self._bridges.get(name)
        if bridge is None:
            await self._links.delete_bridge(name)
        else:
            await self._take_down(bridge)

    async def _take_down(self, bridge: Bridge) -> None:
        del self._bridges[bridge.name]
        try:
            await bridge.undo.aclose()
        except Exception:
            log.exception("a bridge could not be taken down", bridge=bridge.name)


def _random_mac() -> str:
    """The bridge's own: it would change with its ports otherwise, unknown to those who have it in mind."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *os.urandom(5)))


@off_loop
def _set_up(name: str, cidrs: Sequence[str], *, nat: bool) -> None:
    netlink.link_configure(name, cidrs, [], 0)
    if nat:
        sysctl.set_network("ipv4/ip_forward", 1)
        # The node's own connections by 127.0.0.1 to a forwarded port leave by this bridge.
        sysctl.set_network(f"ipv4/conf/{name}/route_localnet", 1)


@off_loop
def _remove_links(keep: Set[str]) -> list[str]:
    """Remove the links of a node that was killed; their names."""
    found = [link.name for link in netlink.links() if _OURS.fullmatch(link.name) or _is_default(link)]
    removed = [name for name in found if name not in keep]
    for name in removed:
        netlink.link_remove(name)
    return removed


def _is_default(link: netlink.Link) -> bool:
    return link.name == DEFAULT and link.kind == "bridge"
