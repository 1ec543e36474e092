"""bridge.*: the ports of bridges (async); spec core0-resources 2.1."""

from msgspec import Struct

from g8node.errors import InvalidArgument, NotFound
from g8node.jobs.kinds import LinkName
from g8node.jobs.registry import Context, command


@command("bridge.list", role="reader")
async def list_(ctx: Context) -> list[str]:
    """The names of all bridges, whoever made them."""
    return [row["name"] for row in await ctx.node.links.list() if row["type"] == "bridge"]


class PortArgs(Struct, frozen=True):
    name: LinkName
    nic: LinkName


@command("bridge.nic-add")
async def nic_add(ctx: Context, args: PortArgs) -> None:
    """Make link `nic` a port of bridge `name`."""
    await _is_bridge(ctx, args.name)
    await ctx.node.links.attach(args.name, args.nic)


class NicArgs(Struct, frozen=True):
    nic: LinkName


@command("bridge.nic-remove")
async def nic_remove(ctx: Context, args: NicArgs) -> None:
    """Detach a link from its bridge; one that has none is left as it is."""
    rows = {row["name"]: row for row in await ctx.node.links.list()}
    if args.nic not in rows:
        raise NotFound(f"nic: {args.nic}: no such link")
    if master := rows[args.nic]["master"]:
        await ctx.node.links.detach(master, args.nic)


class NameArgs(Struct, frozen=True):
    name: LinkName


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
