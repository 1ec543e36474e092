"""process.*: the operating system's processes (async)."""

from typing import Any

from msgspec import Struct

from g8node.jobs.arguments import Pid, Signal
from g8node.jobs.registry import Context, command


class ListArgs(Struct, frozen=True):
    pid: Pid = 0


@command("process.list", base=True, role="reader")
async def list_(ctx: Context, args: ListArgs) -> list[dict[str, Any]]:
    """Every process, or the one asked for; nothing for one that is gone.

    Whoever is no admin sees programs without their arguments, which may hold what he may not know.
    """
    rows = await ctx.node.inventory.processes(args.pid)
    if ctx.caller.role == "admin":
        return rows
    return [row | {"cmdline": str(row["cmdline"]).partition(" ")[0]} for row in rows]


class KillArgs(Struct, frozen=True):
    pid: Pid
    signal: Signal = 0


@command("process.kill", base=True, role="admin")
async def kill(ctx: Context, args: KillArgs) -> None:
    """Signal one process; signal 0 only asks whether it is there."""
    await ctx.node.inventory.kill(args.pid, args.signal)
