"""nft.* and socat.*: open ports of the node, and its port forwards (async); spec core0-resources 2.2."""

import ipaddress
from typing import Annotated

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.jobs.kinds import OptionalLinkName, OptionalNetwork
from g8node.jobs.registry import Context, command

Port = Annotated[int, Meta(ge=1, le=65535, description="a TCP port of the node")]


class PortArgs(Struct, frozen=True):
    port: Port
    interface: OptionalLinkName | None = None
    subnet: OptionalNetwork | None = None


@command("nft.open_port")
async def open_port(ctx: Context, args: PortArgs) -> None:
    """Let TCP to a port of the node in; a port is opened once, whatever interface and subnet."""
    await ctx.node.firewall.open_port(args.port, args.interface or "", _network(args.subnet or ""))


@command("nft.drop_port")
async def drop_port(ctx: Context, args: PortArgs) -> None:
    """Close a port that nft.open_port opened; another one is no error."""
    _network(args.subnet or "")
    await ctx.node.firewall.drop_port(args.port)


class ExistsArgs(Struct, frozen=True):
    port: Annotated[int, Meta(ge=0, le=2147483647, description="a port; one above 65535 is not open")]
    interface: OptionalLinkName | None = None
    subnet: OptionalNetwork | None = None


@command("nft.rule_exists", role="reader")
def rule_exists(ctx: Context, args: ExistsArgs) -> bool:
    """Whether nft.open_port opened the port; interface and subnet are not looked at."""
    _network(args.subnet or "")
    return ctx.node.firewall.is_open(args.port)


@command("nft.list", role="reader")
async def list_(ctx: Context) -> list[str]:
    """The rules of the input chain, as nft writes them."""
    return await ctx.node.firewall.rules("input")


@command("socat.list", role="reader")
async def forwards(ctx: Context) -> list[str] | None:
    """The rules that forward ports, as nft writes them; null when there is none."""
    return await ctx.node.firewall.rules("prerouting") or None


class ReserveArgs(Struct, frozen=True):
    number: Annotated[int, Meta(ge=1, le=64512, description="how many ports")]


@command("socat.reserve")
async def reserve(ctx: Context, args: ReserveArgs) -> list[int]:
    """Free TCP ports from 1024 on, not given to anybody else for two minutes."""
    return await ctx.node.firewall.reserve(args.number)


def _network(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError as error:
        raise InvalidArgument(f"subnet: expected an IPv4 network such as 10.0.0.0/8: {error}") from error
