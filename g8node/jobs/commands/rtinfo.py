"""rtinfo.*: the monitoring agent `rtinfo-client` as jobs of the node (async); spec core0-resources 4.4."""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from g8node.errors import AlreadyExists
from g8node.jobs.job import Job
from g8node.jobs.model import Command
from g8node.jobs.registry import Context, command
from g8node.node import programs
from g8node.runtime import blocking

_PROGRAM: Final = "rtinfo-client"
_PREFIX: Final = "rtinfo/"
_NOT_ACCEPTABLE: Final = 406  # the original's code for a second one

Host = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9\[][A-Za-z0-9.:\[\]-]*\Z",
        max_length=255,
        extra={"kind": "host"},
        description="name or address",
    ),
]
Port = Annotated[int, Meta(ge=1, le=65535)]
Disk = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=64, extra={"kind": "disk"})]


class StartArgs(Struct, frozen=True):
    host: Host
    port: Port
    disks: Annotated[list[Disk], Meta(max_length=64, description="prefixes of disks; empty: all")] = []


@command("rtinfo.start", role="admin")
async def start(ctx: Context, args: StartArgs) -> None:
    """Report to a server of rtinfo; 406 when that is done already, 503 when the node has no rtinfo-client."""
    program = await blocking.run("disk", programs.find, _PROGRAM)
    id = f"{_PREFIX}{args.host}:{args.port}"
    if ctx.jobs.find(id) is not None:
        refusal = AlreadyExists(f"{args.host}:{args.port} is reported to already")
        refusal.status = _NOT_ACCEPTABLE
        raise refusal
    words = ["--host", args.host, "--port", str(args.port)]
    words += [word for disk in args.disks for word in ("--disk", disk)]
    ctx.jobs.submit(Command.make(id, "core.system", {"name": program, "args": words}, tags=list(args.disks)))


@command("rtinfo.list", role="reader")
def list_(ctx: Context) -> dict[str, dict[str, Any]]:
    """`host:port` -> host, port and disks of each that runs."""
    found = {}
    for job in _running(ctx):
        address = job.id.removeprefix(_PREFIX)
        host, _, port = address.rpartition(":")
        found[address] = {"host": host, "port": int(port), "disks": job.request.tags or []}
    return found


def _running(ctx: Context) -> list[Job]:
    return [job for job in ctx.jobs if job.internal and job.id.startswith(_PREFIX)]


class StopArgs(Struct, frozen=True):
    host: Host
    port: Port


@command("rtinfo.stop", role="admin")
def stop(ctx: Context, args: StopArgs) -> None:
    """End one with SIGTERM; nothing happens when there is none."""
    id = f"{_PREFIX}{args.host}:{args.port}"
    if any(job.id == id for job in _running(ctx)):
        ctx.jobs.kill(id, 15)
