"""job.*: the job table (async)."""

from typing import Any

from msgspec import Struct

from g8node.errors import NotFound
from g8node.jobs.arguments import JobId, OptionalJobId, Signal
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


class UnscheduleArgs(Struct, frozen=True):
    id: JobId


@command("job.unschedule", base=True)
def unschedule(ctx: Context, args: UnscheduleArgs) -> bool:
    """No further run of a restarting or recurring job; false when there is no such job."""
    return _is_there(ctx, args.id) and ctx.jobs.unschedule(args.id)
