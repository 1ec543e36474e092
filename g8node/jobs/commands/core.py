"""core.*: the node itself (async)."""

import asyncio
import inspect
from dataclasses import asdict
from typing import Annotated, Any

from msgspec import Meta, Struct

from g8node.errors import Conflict, NotFound
from g8node.jobs import arguments
from g8node.jobs.arguments import CommandName, Data, JobId, Text, Variables
from g8node.jobs.job import Job, Listener
from g8node.jobs.model import Level, Message, Result
from g8node.jobs.outcome import Outcome
from g8node.jobs.registry import Context, Spec, command
from g8node.jobs.runs import KILLED_CODE
from g8node.runtime import logs
from g8node.runtime.stdio import Process


@command("core.ping", base=True, role="reader")
def ping(ctx: Context) -> str:
    """Answer with the node's version."""
    return f"PONG {ctx.node.inventory.banner()}"


class SystemArgs(Struct, frozen=True):
    name: Annotated[Text, Meta(min_length=1)]
    args: list[Text] = []
    dir: Text = ""
    env: Variables = {}
    stdin: Data = ""


@command("core.system", base=True, role="admin")
def system(ctx: Context, args: SystemArgs) -> Process:
    """Run a program; its output becomes the job's streams."""
    return Process(argv=[args.name, *args.args], env=args.env, cwd=args.dir or "/", stdin=args.stdin.encode())


@command("core.reboot", role="admin")
def reboot(ctx: Context) -> Outcome:
    """Stop everything and start the machine again."""
    return _shut_down(ctx, "reboot", "rebooting...")


@command("core.poweroff", role="admin")
def poweroff(ctx: Context) -> Outcome:
    """Stop everything and switch the machine off."""
    return _shut_down(ctx, "poweroff", "powering off...")


def _shut_down(ctx: Context, mode: str, text: str) -> Outcome:
    ctx.node.power.request("reboot" if mode == "reboot" else "poweroff")
    ctx.job.end(Level.STDOUT, text, ok=True)
    return Outcome("SUCCESS", streams=(text, ""))


@command("core.state", base=True, role="reader")
async def state(ctx: Context) -> dict[str, Any]:
    """CPU and memory of the node and its jobs summed, and how its subsystems do."""
    pids = {job.pid for job in ctx.jobs if job.pid} | {ctx.jobs.own_pid}
    usages = (await ctx.node.inventory.usage(pids)).values()
    totals = {key: sum(usage[key] for usage in usages) for key in ("cpu", "rss", "vms", "swap")}
    return totals | {
        "jobs": len(ctx.jobs.jobs),
        "subsystems": [asdict(status) for status in ctx.node.supervisor.status()],
        "stalls": len(ctx.node.watchdog.stalls),
        "watchdog": ctx.node.watchdog.state(),
        "last_error": trouble.text if (trouble := logs.trouble()) is not None else "",
        **{name: counters() for name, counters in ctx.jobs.counters.items()},
    }


class HelpArgs(Struct, frozen=True):
    command: CommandName = ""


@command("core.help", base=True, role="reader")
def help_(ctx: Context, args: HelpArgs) -> list[dict[str, Any]]:
    """The commands there are, or one of them: role, arguments with kind and default."""
    registry = ctx.jobs.registry
    names = [args.command] if args.command else registry.names()
    return [_described(registry.get(name)) for name in names]


def _described(spec: Spec) -> dict[str, Any]:
    return {
        "command": spec.name,
        "text": inspect.getdoc(spec.handler) or "",
        "role": spec.role.name.lower(),
        "base": spec.base,
        "arguments": arguments.described(spec.arguments),
    }


class SubscribeArgs(Struct, frozen=True):
    id: JobId
    follow: Annotated[bool, Meta(description="false: the backlog only")] = True


class _Following:
    """A subscription as what a job runs: a signal ends it."""

    pid = 0

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def signal(self, number: int) -> bool:
        if not self.ended.done():
            self.ended.set_result(None)
        return True


@command("core.subscribe", base=True, role="operator")
async def subscribe(ctx: Context, args: SubscribeArgs) -> Outcome:
    """Forward another job's backlog and messages as this job's own, until that job ends."""
    target = ctx.jobs.find(args.id)
    if target is None or not ctx.sees(target):
        raise NotFound(f"job '{args.id}' does not exist")
    _refuse_circle(ctx.job, target)

    def forward(message: Message) -> None:
        if not message.ended:
            ctx.job.emit(message.level, message.message)

    for message in tuple(target.backlog):
        forward(message)
    if not args.follow:
        return Outcome("SUCCESS", level=Level.STDOUT)
    result = await followed(ctx.job, target, forward)
    if result is None:
        return Outcome("ERROR", KILLED_CODE, "the subscription was killed", Level.STDERR)
    level = result.level or (Level.STDOUT if result.ok else Level.STDERR)
    return Outcome(result.state, result.code, result.data, level)


async def followed(job: Job, target: Job, forward: Listener) -> Result | None:
    """The result of the target, whose messages go on; None when a signal ends the subscription before."""
    following = _Following()
    job.attach(following)
    job.follows = target
    target.listeners.append(forward)
    result = asyncio.ensure_future(target.result())
    try:
        await asyncio.wait((result, following.ended), return_when=asyncio.FIRST_COMPLETED)
        return result.result() if result.done() else None
    finally:
        result.cancel()
        target.listeners.remove(forward)
        job.follows = job.run = None


def _refuse_circle(job: Job, target: Job) -> None:
    """Two jobs that wait for each other's end would never end."""
    link: Job | None = target
    while link is not None:
        if link is job:
            raise Conflict(f"job {target.id!r} follows this one")
        link = link.follows
