"""info.*: what the node is made of (async)."""

from typing import Any

from g8node.jobs.registry import Context, command


@command("info.os", base=True, role="reader")
async def os(ctx: Context) -> dict[str, Any]:
    """Host name, uptime, kernel, platform."""
    return await ctx.node.inventory.system()


@command("info.cpu", base=True, role="reader")
async def cpu(ctx: Context) -> list[dict[str, Any]]:
    """The logical processors."""
    return await ctx.node.inventory.cpus()


@command("info.mem", base=True, role="reader")
async def mem(ctx: Context) -> dict[str, Any]:
    """Memory in bytes."""
    return await ctx.node.inventory.memory()


@command("info.version", base=True, role="reader")
def version(ctx: Context) -> dict[str, Any]:
    """The node's own version."""
    return ctx.node.inventory.version()
