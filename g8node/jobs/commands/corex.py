"""corex.*: containers (async); spec core0-resources 1."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from g8node.errors import Conflict, InvalidArgument, NotFound, Unavailable
from g8node.jobs import discreet
from g8node.jobs.access import check_role, may_see
from g8node.jobs.arguments import CommandObject, ContainerId, Text
from g8node.jobs.commands import core, inside
from g8node.jobs.interactive import Session
from g8node.jobs.job import Job
from g8node.jobs.kinds import FlistName
from g8node.jobs.manager import Manager
from g8node.jobs.model import LOCAL, Command, Level, Result, Role, decode_command
from g8node.jobs.outcome import Outcome, success
from g8node.jobs.registry import Context, command
from g8node.node import adoption, backups, bundle, specs
from g8node.node.container import Container
from g8node.node.crun import Streams
from g8node.node.limits import Limits
from g8node.node.specs import Spec
from g8node.runtime import blocking
from g8node.runtime.process import Child
from g8node.runtime.stdio import Process, Start

T = TypeVar("T")


class NotThere(NotFound):
    """No container of that id: these commands answer 500, not 404 (spec core0-resources 1.1)."""

    status = 500


@command("corex.create")
async def create(ctx: Context, args: Spec) -> int:
    """Start a container; its id, as soon as its job `core-<id>` runs.

    Privileged containers and those with a mount or a device of the host need the role admin.
    """
    container, _ = await created(ctx, args)
    return container.id


@command("corex.create-sync")
async def create_sync(ctx: Context, args: Spec) -> Outcome:
    """Start a container as corex.create does, and wait for its end: the result is that of its process 1.

    A signal to this job is one to that process, its time limit ends the container. Meant for services.
    """
    container, job = await created(ctx, args)
    try:
        ctx.job.attach(_Inner(job))
        ended = await job.result()
    except BaseException:
        ctx.node.containers.abandon(container)
        raise
    finally:
        ctx.job.run = None
    return Outcome(ended.state, ended.code, ended.data, ended.level, ended.streams, ended.signal)


class _Inner:
    """Another job as what a job runs."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def pid(self) -> int:
        return self._job.pid

    def signal(self, number: int) -> bool:
        with contextlib.suppress(Conflict):  # it is not running
            self._job.kill(number)
        return True


async def created(ctx: Context, args: Spec) -> tuple[Container, Job]:
    check_rights(ctx, args)
    containers = ctx.node.containers
    spec = msgspec.structs.replace(args, tags=ctx.job.request.tags)
    container = await stoppable(ctx, containers.prepare(spec))
    started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        job = _submit(ctx, container, started)
        await started
    except BaseException:
        containers.abandon(container)
        raise
    return container, job


async def stoppable(ctx: Context, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, which a signal to the job gives up: it may take long."""
    working = asyncio.ensure_future(work)
    stopper = _Stopper(working)
    ctx.job.attach(stopper)
    try:
        return await working
    except asyncio.CancelledError:
        working.cancel()
        if not stopper.number:
            raise
        raise Unavailable(f"given up: signal {stopper.number}") from None
    finally:
        ctx.job.run = None


class _Stopper:
    """What a job waits for, as what a job runs."""

    pid = 0

    def __init__(self, task: "asyncio.Future[Any]") -> None:
        self._task = task
        self.number = 0

    def signal(self, number: int) -> bool:
        self.number = number
        return self._task.cancel()


def check_rights(ctx: Context, spec: Spec) -> None:
    """What makes a container as mighty as the node."""
    mighty = {
        "privileged": bool(spec.privileged),
        "mount": specs.mounts_host(spec),
        "devices": bool(spec.devices),
        "root": (repo := backups.of_root(spec.root)) is not None and repo.is_the_node_s,
    }
    for field, asked in mighty.items():
        if asked:
            check_role(ctx.job.request.caller or LOCAL, Role.ADMIN, f"{field}:")


def _submit(ctx: Context, container: Container, started: "asyncio.Future[None]") -> Job:
    """The job whose process is the container's PID 1; `started` gets the outcome of its start."""

    async def start(stdin: int, stdout: int, stderr: int) -> Child:
        try:
            child = await ctx.node.containers.start(container, Streams(stdin, stdout, stderr))
        except Exception as error:
            if not started.done():
                started.set_exception(error)
            raise
        if not started.done():
            started.set_result(None)
        return child

    def ended(job: Job, result: Result) -> None:
        if not started.done():
            started.set_exception(Unavailable(f"job {job.id} ended before the container had started"))

    argv = list(container.place.program.argv) or [bundle.INIT, "-P"]
    shown = Command.make(
        f"core-{container.id}",
        "core.system",
        {"name": argv[0], "args": argv[1:]},
        stream=ctx.job.request.stream,
        tags=ctx.job.request.tags,
        caller=ctx.job.request.caller,
    )
    job = ctx.jobs.submit(
        shown,
        container=container.id,
        runner=lambda _: Process(argv=argv, start=start),
        on_end=ended,
    )
    ctx.jobs.container_logs.keep(job)
    return job


def resume(jobs: Manager, container: Container, life: Child) -> None:
    """A job for a container that an earlier agent has started: its output goes on, without levels in it."""

    async def run(ctx: Context) -> Outcome:
        out, err = await blocking.run("path", adoption.outputs, life.pid)
        session = Session(ctx.job, life, ctx.jobs.valve)
        session.on_pipes(-1, out, err)
        return await session.run()

    argv = list(container.place.program.argv) or [bundle.INIT, "-P"]
    arguments = {"name": argv[0], "args": argv[1:]}
    shown = Command.make(f"core-{container.id}", "core.system", arguments, tags=container.spec.tags)
    jobs.container_logs.keep(jobs.submit(shown, container=container.id, runner=run))


class LayerArgs(Struct, frozen=True):
    container: ContainerId
    flist: FlistName


@command("corex.flist-layer")
async def flist_layer(ctx: Context, args: LayerArgs) -> None:
    """Put an flist over the root of a running container, in place of the one put before.

    Its processes see it in what they open from now on; 409 names a process that could not. See docs/flist.md.
    """
    container = ctx.node.containers.get(args.container)
    check_rights(ctx, container.spec)
    await ctx.node.containers.put_layer(container.id, args.flist)


class LimitsArgs(Struct, frozen=True):
    container: ContainerId
    limits: Annotated[Limits, Meta(description="what is not given stays, 0 lifts a limit")]


@command("corex.limits")
async def limits(ctx: Context, args: LimitsArgs) -> Limits:
    """Change what a running container may use; the limits that it has then."""
    return await ctx.node.containers.limit(args.container, args.limits)


class GcArgs(Struct, frozen=True):
    dry_run: Annotated[bool, Meta(description="only tell what would be removed")] = False


@command("core.gc", role="admin")
async def gc(ctx: Context, args: GcArgs) -> list[dict[str, Any]]:
    """Remove what belongs to no container: `[{kind, name, container}]`.

    Runtime states, processes, mounts, folders, control groups, links. The node does it by itself every ten
    minutes.
    """
    return await ctx.node.containers.collect(dry_run=args.dry_run)


class FindArgs(Struct, frozen=True):
    tags: list[Text] = []


@command("corex.list", role="reader")
async def list_(ctx: Context) -> dict[str, Any]:
    """The running containers by id, with what they use."""
    return await _rows(ctx, ctx.node.containers.all())


@command("corex.find", role="reader")
async def find(ctx: Context, args: FindArgs) -> dict[str, Any]:
    """The running containers that have all the tags, as corex.list shows them."""
    return await _rows(ctx, ctx.node.containers.find(args.tags))


class StatsArgs(Struct, frozen=True):
    container: ContainerId


@command("corex.stats", role="reader")
async def stats(ctx: Context, args: StatsArgs) -> dict[str, Any]:
    """What the whole container uses: processes, cpu, memory, io, since its start; bytes and seconds.

    `source` says whether its control group tells (with limits), or the sum of its processes.
    """
    return await ctx.node.containers.stats(args.container)


class LogsArgs(Struct, frozen=True):
    container: ContainerId
    tail: Annotated[int, Meta(ge=0, le=1 << 20, description="the last so many messages; 0: all")] = 0
    follow: Annotated[bool, Meta(description="go on until the container ends, as this job's messages")] = (
        False
    )


@command("corex.logs")
async def logs(ctx: Context, args: LogsArgs) -> Outcome:
    """What the container's process 1 has said lately, over its restarts: `[{epoch, level, message}]`.

    Also for a while after its end. With `follow` it becomes this job's own output, with all that comes.
    """
    log = ctx.jobs.container_logs.find(args.container)
    if log is None or not may_see(ctx.caller, log.owner):
        raise NotFound(f"container {args.container} has no log")
    messages = list(log.messages)[-args.tail :]
    if not args.follow:
        return success([{"epoch": m.epoch, "level": m.level, "message": m.message} for m in messages])
    for message in messages:
        ctx.job.emit(message.level, message.message)
    job = ctx.jobs.find(f"core-{args.container}")
    if job is not None and job.phase != "finished":
        await core.followed(ctx.job, job, lambda m: None if m.ended else ctx.job.emit(m.level, m.message))
    return Outcome("SUCCESS", level=Level.STDOUT)


class GetArgs(Struct, frozen=True):
    query: Annotated[
        Annotated[int, Meta(ge=1, le=65534, extra={"kind": "container id"})] | Text,
        Meta(description="id, or name in any case"),
    ]


@command("corex.get", role="reader")
def get(ctx: Context, args: GetArgs) -> dict[str, Any] | None:
    """One running container by id or name; null when there is none."""
    if isinstance(args.query, str):
        container = ctx.node.containers.find_name(args.query)
    elif 1 <= args.query <= 65534:
        container = ctx.node.containers.find_id(args.query)
    else:
        raise InvalidArgument(f"query: expected an id from 1 to 65534 or a name, got {args.query}")
    return None if container is None else {"container": _shown(ctx, container), "id": container.id}


async def _rows(ctx: Context, containers: list[Container]) -> dict[str, Any]:
    usages = await ctx.node.containers.usage(containers)
    pairs = zip(containers, usages, strict=True)
    return {str(container.id): usage | {"container": _shown(ctx, container)} for container, usage in pairs}


def _shown(ctx: Context, container: Container) -> dict[str, Any]:
    """For readers without what secrets are passed in."""
    spec = container.spec
    if ctx.caller.role == "reader":
        spec = msgspec.structs.replace(spec, env=None, config=None, command=None, storage=None)
    arguments: dict[str, Any] = msgspec.to_builtins(spec)
    arguments["root"] = discreet.text(spec.root)
    if (network := container.network) is not None:
        arguments["nics"] = [wire.shown() for wire in network.wires]
        arguments["port"] = ctx.node.nics.ports(network)
    shown: dict[str, Any] = {"arguments": arguments, "root": container.rootfs, "pid": container.pid}
    if container.live_flist:
        shown |= {"live_layer": container.live_flist}
    if container.may_restart:
        shown |= {"restarts": container.restarts.count}
    if container.health is not None:
        shown |= {"health": container.health}
    return shown


class DispatchArgs(Struct, frozen=True):
    container: ContainerId
    command: CommandObject


@command("corex.dispatch")
def dispatch(ctx: Context, args: DispatchArgs) -> str:
    """Run a command inside a container; the id of its job, whose result comes as any other."""
    inner = msgspec.structs.replace(_inner(args.command), caller=ctx.job.request.caller)
    container = live(ctx, args.container)
    check_rights(ctx, container.spec)
    return submit_inside(ctx.jobs, container, inner).id


def submit_inside(
    jobs: Manager, container: Container, inner: Command, *, internal: bool = False, **options: Any
) -> Job:
    """A client's command as a job inside a container; `options` are those of `Manager.submit`."""
    return jobs.submit(
        inner,
        container=container.id,
        internal=internal,
        runner=lambda ctx: inside.run(ctx, container, _starter(ctx, container)),
        **options,
    )


def _inner(raw: Raw) -> Command:
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"command: expected a command object: {error}") from error
    named = any(key.lower() == "id" and bytes(value) not in (b"null", b'""') for key, value in fields.items())
    if named:
        return decode_command(bytes(raw))
    # The manager gives it a fresh id.
    rest = {key: value for key, value in fields.items() if key.lower() != "id"}
    return msgspec.structs.replace(decode_command(msgspec.json.encode({**rest, "id": "-"})), id="")


def _starter(ctx: Context, container: Container) -> Callable[[Process], Start]:
    """How a host's Process becomes one inside."""

    def inside_of(process: Process) -> Start:
        async def start(stdin: int, stdout: int, stderr: int) -> Child:
            return await ctx.node.containers.exec(
                container.id,
                process.argv,
                Streams(stdin, stdout, stderr),
                env=process.env,
                cwd=process.cwd,
            )

        return start

    return inside_of


class TerminateArgs(Struct, frozen=True):
    container: ContainerId


@command("corex.terminate")
async def terminate(ctx: Context, args: TerminateArgs) -> None:
    """TERM, a while to end, KILL; returns when nothing of the container is left."""
    await ctx.node.containers.terminate(live(ctx, args.container).id)


def live(ctx: Context, id: int) -> Container:
    container = ctx.node.containers.find_id(id)
    if container is None:
        raise NotThere(f"container {id} does not exist")
    return container
