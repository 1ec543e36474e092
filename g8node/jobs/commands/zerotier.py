"""zerotier.*: the node's own ZeroTier, where it is installed (async); spec core0-resources 2.5."""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from g8node.errors import NodeError, Unavailable
from g8node.jobs.arguments import ContainerId
from g8node.jobs.commands import corex
from g8node.jobs.registry import Context, command
from g8node.node import programs

T = TypeVar("T")
_PROGRAM: Final = "zerotier-cli"
_NONE_INSIDE: Final = "containers of this node have no ZeroTier; nics of type wireguard join networks"

Network = Annotated[
    str, Meta(pattern=r"\A[0-9a-fA-F]{16}\Z", extra={"kind": "zerotier network"}, description="16 hex digits")
]


class NetworkArgs(Struct, frozen=True):
    network: Network


class ContainerArgs(Struct, frozen=True):
    container: ContainerId


@command("zerotier.join", role="admin")
async def join(ctx: Context, args: NetworkArgs) -> None:
    """Join a network; 503 when the node has no zerotier-cli."""
    await programs.run(ctx.node.reaper, _PROGRAM, "join", args.network)


@command("zerotier.leave", role="admin")
async def leave(ctx: Context, args: NetworkArgs) -> None:
    """Leave a network; an error of the program when it was never joined."""
    await programs.run(ctx.node.reaper, _PROGRAM, "leave", args.network)


@command("zerotier.list", role="reader")
async def list_(ctx: Context) -> list[dict[str, Any]]:
    """The networks that were joined, as `zerotier-cli -j listnetworks` has them."""
    return await _asked(ctx, "listnetworks", list[dict[str, Any]])


@command("zerotier.info", role="reader")
async def info(ctx: Context) -> dict[str, Any]:
    """The state of ZeroTier's daemon, as `zerotier-cli -j info` has it."""
    return await _asked(ctx, "info", dict[str, Any])


async def _asked(ctx: Context, question: str, shape: type[T]) -> T:
    text = await programs.run(ctx.node.reaper, _PROGRAM, "-j", question)
    try:
        return msgspec.json.decode(text, type=shape)
    except msgspec.MsgspecError as error:
        raise NodeError(f"{_PROGRAM} {question} answered no JSON: {error}") from error


@command("corex.zerotier.info", role="operator")
def container_info(ctx: Context, args: ContainerArgs) -> None:
    """Always 503: nics of type zerotier are refused on this node."""
    corex.live(ctx, args.container)
    raise Unavailable(_NONE_INSIDE)


@command("corex.zerotier.list", role="operator")
def container_list(ctx: Context, args: ContainerArgs) -> None:
    """Always 503: nics of type zerotier are refused on this node."""
    corex.live(ctx, args.container)
    raise Unavailable(_NONE_INSIDE)
