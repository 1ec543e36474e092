"""Owner of the VLANs and VXLANs that containers join (async): one bridge of the node each, while it is used.

A bridge that several containers join is made by the first and goes with the last. Its name tells what it is:
`g8v<index of the master>.<tag>` or `g8x<number>`, the uplink in it ends in `u`.
"""

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Final

from g8node.config import Network as Settings
from g8node.errors import FailedPrecondition
from g8node.linux import netlink, virtual_links
from g8node.node import nicspec
from g8node.node.firewall import Firewall
from g8node.node.nicspec import Nic
from g8node.runtime import blocking
from g8node.wire import nft

_VXLAN: Final = "vxlan"
_BRIDGE: Final = re.compile(r"g8[vx][0-9.]+")

Release = Callable[[], Awaitable[None]]


class Segments:
    """`join` counts, the function that it gives counts back."""

    def __init__(self, firewall: Firewall, settings: Settings) -> None:
        self._firewall = firewall
        self._settings = settings
        self._users: dict[str, int] = {}
        self._changing = asyncio.Lock()

    async def join(self, nic: Nic, *, found: bool = False) -> tuple[str, int, Release]:
        """The bridge of a nic's VLAN or VXLAN, its MTU, and what gives it back. Not to be cancelled.

        `found`: an earlier run has made the bridge.

        FailedPrecondition when the settings do not say where it is. OSError.
        """
        async with self._changing:
            if nic.type == "vlan":
                bridge, mtu = await self._vlan(nic, found=found)
            else:
                bridge, mtu = await self._vxlan(nic, found=found)
            self._users[bridge] = self._users.get(bridge, 0) + 1

        async def release() -> None:
            async with self._changing:
                self._users[bridge] -= 1
                if not self._users[bridge]:
                    del self._users[bridge]
                    await blocking.run("disk", _remove, bridge)
                    if not any(name.startswith("g8x") for name in self._users):
                        await self._firewall.remove(_VXLAN)

        return bridge, mtu, release

    async def collect(self, *, dry_run: bool) -> list[str]:
        """Bridges of VLANs and VXLANs that nobody uses; removed unless `dry_run`."""
        async with self._changing:
            names = [link.name for link in await blocking.run("disk", netlink.links)]
            unused = [name for name in names if _BRIDGE.fullmatch(name) and name not in self._users]
            for name in unused if not dry_run else ():
                await blocking.run("disk", _remove, name)
        return unused

    async def _vlan(self, nic: Nic, *, found: bool) -> tuple[str, int]:
        master = nic.master or self._settings.vlan_uplink
        if not master:
            raise FailedPrecondition(
                "master: expected a link of the node, or the setting network.vlan_uplink"
            )
        index = await blocking.run("disk", virtual_links.index_of, master)
        tag = nicspec.tag(nic)
        bridge = f"g8v{index}.{tag}"
        mtu = await blocking.run("disk", virtual_links.mtu_of, master)
        if bridge not in self._users and not found:
            await _make(bridge, virtual_links.vlan_add, f"{bridge}u", tag, master, bridge)
        return bridge, mtu

    async def _vxlan(self, nic: Nic, *, found: bool) -> tuple[str, int]:
        settings, vni = self._settings, nicspec.tag(nic)
        underlay = settings.vxlan_underlay
        if not underlay or not (settings.vxlan_group or settings.vxlan_peers):
            raise FailedPrecondition(
                "type vxlan: expected the settings network.vxlan_underlay and vxlan_group or vxlan_peers"
            )
        for address in (settings.vxlan_group, *settings.vxlan_peers):
            _check(address)
        bridge = f"g8x{vni}"
        mtu = await blocking.run("disk", virtual_links.mtu_of, underlay) - virtual_links.VXLAN_OVERHEAD
        if bridge in self._users:
            return bridge, mtu
        if not any(name.startswith("g8x") for name in self._users):
            await self._firewall.add(_VXLAN, [nft.accept_udp(virtual_links.VXLAN_PORT, underlay, _VXLAN)])
        if found:
            return bridge, mtu
        add = virtual_links.vxlan_add
        group, peers = settings.vxlan_group, settings.vxlan_peers
        await _make(bridge, add, f"{bridge}u", vni, underlay, bridge, mtu=mtu, group=group, peers=peers)
        return bridge, mtu


def _check(address: str) -> None:
    try:
        ipaddress.IPv4Address(address or "0.0.0.0")
    except ValueError as error:
        raise FailedPrecondition(
            f"network.vxlan_group, network.vxlan_peers: expected IPv4 addresses, got {address!r}"
        ) from error


async def _make(bridge: str, add: Callable[..., None], /, *args: object, **kwargs: object) -> None:
    """The bridge with its uplink, or neither."""
    await blocking.run("disk", netlink.bridge_add, bridge, "")
    try:
        await blocking.run("disk", add, *args, **kwargs)
        await blocking.run("disk", netlink.link_set, bridge, state="up")
    except BaseException:
        await blocking.run("disk", _remove, bridge)
        raise


def _remove(bridge: str) -> None:
    netlink.link_remove(f"{bridge}u")
    netlink.link_remove(bridge)
