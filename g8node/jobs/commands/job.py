"""job.*: the job table (async)."""

import base64
from typing import Annotated, Any

from msgspec import Meta, Struct

from g8node.errors import Conflict, InvalidArgument, NotFound
from g8node.jobs.arguments import JobId, OptionalJobId, Signal
from g8node.jobs.interactive import Session
from g8node.jobs.job import Job
from g8node.jobs.registry import Context, command

_NO_USAGE = {"cpu": 0.0, "rss": 0, "vms": 0, "swap": 0}


class ListArgs(Struct, frozen=True):
    id: OptionalJobId = ""


@command("job.list", base=True, role="reader")
async def list_(ctx: Context, args: ListArgs) -> list[dict[str, Any]]:
    """The jobs that are accepted and not finished, this one too; or the one asked for."""
    jobs = [job for job in ctx.jobs if ctx.sees(job)]
    if args.id:
        jobs = [job for job in jobs if job.id == args.id]
        if not jobs:
            raise NotFound(f"Process with id '{args.id}' doesn't exist")
    usages = await ctx.node.inventory.usage(job.pid for job in jobs if job.pid)
    return [_row(job, usages.get(job.pid, _NO_USAGE)) for job in jobs]


def _row(job: Job, usage: dict[str, Any]) -> dict[str, Any]:
    return {
        **usage,
        "starttime": job.started_ms or job.accepted_ms,
        "pid": job.pid,
        "cmd": job.request.listed(),
    }


class KillArgs(Struct, frozen=True):
    id: JobId
    signal: Signal = 15


@command("job.kill", base=True)
def kill(ctx: Context, args: KillArgs) -> bool:
    """Send a signal to a job's process group; false when there is no such job."""
    return _is_there(ctx, args.id) and ctx.jobs.kill(args.id, args.signal or 15)


def _is_there(ctx: Context, id: str) -> bool:
    """For the caller."""
    found = ctx.jobs.find(id)
    return found is not None and ctx.sees(found)


@command("job.killall", base=True, role="admin")
def killall(ctx: Context) -> bool:
    """Send SIGTERM to every job that is not protected."""
    ctx.jobs.kill_all()
    return True


class InputArgs(Struct, frozen=True):
    id: JobId
    data: Annotated[str, Meta(max_length=1 << 20, extra={"kind": "base64"}, description="bytes")] = ""
    close: Annotated[bool, Meta(description="the input ends after it")] = False


@command("job.input")
def input_(ctx: Context, args: InputArgs) -> None:
    """Send input to a job that takes it (corex.exec).

    503 while its process does not read, 409 after the end of the input.
    """
    try:
        data = base64.b64decode(args.data, validate=True)
    except ValueError as error:
        raise InvalidArgument(f"data: expected base64: {error}") from error
    _session(ctx, args.id).write(data, close=args.close)


class ResizeArgs(Struct, frozen=True):
    id: JobId
    rows: Annotated[int, Meta(ge=1, le=10000)]
    columns: Annotated[int, Meta(ge=1, le=10000)]


@command("job.resize")
def resize(ctx: Context, args: ResizeArgs) -> None:
    """Tell a job's terminal how large it is."""
    _session(ctx, args.id).resize(args.rows, args.columns)


def _session(ctx: Context, id: str) -> Session:
    if not _is_there(ctx, id):
        raise NotFound(f"job {id!r} does not exist")
    found = ctx.jobs.find(id)
    if found is None or not isinstance(found.run, Session):
        raise Conflict(f"job {id!r} takes no input now")
    return found.run


class UnscheduleArgs(Struct, frozen=True):
    id: JobId


@command("job.unschedule", base=True)
def unschedule(ctx: Context, args: UnscheduleArgs) -> bool:
    """No further run of a restarting or recurring job; false when there is no such job."""
    return _is_there(ctx, args.id) and ctx.jobs.unschedule(args.id)
