"""Owner of the network links of containers (async); spec core0-resources 1.7.

Theory of operation. Each container that does not share the node's network has a network namespace that is
made before it starts and that we hold by a descriptor, so that links outlive a restart of its process 1. A
link is made on the node, put into the namespace and configured there before the first program of the
container runs; each step has its undo, and all of them are undone when the container ends, however it does.
Changes of one container come in turn.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from g8node.config import Network as Settings
from g8node.errors import Conflict, FailedPrecondition, InvalidArgument, NodeError
from g8node.linux import namespace, netlink, rootpath
from g8node.linux.guard import off_loop
from g8node.node import dhcp, leftovers, nicspec, rootfs
from g8node.node.firewall import Firewall
from g8node.node.links import node_error
from g8node.node.networks import Networks
from g8node.node.nicspec import Nic
from g8node.node.plugs import Plugs
from g8node.node.wires import Network, Record, Wire, restored
from g8node.runtime import blocking, logs
from g8node.runtime.finishing import finish
from g8node.runtime.process import Reaper
from g8node.wire import forward

log = logs.get("nics")

T = TypeVar("T")

_LEASE_METRIC: Final = 1100
"""Of the first nic's gateway; each one's has another, since two default routes of one metric are refused."""
_OWNER: Final = re.compile(r"(?:container |wireguard contm?)(\d+)(?:-\d+)?")


class Nics:
    """Every call finishes what it began, also when the caller is cancelled."""

    def __init__(
        self, reaper: Reaper, networks: Networks, firewall: Firewall, settings: Settings | None = None
    ) -> None:
        self._reaper = reaper
        self._firewall = firewall
        self._networks = networks
        self._plugs = Plugs(networks, firewall, settings or Settings())
        self._open: dict[int, Network] = {}
        self.on_change: Callable[[Network], Awaitable[None]] | None = None
        """Told when something of a network is not what it was."""

    @property
    def makes_networks(self) -> bool:
        """Whether the links of this network namespace are ours to look at."""
        return self._networks.claim.held

    # --- the life of a container

    async def open(
        self, id: int, nics: Sequence[Nic], ports: Mapping[str, int], names: Sequence[str], space: int = -1
    ) -> Network:
        """A namespace with its links and forwards; all or nothing. Not to be cancelled.

        `names` are what DNS servers of bridges call the container.
        """
        network = Network(id, tuple(names))
        try:
            network.space = await blocking.run("disk", namespace.new_network, space)
            for nic in nics:
                await self._add(network, nic)
            if self._default_of(network) is not None:
                for source, target in ports.items():
                    await self._forward(network, source, target)
        except BaseException:
            await self.close(network)
            raise
        self._open[id] = network
        return network

    async def recover(self, records: Mapping[int, Record]) -> None:
        """After a kill, before `adopt`: own the namespace again if we did; bridges are taken over.

        What belongs to none of these containers is removed.
        """
        if not await self._networks.claim.was_held():
            return
        here = await blocking.run("disk", namespace.namespace_id, os.getpid(), "net")
        keep = [restored(id, record).host_links() for id, record in records.items() if record.home == here]
        try:
            await self._networks.recover(set().union(*keep))
        except Conflict as error:
            log.warning("the networks of an earlier run are not taken over", reason=str(error))

    async def adopt(self, id: int, record: Record, pid: int) -> Network:
        """The network of a container that an earlier run started, and whose process 1 is `pid`.

        Its leases are asked for when it `began`. NodeError when something of it is not there any more.
        """
        network = restored(id, record)
        wires, network.wires = network.wires, []
        try:
            network.space = await blocking.run("disk", namespace.open_network, pid)
            here = await blocking.run("disk", namespace.namespace_id, os.getpid(), "net")
            if record.home != here and any(wire.state == "configured" for wire in wires):
                raise Conflict("its links are in another network namespace than this node")
            await self._replug(network, wires)
            for source, target in record.ports.items():
                await self._forward(network, source, target)
        except OSError as error:
            await self.close(network)
            raise node_error(f"container {id}", error) from error
        except BaseException:
            await self.close(network)
            raise
        self._open[id] = network
        return network

    async def _replug(self, network: Network, wires: Sequence[Wire]) -> None:
        """All of them, also when one fails: what `close` is to give back is known then."""
        errors: list[Exception] = []
        for wire in wires:
            network.wires.append(wire)
            if wire.state == "configured":
                try:
                    await self._plugs.plug(network, wire)
                except (NodeError, OSError) as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    async def record(self, network: Network) -> Record:
        """What `adopt` needs."""
        here = await blocking.run("disk", namespace.namespace_id, os.getpid(), "net")
        wires = [wire.record for wire in network.wires]
        return Record(here, list(network.names), wires, self.ports(network))

    def began(self, network: Network, pid: int) -> None:
        """Process 1 runs: leases are asked for from now on."""
        network.pid = pid
        for wire in network.live:
            self._ask_for_lease(network, wire)

    async def close(self, network: Network) -> None:
        """Give everything back."""
        async with network.changing:
            network.closed = True
            if self._open.get(network.id) is network:
                del self._open[network.id]
            try:
                await self._firewall.remove(network.owner)
            finally:
                for wire in reversed(network.live):
                    await self._unplug(wire)
                if network.space >= 0:
                    os.close(network.space)
                    network.space = -1

    async def collect(self, live: Callable[[int], bool], *, dry_run: bool) -> list[dict[str, Any]]:
        """What of the node's networks has no owner, `{kind, name, container}` each; removed unless `dry_run`.

        `live` tells whether there is a container of that id. Links of those that there are not are not told.
        """
        if not self.makes_networks:
            return []

        def lives(owner: str) -> bool:
            found = _OWNER.fullmatch(owner)
            return found is None or live(int(found[1]))

        stray = await self._stray_links()
        if stray:
            stray &= await self._stray_links()  # it may have been about to go
        for _, name in sorted(stray) if not dry_run else ():
            await blocking.run("disk", netlink.link_remove, name)
        segments = await self._plugs.segments.collect(dry_run=dry_run)
        rest = await self._networks.collect(lives, dry_run=dry_run)
        return (
            [{"kind": "link", "name": name, "container": id} for id, name in sorted(stray)]
            + [{"kind": "link", "name": name, "container": 0} for name in segments]
            + [{"kind": kind, "name": name, "container": 0} for kind, name in rest]
        )

    async def _stray_links(self) -> set[tuple[int, str]]:
        """(container, name) of links of containers that have no such link."""
        found = set()
        for link in await blocking.run("disk", netlink.links):
            match = leftovers.LINK.fullmatch(link.name)
            network = self._open.get(int(match[1])) if match is not None else None
            if (
                network is not None
                and not network.changing.locked()
                and link.name not in network.host_links()
            ):
                found.add((network.id, link.name))
        return found

    # --- changes of a running one

    async def add(self, network: Network, nic: Nic) -> None:
        """One more link; a failure leaves none."""

        async def change() -> None:
            nicspec.validate([*(wire.nic for wire in network.live), nic], {}, field="nic")
            await self._add(network, nic)
            self._ask_for_lease(network, network.wires[-1])
            await self._resolve(network)

        await self._change(network, change())

    async def remove(self, network: Network, index: int) -> None:
        """InvalidArgument for an index that no nic has, FailedPrecondition for one that is gone already."""

        async def change() -> None:
            if not 0 <= index < len(network.wires):
                raise InvalidArgument(f"index: expected one of {len(network.wires)} nics, got {index}")
            wire = network.wires[index]
            if wire.state != "configured":
                raise FailedPrecondition(f"index: nic {index} is {wire.state}")
            if wire.nic.type == "default":
                await self._firewall.remove(network.owner)
            await self._unplug(wire)
            await self._resolve(network)

        await self._change(network, change())

    async def forward(self, network: Network, source: str, target: int) -> None:
        """NodeError (500) for a busy port, and without a nic of type default."""
        await self._change(network, self._forward(network, source, target))

    async def unforward(self, network: Network, source: str) -> None:
        """Nothing happens when that port is not forwarded to this container."""
        port = forward.parse(source).port
        await self._change(network, self._firewall.unforward(network.owner, port))

    def ports(self, network: Network) -> dict[str, int]:
        """Canonical source -> port inside, of the forwards that there are."""
        return self._firewall.forwards(network.owner)

    # --- the work itself

    async def _change(self, network: Network, change: Coroutine[Any, Any, T]) -> T:
        async def whole() -> T:
            async with network.changing:
                if network.closed:
                    change.close()
                    raise Conflict(f"container {network.id} ended")
                try:
                    return await change
                finally:
                    if self.on_change is not None:
                        await self.on_change(network)

        return await finish(whole())

    async def _add(self, network: Network, nic: Nic) -> None:
        wire = Wire(len(network.wires), nic)
        try:
            await self._plugs.plug(network, wire)
        except OSError as error:
            await wire.undo.aclose()
            raise node_error(f"nic {wire.index} ({nic.type})", error) from error
        except BaseException:
            await wire.undo.aclose()
            raise
        wire.state = "configured"
        network.wires.append(wire)

    async def _unplug(self, wire: Wire) -> None:
        wire.state = "destroyed"
        wire.dns = []
        if wire.lease is not None:
            wire.lease.cancel()
            await asyncio.wait([wire.lease])
        try:
            await wire.undo.aclose()
        except (NodeError, OSError):
            log.exception("a nic could not be taken away", nic=wire.index)

    # --- leases

    def _ask_for_lease(self, network: Network, wire: Wire) -> None:
        if not wire.wants_lease or wire.lease is not None:
            return

        async def apply(lease: dhcp.Lease) -> None:
            await self._change(network, self._apply(network, wire, lease))

        had = _leased(wire)
        asking = dhcp.keep(self._reaper, network.space, wire.link, network.hostname, apply, had=had)
        wire.lease = asyncio.create_task(asking, name=f"lease of {network.host_link(wire)}")
        wire.lease.add_done_callback(_report)

    async def _apply(self, network: Network, wire: Wire, lease: dhcp.Lease) -> None:
        gateways = [lease.gateway] if lease.gateway else []
        if wire.state != "configured":
            return
        had = _leased(wire)
        if had != [lease.cidr]:
            metric = _LEASE_METRIC + wire.index
            await blocking.run(
                "disk",
                namespace.call_in,
                [network.space],
                _readdress,
                wire.link,
                had,
                lease,
                gateways,
                metric,
            )
            wire.cidrs = [lease.cidr, *(cidr for cidr in wire.cidrs if cidr not in had)]
            await self._plugs.name(network, wire, str(wire.nic.id))
        config = wire.nic.config or nicspec.Config()
        wire.dns = list(config.dns or lease.dns)
        await self._resolve(network)

    async def _resolve(self, network: Network) -> None:
        """Tell a running container of its DNS servers; one whose root takes no file keeps those it had."""
        if not network.pid or not network.nameservers:
            return
        try:
            await blocking.run(
                "path", _write_resolv_conf, network.pid, network.space, rootfs.resolv(network.nameservers)
            )
        except OSError as error:
            log.warning("resolv.conf of a container is not written", container=network.id, reason=str(error))

    # --- forwards

    def _default_of(self, network: Network) -> Wire | None:
        return next((wire for wire in network.live if wire.nic.type == "default"), None)

    async def _forward(self, network: Network, source: str, target: int) -> None:
        wire = self._default_of(network)
        if wire is None:
            raise NodeError(f"container {network.id} has no nic of type default to forward a port to")
        address = wire.cidrs[0].partition("/")[0]
        await self._firewall.forward(network.owner, forward.parse(source), address, target)


def _leased(wire: Wire) -> list[str]:
    """Its address by a lease, which is one of IPv4: one of IPv6 beside it was given by the caller."""
    return [cidr for cidr in wire.cidrs if ":" not in cidr]


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a lease is not kept any longer", reason=str(error))


@off_loop
def _readdress(
    link: str, old: Sequence[str], lease: dhcp.Lease, gateways: Sequence[str], metric: int
) -> None:
    for cidr in old:
        ip, _, prefix = cidr.partition("/")
        with contextlib.suppress(OSError):  # the container may change its links itself, if it is privileged
            netlink.address("del", link, ip, int(prefix))
    netlink.link_configure(link, [lease.cidr], gateways, metric)


@off_loop
def _write_resolv_conf(pid: int, space: int, text: str) -> None:
    root = rootpath.open_process_root(pid)
    try:
        # The pid may be another process's by now.
        if namespace.namespace_id(pid, "net") == os.fstat(space).st_ino:
            rootpath.write_file(root, "etc/resolv.conf", text.encode(), mode=0o644, directory_mode=0o755)
    finally:
        os.close(root)
