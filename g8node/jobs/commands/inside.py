"""What `corex.dispatch` can run in a container (async): the base commands that make sense there.

There is no agent inside. Programs are started in the container's namespaces by the OCI runtime; the other
commands are answered by the host, limited to the jobs and processes of that container. All else is
UNKNOWN_CMD, unless the container has a plugin of that name.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from g8node.errors import InvalidArgument, NodeError, NotFound, PermissionDenied
from g8node.jobs.commands import core, filesystem, ip, job, process
from g8node.jobs.job import Job
from g8node.jobs.outcome import Outcome
from g8node.jobs.registry import Context, Registry, decode_arguments
from g8node.node import plugins
from g8node.node.container import Container
from g8node.runtime.process import Child
from g8node.runtime.stdio import Process, Start

Starter = Callable[[Process], Start]
Answer = Callable[[Context, Container], Awaitable[Any] | Any]


def run(ctx: Context, container: Container, starter: Starter) -> Any:
    """The body of a dispatched job."""
    name = ctx.job.request.command
    if name in _PROGRAMS:
        started: Process = ctx.jobs.registry.get(name).call(ctx, ctx.job.request.arguments)
        _check(started)
        return replace(started, start=starter(started))
    if name in _ON_ITS_OWN:
        return _on_its_own(ctx, container)
    if name in _AS_ON_HOST:
        return ctx.jobs.registry.get(name).call(ctx, ctx.job.request.arguments)
    answer = _ANSWERS.get(name)
    return _plugin(ctx, container, starter) if answer is None else answer(ctx, container)


async def _plugin(ctx: Context, container: Container, starter: Starter) -> Any:
    """A command that the container brings itself; its program is run in it as any other."""
    text = await (await ctx.node.containers.inner(container)).text(plugins.PATH)
    found = plugins.find(text, ctx.job.request.command)
    if found is None:
        return Outcome("UNKNOWN_CMD")
    domain, plugin, function = found
    process = Process(argv=[plugin.path, function, bytes(ctx.job.request.arguments).decode()])
    _check(process)
    start = starter(process)
    return replace(process, start=_in_turn(container, domain, start) if plugin.queue else start)


def _in_turn(container: Container, domain: str, start: Start) -> Start:
    """One after another; the turn ends with the process."""
    lock = container.turns.setdefault(domain, asyncio.Lock())

    async def started(stdin: int, stdout: int, stderr: int) -> Child:
        await lock.acquire()
        try:
            child = await start(stdin, stdout, stderr)
        except BaseException:
            lock.release()
            raise
        child.exited.add_done_callback(lambda _: lock.release())
        return child

    return started


async def _on_its_own(ctx: Context, container: Container) -> Any:
    """Files and links: the host's handler, with the container's in place of the node's."""
    name = ctx.job.request.command
    if name in _CHANGES_NETWORK and not container.spec.privileged:
        raise PermissionDenied(f"{name}: container {container.id} is not privileged")
    inner = await ctx.node.containers.inner(container)
    view = replace(ctx, node=ctx.node.inside(inner.files, inner.links))
    answer = ctx.jobs.registry.get(name).call(view, ctx.job.request.arguments)
    return await answer if inspect.isawaitable(answer) else answer


def _check(started: Process) -> None:
    if not started.argv[0]:
        raise InvalidArgument("name: expected the name of a program, got an empty string")
    texts = [*started.argv, started.cwd, *(started.env or {}), *(started.env or {}).values()]
    if any("\0" in text for text in texts):
        raise InvalidArgument("a NUL character cannot be passed to a process")
    if any(not name or "=" in name for name in started.env or {}):
        raise InvalidArgument("env: expected names that are not empty and have no '='")


def _own(ctx: Context, container: Container, id: str) -> Job | None:
    """A job that was dispatched into this container; its PID 1 and the host's jobs are out of reach."""
    found = ctx.jobs.find(id)
    if found is None or found.container != container.id or found.id == f"core-{container.id}":
        return None
    return found if ctx.sees(found) else None


async def _job_list(ctx: Context, container: Container) -> list[dict[str, Any]]:
    args = decode_arguments(ctx.job.request.arguments, job.ListArgs)
    assert isinstance(args, job.ListArgs)
    if args.id and _own(ctx, container, args.id) is None:
        raise NotFound(f"Process with id '{args.id}' doesn't exist")
    rows = await job.list_(ctx, args)
    return [row for row in rows if _own(ctx, container, row["cmd"]["id"]) is not None]


def _job_kill(ctx: Context, container: Container) -> bool:
    args = decode_arguments(ctx.job.request.arguments, job.KillArgs)
    assert isinstance(args, job.KillArgs)
    return _own(ctx, container, args.id) is not None and job.kill(ctx, args)


def _job_unschedule(ctx: Context, container: Container) -> bool:
    args = decode_arguments(ctx.job.request.arguments, job.UnscheduleArgs)
    assert isinstance(args, job.UnscheduleArgs)
    return _own(ctx, container, args.id) is not None and job.unschedule(ctx, args)


def _job_killall(ctx: Context, container: Container) -> bool:
    ctx.jobs.kill_all(keep=lambda other: _own(ctx, container, other.id) is None)
    return True


def _subscribe(ctx: Context, container: Container) -> Awaitable[Outcome]:
    args = decode_arguments(ctx.job.request.arguments, core.SubscribeArgs)
    assert isinstance(args, core.SubscribeArgs)
    if _own(ctx, container, args.id) is None:
        raise NotFound(f"job '{args.id}' does not exist")
    return core.subscribe(ctx, args)


async def _process_list(ctx: Context, container: Container) -> list[dict[str, Any]]:
    """Pids are those that the container's processes see."""
    args = decode_arguments(ctx.job.request.arguments, process.ListArgs)
    assert isinstance(args, process.ListArgs)
    inner = await ctx.node.containers.processes(container)
    rows = []
    for outside, pid in sorted(inner.items(), key=lambda pair: pair[1]):
        if args.pid <= 0 or args.pid == pid:
            for row in await ctx.node.inventory.processes(outside):
                rows.append(row | {"pid": pid, "ppid": inner.get(row["ppid"], 0)})
    return rows


async def _process_kill(ctx: Context, container: Container) -> None:
    args = decode_arguments(ctx.job.request.arguments, process.KillArgs)
    assert isinstance(args, process.KillArgs)
    if args.pid <= 1:
        raise InvalidArgument("invalid PID")
    inner = await ctx.node.containers.processes(container)
    for outside, pid in inner.items():
        if pid == args.pid:
            await ctx.node.inventory.kill(outside, args.signal)
            return
    raise NodeError(f"process {args.pid}: no such process")


async def _os(ctx: Context, container: Container) -> dict[str, Any]:
    inner = await ctx.node.containers.inner(container)
    return await inner.system(len(await ctx.node.containers.processes(container)))


async def _nic(ctx: Context, container: Container) -> list[dict[str, Any]]:
    return await (await ctx.node.containers.inner(container)).nics()


async def _port(ctx: Context, container: Container) -> list[dict[str, Any]]:
    inner = await ctx.node.containers.inner(container)
    return await inner.ports(await ctx.node.containers.processes(container))


async def _disk(ctx: Context, container: Container) -> list[dict[str, Any]]:
    return await (await ctx.node.containers.inner(container)).disks()


async def _state(ctx: Context, container: Container) -> dict[str, Any]:
    """What the whole container uses, `{cpu, rss, vms, swap}`."""
    (used,) = await ctx.node.containers.usage([container])
    return used


def _help(ctx: Context, container: Container) -> list[dict[str, Any]]:
    args = decode_arguments(ctx.job.request.arguments, core.HelpArgs)
    assert isinstance(args, core.HelpArgs)
    if args.command and args.command not in DISPATCHED:
        raise NotFound(f"unknown command {args.command!r}")
    return [row for row in core.help_(ctx, args) if row["command"] in DISPATCHED]


_PROGRAMS: Final = frozenset({"core.system", "bash"})
_AS_ON_HOST: Final = frozenset({"core.ping", "info.version", "info.cpu", "info.mem"})
_ON_ITS_OWN: Final = frozenset(Registry((filesystem, ip)).names())
_CHANGES_NETWORK: Final = frozenset(
    name for name in _ON_ITS_OWN if name.startswith("ip.") and not name.endswith(".list")
)
_ANSWERS: Final[dict[str, Answer]] = {
    "job.list": _job_list,
    "job.kill": _job_kill,
    "job.unschedule": _job_unschedule,
    "job.killall": _job_killall,
    "core.subscribe": _subscribe,
    "process.list": _process_list,
    "process.kill": _process_kill,
    "core.state": _state,
    "core.help": _help,
    "info.os": _os,
    "info.nic": _nic,
    "info.port": _port,
    "info.disk": _disk,
}

DISPATCHED: Final = _PROGRAMS | _AS_ON_HOST | _ON_ITS_OWN | _ANSWERS.keys()
"""What containers answer."""
