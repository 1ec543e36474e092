"""corex.nic-*, corex.portforward-*: links of running containers (async); spec core0-resources 1.1, 1.7."""

from typing import Annotated

from msgspec import Meta, Struct

from g8node.jobs.arguments import ContainerId
from g8node.jobs.registry import Context, command
from g8node.node.nicspec import Nic, validate
from g8node.wire import forward

Source = Annotated[
    str,
    Meta(
        max_length=forward.TEXT_MAX,
        extra={"kind": "forward"},
        description="[address:]port[|tcp|udp|tcp+udp] of the node; see docs/networks.md",
    ),
]


class AddArgs(Struct, frozen=True):
    container: ContainerId
    nic: Annotated[Nic, Meta(description="as in corex.create")]


@command("corex.nic-add")
async def nic_add(ctx: Context, args: AddArgs) -> None:
    """Give a running container one more network link."""
    validate([args.nic], {}, field="nic")
    await ctx.node.nics.add(await ctx.node.containers.network(args.container), args.nic)


class RemoveArgs(Struct, frozen=True):
    container: ContainerId
    index: Annotated[int, Meta(ge=0, le=65535, description="place in the container's nics")]


@command("corex.nic-remove")
async def nic_remove(ctx: Context, args: RemoveArgs) -> None:
    """Take a link away; it stays listed as destroyed. 412 when it is that already."""
    await ctx.node.nics.remove(await ctx.node.containers.network(args.container), args.index)


class ForwardArgs(Struct, frozen=True):
    container: ContainerId
    host_port: Source
    container_port: Annotated[int, Meta(ge=1, le=65535)]


@command("corex.portforward-add")
async def portforward_add(ctx: Context, args: ForwardArgs) -> None:
    """Forward a port of the node, also from the node itself, to a container with a default nic."""
    forward.parse(args.host_port, field="host_port")
    network = await ctx.node.containers.network(args.container)
    await ctx.node.nics.forward(network, args.host_port, args.container_port)


@command("corex.portforward-remove")
async def portforward_remove(ctx: Context, args: ForwardArgs) -> None:
    """End a forward; a port that is not forwarded to the container is no error."""
    forward.parse(args.host_port, field="host_port")
    network = await ctx.node.containers.network(args.container)
    await ctx.node.nics.unforward(network, args.host_port)
