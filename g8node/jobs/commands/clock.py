"""clock.*: the time of day (async)."""

from typing import Annotated

from msgspec import Meta, Struct

from g8node.errors import Unavailable
from g8node.jobs.model import Level
from g8node.jobs.registry import Context, command
from g8node.node import clock

Servers = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9.:%\[\], _-]+\Z", max_length=1024, extra={"kind": "hosts"})
]


class SyncArgs(Struct, frozen=True):
    servers: Annotated[list[Servers], Meta(min_length=1, max_length=clock.SERVERS_MAX)]
    timeout: Annotated[int, Meta(ge=1, le=60)] = 5
    tolerant: bool = False


class Synced(Struct, frozen=True):
    synced: bool
    offset_s: float = 0.0
    delay_s: float = 0.0
    stepped: bool = False


@command("clock.sync", role="admin")
async def sync(ctx: Context, args: SyncArgs) -> Synced:
    """Correct the clock by NTP servers (an element may be a list with commas); an agent only measures.

    With `tolerant`, servers that do not answer are a warning and no error.
    """
    servers = [name.strip() for each in args.servers for name in each.split(",") if name.strip()]
    try:
        found = await clock.measure(servers, args.timeout)
    except Unavailable as error:
        if not args.tolerant:
            raise
        ctx.job.emit(Level.WARNING, str(error))
        return Synced(False)
    if ctx.jobs.own_pid != 1:
        return Synced(False, found.offset_s, found.delay_s)
    stepped = await clock.adjust(found.offset_s)
    return Synced(True, found.offset_s, found.delay_s, stepped)
