"""monitor: measure the machine now (async); spec core0-protocol 4.4 and 5.4."""

from typing import Annotated

from msgspec import Meta, Struct

from g8node.jobs.registry import Context, command


class MonitorArgs(Struct, frozen=True):
    domain: Annotated[
        str, Meta(extra={"kind": "domain"}, description="cpu, disk, memory or network in any case")
    ]


@command("monitor")
async def monitor(ctx: Context, args: MonitorArgs) -> None:
    """Feed the statistics once; cpu takes a second."""
    await ctx.node.stats.monitor(args.domain)
