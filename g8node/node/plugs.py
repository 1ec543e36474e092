"""How each type of nic becomes a link in a container's namespace (async); spec core0-resources 1.7.

`plug` leaves in `Wire.undo` what takes the link away again, also when it fails half-way.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import chain
from typing import Any, Final

from g8node.config import Network as Settings
from g8node.errors import Exhausted, Unavailable
from g8node.linux import namespace, netlink, virtual_links
from g8node.node import endpoints, nicspec, programs
from g8node.node.firewall import Firewall
from g8node.node.networks import DEFAULT, Networks
from g8node.node.segments import Segments
from g8node.node.wires import Network, Wire
from g8node.runtime import blocking
from g8node.wire import nft

_GATEWAY_METRIC: Final = 1000
_MTU: Final = 1500


class Plugs:
    """Not to be cancelled."""

    def __init__(self, networks: Networks, firewall: Firewall, settings: Settings) -> None:
        self._networks = networks
        self._firewall = firewall
        self.segments = Segments(firewall, settings)
        self._addresses: set[str] = set()
        self._types: dict[str, Callable[[Network, Wire], Coroutine[Any, Any, None]]] = {
            "default": self._default,
            "bridge": self._bridge,
            "vlan": self._segment,
            "vxlan": self._segment,
            "macvlan": self._macvlan,
            "passthrough": self._passthrough,
            "wireguard": self._wireguard,
            "zerotier": self._zerotier,
        }

    async def plug(self, network: Network, wire: Wire) -> None:
        """NodeError or OSError when it cannot be made; when it was `found`: if it is not there any more."""
        await self._networks.claim.take()
        await self._types[wire.nic.type](network, wire)

    async def name(self, network: Network, wire: Wire, bridge: str) -> None:
        """Let the DNS of that bridge answer the container's names with the link's addresses."""
        own = [ipaddress.ip_interface(cidr).ip for cidr in wire.cidrs]
        # an IPv6 address of the link alone is nothing without the name of the asker's link
        if addresses := [str(ip) for ip in own if ip.version == 4 or not ip.is_link_local]:
            key = f"{network.id}-{wire.index}"
            wire.undo.push_async_callback(self._networks.unname, bridge, key)
            await self._networks.name(bridge, key, addresses, network.names)

    async def _default(self, network: Network, wire: Wire) -> None:
        """Address and gateway are given by the container's id; what the caller configured is ignored."""
        bridge = await self._networks.default()
        interface = bridge.plan.address
        assert interface is not None
        address = self._reserve(interface, network.id, wire)
        wire.cidrs = [f"{address}/{interface.network.prefixlen}"]
        wire.dns = [str(interface.ip)]
        await self._pair(network, wire, DEFAULT, "", _MTU)
        await self._configure(network, wire, [str(interface.ip)], 0)
        await self.name(network, wire, DEFAULT)

    def _reserve(self, bridge: ipaddress.IPv4Interface, id: int, wire: Wire) -> str:
        """A container's address on the default bridge: by its id, or any in a network too small for that."""
        network = bridge.network
        numbers: Iterable[int] = chain([id + 1], range(1, network.num_addresses - 1))
        if wire.cidrs:  # it was given one by an earlier run
            numbers = [int(ipaddress.IPv4Interface(wire.cidrs[0]).ip) - int(network.network_address)]
        for number in numbers:
            address = str(network.network_address + number)
            fits = number < network.num_addresses - 1 and address != str(bridge.ip)
            if fits and address not in self._addresses:
                self._addresses.add(address)
                wire.undo.callback(self._addresses.discard, address)
                return address
        raise Exhausted(f"network.default: {network} has no address left")

    async def _bridge(self, network: Network, wire: Wire) -> None:
        bridge = str(wire.nic.id)
        made = self._networks.find(bridge)
        await self._pair(network, wire, bridge, wire.nic.hwaddr or "", _MTU)
        await self._configured(network, wire)
        config = wire.nic.config or nicspec.Config()
        if config.dns is None and nicspec.cidrs(wire.nic) and made is not None and made.server is not None:
            wire.dns = [str(made.server.address.ip)]
        await self.name(network, wire, bridge)

    async def _segment(self, network: Network, wire: Wire) -> None:
        bridge, mtu, release = await self.segments.join(wire.nic, found=wire.found)
        wire.undo.push_async_callback(release)
        await self._pair(network, wire, bridge, wire.nic.hwaddr or "", mtu)
        await self._configured(network, wire)

    async def _macvlan(self, network: Network, wire: Wire) -> None:
        parent, hwaddr = str(wire.nic.id), wire.nic.hwaddr or ""
        add = virtual_links.macvlan_add
        if not wire.found:
            await blocking.run("disk", add, parent, wire.link, network.space, hwaddr)
        wire.undo.push_async_callback(self._inside, network, netlink.link_remove, wire.link)
        await self._configured(network, wire)

    async def _passthrough(self, network: Network, wire: Wire) -> None:
        name, hwaddr, inside = str(wire.nic.id), wire.nic.hwaddr or "", wire.nic.name or str(wire.nic.id)
        wire.link_name = inside
        taken = wire.taken
        if taken is None:
            taken = await blocking.run("disk", virtual_links.take, name, inside, network.space, hwaddr)
            wire.taken = taken
        wire.undo.push_async_callback(blocking.run, "disk", virtual_links.give_back, taken, network.space)
        await self._configured(network, wire)

    async def _wireguard(self, network: Network, wire: Wire) -> None:
        device = wire.nic.wireguard
        assert device is not None
        port = device.listen_port or 0
        if port:
            owner = f"wireguard {network.host_link(wire)}"
            wire.undo.push_async_callback(self._firewall.remove, owner)
            await self._firewall.add(owner, [nft.accept_udp(port, "", owner)])
        if not wire.found:
            await self._tunnel(network, wire, device)
        wire.undo.push_async_callback(self._inside, network, netlink.link_remove, wire.link)
        await self._configured(network, wire)
        if wire.cidrs:
            allowed = [each for peer in device.peers or () for each in _allowed(peer)]
            await self._inside(network, virtual_links.routes_add, wire.link, allowed)
        names = {
            peer.public_key: where
            for peer in device.peers or ()
            if (where := nicspec.endpoint(peer)) is not None and nicspec.is_name(where[0])
        }
        if names:
            wire.undo.push_async_callback(
                _cancelled, asyncio.create_task(endpoints.keep(network.space, wire.link, names))
            )

    async def _tunnel(self, network: Network, wire: Wire, device: nicspec.Wireguard) -> None:
        await blocking.run(
            "disk",
            virtual_links.wireguard_add,
            network.host_link(wire),
            wire.link,
            network.space,
            private_key=device.private_key,
            listen_port=device.listen_port or 0,
            peers=[await _peer(peer) for peer in device.peers or ()],
        )

    async def _zerotier(self, network: Network, wire: Wire) -> None:
        await blocking.run("disk", programs.find, "zerotier-one")
        raise Unavailable("type zerotier: this node makes no links of ZeroTier", hint="use type wireguard")

    async def _pair(self, network: Network, wire: Wire, bridge: str, hwaddr: str, mtu: int) -> None:
        host = network.host_link(wire)
        wire.bridge = bridge
        wire.undo.push_async_callback(blocking.run, "disk", netlink.link_remove, host)
        if wire.found:
            await blocking.run("disk", virtual_links.index_of, host)
        else:
            await blocking.run("disk", netlink.veth_add, host, bridge, wire.link, network.space, hwaddr, mtu)
        if (rate := wire.nic.rate) is not None:
            helper = network.helper_link(wire)
            wire.undo.push_async_callback(blocking.run, "disk", netlink.link_remove, helper)
            if wire.found:
                return
            # What the container receives is what the node's end sends.
            bounds = {
                "out_bytes_s": (rate.receive_bits_s or 0) // 8,
                "in_bytes_s": (rate.send_bits_s or 0) // 8,
            }
            await blocking.run("disk", virtual_links.shape, host, helper, **bounds)

    async def _configured(self, network: Network, wire: Wire) -> None:
        """As the caller says; a link without addresses stays down, unless it waits for a lease."""
        if wire.found:
            return
        config = wire.nic.config or nicspec.Config()
        wire.cidrs = nicspec.cidrs(wire.nic)
        wire.dns = [server for server in config.dns or () if server]
        if wire.cidrs or wire.wants_lease:
            await self._configure(network, wire, nicspec.gateways(wire.nic), _GATEWAY_METRIC)

    async def _configure(self, network: Network, wire: Wire, gateways: Sequence[str], metric: int) -> None:
        if not wire.found:
            await self._inside(network, netlink.link_configure, wire.link, wire.cidrs, gateways, metric)

    async def _inside(self, network: Network, fn: Callable[..., None], *args: object) -> None:
        await blocking.run("disk", namespace.call_in, [network.space], fn, *args)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def _allowed(peer: nicspec.Peer) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_interface(each).network) for each in peer.allowed_ips or ())


async def _peer(peer: nicspec.Peer) -> virtual_links.Peer:
    """One whose name nobody knows yet is not called."""
    where = nicspec.endpoint(peer)
    return virtual_links.Peer(
        peer.public_key,
        _allowed(peer),
        await endpoints.resolved(where) if where is not None else None,
        peer.preshared_key or "",
        peer.keepalive or 0,
    )
