"""service.*: the boot services (async)."""

from msgspec import Struct

from g8node.errors import NotFound
from g8node.jobs.arguments import JobId, OptionalJobId
from g8node.jobs.registry import Context, command
from g8node.node.services import ServiceRow


class ListArgs(Struct, frozen=True):
    id: OptionalJobId = ""


@command("service.list", role="reader")
def list_(ctx: Context, args: ListArgs) -> list[ServiceRow]:
    """The boot services with state, slice and, where one is not running, the reason; or the one asked for."""
    rows = [row for row in ctx.node.services.rows() if args.id in ("", row.id)]
    if args.id and not rows:
        raise NotFound(f"service {args.id!r} does not exist")
    return rows


class ServiceArgs(Struct, frozen=True):
    id: JobId


@command("service.start", role="admin")
async def start(ctx: Context, args: ServiceArgs) -> ServiceRow:
    """Start a service whatever its condition and dependencies; answers when it is ready."""
    return await ctx.node.services.start(args.id)


@command("service.stop", role="admin")
async def stop(ctx: Context, args: ServiceArgs) -> ServiceRow:
    """Stop a service for good, protected or not."""
    return await ctx.node.services.stop(args.id)


@command("service.restart", role="admin")
async def restart(ctx: Context, args: ServiceArgs) -> ServiceRow:
    """Stop a service if it runs, and start it."""
    return await ctx.node.services.restart(args.id)
