"""ip.*: links, addresses, routes, bridges and bonds of the node (async)."""

from typing import Annotated

from msgspec import Meta, Struct

from g8node.jobs.kinds import LinkName, Mtu, OptionalLinkName, OptionalMac
from g8node.jobs.registry import Context, command


class Link(Struct, frozen=True):
    """One row of ip.link.list; `type` is "device" for hardware, `master` the name of its bridge or bond."""

    name: str
    type: str
    hwaddr: str
    master: str
    up: bool
    mtu: int


class Route(Struct, frozen=True):
    """One row of ip.route.list: `dst` is "" for the default route, `gw` "" when there is none."""

    dev: str
    dst: str
    gw: str


class NameArgs(Struct, frozen=True):
    name: LinkName


class BridgeAddArgs(Struct, frozen=True):
    name: LinkName
    hwaddr: OptionalMac = ""


@command("ip.bridge.add", base=True)
async def bridge_add(ctx: Context, args: BridgeAddArgs) -> None:
    """Create a bridge; it is not brought up."""
    await ctx.node.links.add_bridge(args.name, args.hwaddr)


@command("ip.bridge.del", base=True)
async def bridge_del(ctx: Context, args: NameArgs) -> None:
    """Delete a bridge; a link that is none is refused."""
    await ctx.node.links.delete_bridge(args.name)


class PortArgs(Struct, frozen=True):
    name: LinkName
    inf: LinkName


@command("ip.bridge.addif", base=True)
async def bridge_addif(ctx: Context, args: PortArgs) -> None:
    """Make link `inf` a port of bridge `name`."""
    await ctx.node.links.attach(args.name, args.inf)


@command("ip.bridge.delif", base=True)
async def bridge_delif(ctx: Context, args: PortArgs) -> None:
    """Take link `inf` out of bridge `name`; it must be a port of it."""
    await ctx.node.links.detach(args.name, args.inf)


@command("ip.link.up", base=True)
async def link_up(ctx: Context, args: NameArgs) -> None:
    """Bring a link up."""
    await ctx.node.links.up(args.name)


@command("ip.link.down", base=True)
async def link_down(ctx: Context, args: NameArgs) -> None:
    """Take a link down."""
    await ctx.node.links.down(args.name)


class RenameArgs(Struct, frozen=True):
    name: LinkName
    new: LinkName


@command("ip.link.name", base=True)
async def link_name(ctx: Context, args: RenameArgs) -> None:
    """Rename a link that is down."""
    await ctx.node.links.rename(args.name, args.new)


class MtuArgs(Struct, frozen=True):
    name: LinkName
    mtu: Mtu


@command("ip.link.mtu", base=True)
async def link_mtu(ctx: Context, args: MtuArgs) -> None:
    """Set a link's largest packet."""
    await ctx.node.links.set_mtu(args.name, args.mtu)


@command("ip.link.list", base=True, role="reader")
async def link_list(ctx: Context) -> list[Link]:
    """All links."""
    return [Link(**row) for row in await ctx.node.links.list()]


class AddressArgs(Struct, frozen=True):
    name: LinkName
    ip: Annotated[
        str,
        Meta(extra={"kind": "interface address"}, min_length=1, max_length=64, description="address/prefix"),
    ]


@command("ip.addr.add", base=True)
async def addr_add(ctx: Context, args: AddressArgs) -> None:
    """Add an address to a link."""
    await ctx.node.links.add_address(args.name, args.ip)


@command("ip.addr.del", base=True)
async def addr_del(ctx: Context, args: AddressArgs) -> None:
    """Remove an address from a link."""
    await ctx.node.links.delete_address(args.name, args.ip)


@command("ip.addr.list", base=True, role="reader")
async def addr_list(ctx: Context, args: NameArgs) -> list[str]:
    """A link's addresses as address/prefix, IPv4 and IPv6."""
    return await ctx.node.links.addresses(args.name)


class RouteAddArgs(Struct, frozen=True):
    dev: LinkName
    dst: Annotated[
        str,
        Meta(
            extra={"kind": "network or empty"},
            max_length=64,
            description="network/prefix; empty: the default route",
        ),
    ] = ""
    gw: Annotated[
        str,
        Meta(
            extra={"kind": "address or empty"},
            max_length=64,
            description="address of the gateway; empty: none",
        ),
    ] = ""


class RouteDelArgs(Struct, frozen=True):
    dev: OptionalLinkName = ""
    dst: Annotated[
        str,
        Meta(
            extra={"kind": "network or empty"},
            max_length=64,
            description="network/prefix, default, or empty: any",
        ),
    ] = ""
    gw: Annotated[
        str,
        Meta(
            extra={"kind": "address or empty"},
            max_length=64,
            description="address of the gateway; empty: any",
        ),
    ] = ""


@command("ip.route.add", base=True)
async def route_add(ctx: Context, args: RouteAddArgs) -> None:
    """Add a route; an empty dst is the default route."""
    await ctx.node.links.add_route(args.dev, args.dst, args.gw)


@command("ip.route.del", base=True)
async def route_del(ctx: Context, args: RouteDelArgs) -> None:
    """Delete the one route that matches; what is empty matches all."""
    await ctx.node.links.delete_route(args.dev, args.dst, args.gw)


@command("ip.route.list", base=True, role="reader")
async def route_list(ctx: Context) -> list[Route]:
    """The routes of the main table."""
    return [Route(**row) for row in await ctx.node.links.routes()]


class BondAddArgs(Struct, frozen=True):
    bond: LinkName
    interfaces: Annotated[list[LinkName], Meta(min_length=1, max_length=64)]
    mtu: Mtu = 1500


@command("ip.bond.add", base=True)
async def bond_add(ctx: Context, args: BondAddArgs) -> None:
    """Bond links (mode balance-rr) and bring the bond up."""
    await ctx.node.links.add_bond(args.bond, args.interfaces, args.mtu)


class BondArgs(Struct, frozen=True):
    bond: LinkName


@command("ip.bond.del", base=True)
async def bond_del(ctx: Context, args: BondArgs) -> None:
    """Delete a bond; its links stay."""
    await ctx.node.links.delete_bond(args.bond)


@command("ip.bond.list", base=True, role="reader")
async def bond_list(ctx: Context) -> dict[str, list[dict[str, str]]]:
    """Every bond with the sections of its file in /proc/net/bonding."""
    return await ctx.node.links.bonds()
