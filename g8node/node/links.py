"""Owner of the node's network links, addresses and routes: `ip.*` (async).

Works on the node's own network namespace; the kernel's errors become the node's vocabulary here.
"""

import asyncio
import builtins
import errno
import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from g8node.errors import (
    AlreadyExists,
    Conflict,
    InvalidArgument,
    NodeError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from g8node.linux import netlink
from g8node.node import programs
from g8node.runtime import blocking
from g8node.runtime.process import Reaper

P = ParamSpec("P")
T = TypeVar("T")

_MEANING: Final[dict[int, type[NodeError]]] = {
    errno.EEXIST: AlreadyExists,
    errno.ENODEV: NotFound,
    errno.ESRCH: NotFound,
    errno.EADDRNOTAVAIL: NotFound,
    errno.EBUSY: Conflict,
    errno.ENETUNREACH: Conflict,
    errno.ENETDOWN: Conflict,
    errno.EHOSTUNREACH: Conflict,
    errno.EINVAL: InvalidArgument,
    errno.ERANGE: InvalidArgument,
    errno.EPERM: PermissionDenied,
    errno.EOPNOTSUPP: Unavailable,
}
_RENAMED_WHILE_UP: Final = "a link is renamed only while it is down"
Enter = Callable[[Callable[[], Any]], Any]
"""Calls a function elsewhere; blocks."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Links:
    """Every change is one or a few netlink messages in a thread of the pool "disk"; changes come in turn."""

    def __init__(self, reaper: Reaper, enter: Enter | None = None) -> None:
        """`enter` calls a function in another network namespace (a container's); none: the node's own."""
        self._reaper = reaper
        self._enter = enter
        self._changing = asyncio.Lock()

    async def list(self) -> list[dict[str, Any]]:
        return [
            {
                "name": link.name,
                "type": link.kind,
                "hwaddr": link.hwaddr,
                "master": link.master,
                "up": link.up,
                "mtu": link.mtu,
            }
            for link in await self._ask("links", netlink.links)
        ]

    async def up(self, name: str) -> None:
        await self._change(name, netlink.link_set, name, state="up")

    async def down(self, name: str) -> None:
        await self._change(name, netlink.link_set, name, state="down")

    async def rename(self, name: str, new: str) -> None:
        """Conflict while the link is up (newer kernels would allow it; the original promised a failure)."""
        link = next((link for link in await self._ask(name, netlink.links) if link.name == name), None)
        if link is None:
            raise NotFound(f"{name}: no such link")
        if link.up:
            raise Conflict(f"{name} is up: {_RENAMED_WHILE_UP}")
        await self._change(new, netlink.link_set, name, ifname=new)

    async def set_mtu(self, name: str, mtu: int) -> None:
        await self._change(f"{name}: mtu", netlink.link_set, name, mtu=mtu)

    async def add_bridge(self, name: str, hwaddr: str) -> None:
        await self._change(name, netlink.bridge_add, name, hwaddr)

    async def delete_bridge(self, name: str) -> None:
        await self._change(name, netlink.link_del, name, "bridge")

    async def attach(self, bridge: str, name: str) -> None:
        await self._change(bridge, netlink.bridge_attach, bridge, name)

    async def detach(self, bridge: str, name: str) -> None:
        await self._change(bridge, netlink.bridge_detach, bridge, name)

    async def addresses(self, name: str) -> builtins.list[str]:
        return await self._ask(name, netlink.addresses, name)

    async def add_address(self, name: str, ip: str) -> None:
        interface = _interface(ip)
        await self._change(
            f"{name}: {ip}", netlink.address, "add", name, str(interface.ip), interface.network.prefixlen
        )

    async def delete_address(self, name: str, ip: str) -> None:
        interface = _interface(ip)
        await self._change(
            f"{name}: {ip}", netlink.address, "del", name, str(interface.ip), interface.network.prefixlen
        )

    async def routes(self) -> builtins.list[dict[str, str]]:
        return [
            {"dev": route.dev, "dst": route.dst, "gw": route.gw}
            for route in await self._ask("routes", netlink.routes)
        ]

    async def add_route(self, dev: str, dst: str, gw: str) -> None:
        """An empty `dst` is the default route, of the gateway's family."""
        network, gateway = _network(dst), _gateway(gw)
        families = {each.version for each in (network, gateway) if each is not None}
        if len(families) > 1:
            raise InvalidArgument(f"gw: invalid gw ip {gw!r}: dst is of the other family")
        family = socket.AF_INET6 if families == {6} else socket.AF_INET
        where = "" if network is None else str(network)
        await self._change(f"route to {where or 'default'}", netlink.route_add, dev, where, gw, int(family))

    async def delete_route(self, dev: str, dst: str, gw: str) -> None:
        """The one route that matches; empty matches all. NotFound for none, Conflict for several."""
        network, gateway = _network(dst), _gateway(gw)
        if not (dev or dst or gw):
            raise InvalidArgument("dev: expected at least one of dev, dst and gw")
        matching = [
            route
            for route in await self._ask("routes", netlink.routes)
            if (not dev or route.dev == dev)
            and (not dst or _same(route.dst, network))
            and (gateway is None or (route.gw and ipaddress.ip_address(route.gw) == gateway))
        ]
        if not matching:
            raise NotFound("route not found")
        if len(matching) > 1:
            raise Conflict(f"ambiguous route: {len(matching)} match", hint="name dev, dst and gw")
        await self._change("route", netlink.route_del, matching[0])

    async def add_bond(self, name: str, slaves: builtins.list[str], mtu: int) -> None:
        if len(set(slaves)) != len(slaves):
            raise InvalidArgument("interfaces: a link is named twice")
        known = {link.name for link in await self._ask("links", netlink.links)}
        for slave in slaves:
            if slave not in known:
                raise NotFound(f"interfaces: {slave}: no such link")
        await self._load_bonding()
        await self._change(name, netlink.bond_add, name, slaves, mtu)

    async def _load_bonding(self) -> None:
        """The module makes a bond0 that nobody asked for, unless told not to."""
        if not await blocking.run("disk", netlink.bonding_is_loaded):
            done = await programs.attempt(self._reaper, "modprobe", "bonding", "max_bonds=0")
            if done.code != 0:
                reason = done.stderr.decode(errors="replace").strip()[:300]
                raise Unavailable(f"bonding: the kernel module cannot be loaded: {reason}")

    async def delete_bond(self, name: str) -> None:
        await self._change(name, netlink.link_del, name, "bond")

    async def bonds(self) -> dict[str, builtins.list[dict[str, str]]]:
        """Bond -> the sections of its file in /proc/net/bonding, the bond's own first."""
        files = await self._ask("bonds", netlink.bond_files)
        return {name: sections(text) for name, text in files.items()}

    async def _change(self, what: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._changing:
            return await self._ask(what, fn, *args, **kwargs)

    async def _ask(self, what: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(fn, *args, **kwargs)
        try:
            if self._enter is None:
                return await blocking.run("disk", call)
            found: T = await blocking.run("disk", self._enter, call)
            return found
        except OSError as error:
            raise node_error(what, error) from error


def sections(text: str) -> list[dict[str, str]]:
    """Blank-line-separated groups of `key: value` lines."""
    found = []
    for block in text.split("\n\n"):
        pairs = (line.partition(": ") for line in block.splitlines() if ":" in line)
        section = {key.strip().rstrip(":"): value.strip() for key, _, value in pairs}
        if section:
            found.append(section)
    return found


def node_error(what: str, error: OSError) -> NodeError:
    """The kernel's refusal in the node's words."""
    kind = _MEANING.get(error.errno or 0, NodeError)
    return kind(f"{error.filename or what}: {(error.strerror or str(error)).lower()}")


def _interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        if "/" not in text or "%" in text:
            raise ValueError
        return ipaddress.ip_interface(text)
    except ValueError as error:
        raise InvalidArgument(
            f"ip: expected address/prefix such as 10.0.0.1/24, not {text[:80]!r}"
        ) from error


def _network(text: str) -> Network | None:
    """None is the default route."""
    if text in ("", "default"):
        return None
    try:
        if "/" not in text:
            raise ValueError
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument(
            f"dst: expected network/prefix such as 10.0.0.0/8, not {text[:80]!r}"
        ) from error
    return network if network.prefixlen else None


def _same(dst: str, network: Network | None) -> bool:
    return (
        (not dst) if network is None else (bool(dst) and ipaddress.ip_network(dst, strict=False) == network)
    )


def _gateway(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if not text:
        return None
    try:
        if "%" in text:
            raise ValueError
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"gw: invalid gw ip {text[:80]!r}") from error
