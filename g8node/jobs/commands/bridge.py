"""bridge.*: bridges and their ports (async); spec core0-resources 2.1."""

import ipaddress
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument, NotFound
from g8node.jobs.kinds import Ip4, LinkName, Mac, OptionalInterface, OptionalIp4, OptionalMac
from g8node.jobs.registry import Context, command
from g8node.node.bridgerecords import Plan

Interface = TypeVar("Interface", ipaddress.IPv4Interface, ipaddress.IPv6Interface)


class Settings(Struct, frozen=True):
    """Of a bridge with an address; `start` and `end` bound the leases of mode dnsmasq."""

    cidr: Annotated[OptionalInterface | None, Meta(description="IPv4 address/prefix")] = None
    cidr6: Annotated[OptionalInterface | None, Meta(description="IPv6 address/prefix beside it")] = None
    start: OptionalIp4 | None = None
    end: OptionalIp4 | None = None


class Network(Struct, frozen=True):
    mode: Annotated[
        Literal["", "none", "static", "dnsmasq"] | None,
        Meta(description="static: an address and DNS; dnsmasq: DHCP too; else it only switches"),
    ] = None
    nat: Annotated[bool | None, Meta(description="masquerade what leaves its networks")] = None
    settings: Settings | None = None


class CreateArgs(Struct, frozen=True):
    name: LinkName
    hwaddr: OptionalMac | None = None
    network: Network | None = None


@command("bridge.create")
async def create(ctx: Context, args: CreateArgs) -> None:
    """Make a bridge, up, with its address, DNS and DHCP; 409 for a network that the node has already."""
    await ctx.node.networks.create(args.name, _plan(args))


def _plan(args: CreateArgs) -> Plan:
    network = args.network or Network()
    settings = network.settings or Settings()
    address = _interface(settings.cidr, ipaddress.IPv4Interface, "cidr")
    address6 = _interface(settings.cidr6, ipaddress.IPv6Interface, "cidr6")
    if network.mode in ("", "none", None):
        return Plan(hwaddr=args.hwaddr or "")
    if address is None:
        raise InvalidArgument(f"network.settings.cidr: mode {network.mode} needs address/prefix, got none")
    leases = _lease_range(settings, address) if network.mode == "dnsmasq" else None
    return Plan(args.hwaddr or "", address, address6, leases, bool(network.nat))


def _interface(text: str | None, kind: Callable[[str], Interface], field: str) -> Interface | None:
    if not text:
        return None
    try:
        if "/" not in text or "%" in text:
            raise ValueError
        address = kind(text)
    except ValueError as error:
        raise InvalidArgument(
            f"network.settings.{field}: expected address/prefix such as 10.0.0.1/24, not {text!r}"
        ) from error
    if address.network.num_addresses > 2 and address.ip == address.network.network_address:
        raise InvalidArgument(f"network.settings.{field}: {text} is the network itself, not an address in it")
    return address


def _lease_range(settings: Settings, address: ipaddress.IPv4Interface) -> tuple[str, str]:
    ends = [ipaddress.IPv4Address(text or "0.0.0.0") for text in (settings.start, settings.end)]
    for field, end in zip(("start", "end"), ends, strict=True):
        if end not in address.network:
            raise InvalidArgument(
                f"network.settings.{field}: expected an address in {address.network}, got {end}"
            )
    if ends[0] > ends[1]:
        raise InvalidArgument(f"network.settings.end: {ends[1]} comes before start, {ends[0]}")
    return str(ends[0]), str(ends[1])


class NameArgs(Struct, frozen=True):
    name: LinkName


@command("bridge.delete")
async def delete(ctx: Context, args: NameArgs) -> None:
    """Delete a bridge with its DNS, DHCP and rules; what is attached to it stays, and is attached to none."""
    await ctx.node.networks.delete(args.name)


class HostArgs(Struct, frozen=True):
    bridge: LinkName
    ip: Ip4
    mac: Mac


@command("bridge.host-add")
async def host_add(ctx: Context, args: HostArgs) -> None:
    """Let the DHCP server of a bridge give a MAC address always the same address."""
    await ctx.node.networks.fix_lease(args.bridge, args.ip, args.mac)


@command("bridge.add_host")
async def add_host(ctx: Context, args: HostArgs) -> None:
    """Another name of bridge.host-add."""
    await host_add(ctx, args)


@command("bridge.list", role="reader")
async def list_(ctx: Context) -> list[str]:
    """The names of all bridges, whoever made them."""
    return [row["name"] for row in await ctx.node.links.list() if row["type"] == "bridge"]


class PortArgs(Struct, frozen=True):
    name: LinkName
    nic: LinkName


@command("bridge.nic-add")
async def nic_add(ctx: Context, args: PortArgs) -> None:
    """Make link `nic` a port of bridge `name`; 409 where another g8node makes networks."""
    await ctx.node.networks.claim.take()
    await _is_bridge(ctx, args.name)
    await ctx.node.links.attach(args.name, args.nic)


class NicArgs(Struct, frozen=True):
    nic: LinkName


@command("bridge.nic-remove")
async def nic_remove(ctx: Context, args: NicArgs) -> None:
    """Detach a link from its bridge; one that has none is left as it is."""
    await ctx.node.networks.claim.take()
    rows = {row["name"]: row for row in await ctx.node.links.list()}
    if args.nic not in rows:
        raise NotFound(f"nic: {args.nic}: no such link")
    if master := rows[args.nic]["master"]:
        await ctx.node.links.detach(master, args.nic)


@command("bridge.nic-list", role="reader")
async def nic_list(ctx: Context, args: NameArgs) -> list[str]:
    """The links that are ports of a bridge."""
    await _is_bridge(ctx, args.name)
    return [row["name"] for row in await ctx.node.links.list() if row["master"] == args.name]


async def _is_bridge(ctx: Context, name: str) -> None:
    kind = next((row["type"] for row in await ctx.node.links.list() if row["name"] == name), "")
    if not kind:
        raise NotFound(f"name: {name}: no such link")
    if kind != "bridge":
        raise InvalidArgument(f"name: {name} is no bridge")
