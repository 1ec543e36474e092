"""pprof.*: profiles of the node itself (async); spec core0-protocol 4.4, by means of Python."""

from typing import Any

from msgspec import Struct

from g8node.jobs.arguments import Path
from g8node.jobs.registry import Context, command


class FileArgs(Struct, frozen=True):
    file: Path


@command("pprof.cpu.start", role="admin")
async def cpu_start(ctx: Context, args: FileArgs) -> None:
    """Note every 10 ms where each thread is, for `pprof.cpu.stop` to write to the file; at most ten minutes.

    One line a stack, as flame graphs want it: `thread;outermost;...;innermost count`.
    """
    await ctx.node.profile.start(args.file)


@command("pprof.cpu.stop", role="admin")
async def cpu_stop(ctx: Context) -> None:
    """End the profile that `pprof.cpu.start` has begun, and write it."""
    await ctx.node.profile.stop()


@command("pprof.mem.write", role="admin")
async def mem_write(ctx: Context, args: FileArgs) -> None:
    """Write which objects the node holds: lines `count bytes type`, the largest first."""
    await ctx.node.profile.write_objects(args.file)


@command("pprof.mem.stat", role="reader")
async def mem_stat(ctx: Context) -> dict[str, Any]:
    """Memory of the node itself, in bytes, and what its garbage collector did."""
    return await ctx.node.profile.statistics()
