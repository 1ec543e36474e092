"""corex.*: containers (async); spec core0-resources 1."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from g8node.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from g8node.jobs.arguments import CommandObject, ContainerId, Text
from g8node.jobs.commands import inside
from g8node.jobs.job import Job
from g8node.jobs.kinds import FlistName
from g8node.jobs.manager import Manager
from g8node.jobs.model import LOCAL, Command, Result, Role, decode_command
from g8node.jobs.registry import Context, command
from g8node.node import bundle, specs
from g8node.node.container import Container
from g8node.node.crun import Streams
from g8node.node.specs import Spec
from g8node.runtime.process import Child
from g8node.runtime.stdio import Process, Start


class NotThere(NotFound):
    """No container of that id: these commands answer 500, not 404 (spec core0-resources 1.1)."""

    status = 500


@command("corex.create")
async def create(ctx: Context, args: Spec) -> int:
    """Start a container; its id, as soon as its job `core-<id>` runs.

    Privileged containers and those with a mount from the host need the role admin.
    """
    _may(ctx, args)
    containers = ctx.node.containers
    container = await containers.prepare(msgspec.structs.replace(args, tags=ctx.job.request.tags))
    started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        _submit(ctx, container, started)
        await started
    except BaseException:
        containers.abandon(container)
        raise
    return container.id


def _may(ctx: Context, spec: Spec) -> None:
    """What makes a container as mighty as the node."""
    caller = ctx.job.request.caller or LOCAL
    if Role.named(caller.role) >= Role.ADMIN:
        return
    for field, asked in (("privileged", bool(spec.privileged)), ("mount", specs.mounts_host(spec))):
        if asked:
            raise PermissionDenied(f"{field}: needs the role admin, {caller.name} is {caller.role}")


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

    argv = specs.command(container.spec) or [bundle.INIT, "-P"]
    shown = Command.make(
        f"core-{container.id}",
        "core.system",
        {"name": argv[0], "args": argv[1:]},
        stream=ctx.job.request.stream,
        tags=ctx.job.request.tags,
        caller=ctx.job.request.caller,
    )
    return ctx.jobs.submit(
        shown,
        container=container.id,
        runner=lambda _: Process(argv=argv, start=start),
        on_end=ended,
    )


class LayerArgs(Struct, frozen=True):
    container: ContainerId
    flist: FlistName


@command("corex.flist-layer")
async def flist_layer(ctx: Context, args: LayerArgs) -> None:
    """Put an flist over the root of a running container, in place of the one put before.

    Its processes see it in what they open from now on; 409 names a process that could not. See docs/flist.md.
    """
    container = ctx.node.containers.get(args.container)
    _may(ctx, container.spec)
    await ctx.node.containers.put_layer(container.id, args.flist)


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
    if (network := container.network) is not None:
        arguments["nics"] = [wire.shown() for wire in network.wires]
        arguments["port"] = ctx.node.nics.ports(network)
    return {"arguments": arguments, "root": container.rootfs, "pid": container.pid}


class DispatchArgs(Struct, frozen=True):
    container: ContainerId
    command: CommandObject


@command("corex.dispatch")
def dispatch(ctx: Context, args: DispatchArgs) -> str:
    """Run a command inside a container; the id of its job, whose result comes as any other."""
    inner = msgspec.structs.replace(_inner(args.command), caller=ctx.job.request.caller)
    container = _live(ctx, args.container)
    _may(ctx, container.spec)
    return submit_inside(ctx.jobs, container, inner).id


def submit_inside(jobs: Manager, container: Container, inner: Command) -> Job:
    """A client's command as a job inside a container."""
    return jobs.submit(
        inner,
        container=container.id,
        internal=False,
        runner=lambda ctx: inside.run(ctx, container, _starter(ctx, container)),
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
    await ctx.node.containers.terminate(_live(ctx, args.container).id)


def _live(ctx: Context, id: int) -> Container:
    container = ctx.node.containers.find_id(id)
    if container is None:
        raise NotThere(f"container {id} does not exist")
    return container
