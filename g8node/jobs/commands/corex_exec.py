"""corex.exec, job.input, job.resize: a program in a container that a client talks with (async)."""

import base64
import contextlib
import os
import shlex
from typing import Annotated

from msgspec import Meta, Struct

from g8node.errors import Conflict, InvalidArgument, NotFound
from g8node.jobs.arguments import ContainerId, JobId, Text, Variables
from g8node.jobs.commands import corex
from g8node.jobs.interactive import Session
from g8node.jobs.outcome import Outcome
from g8node.jobs.registry import Context, command
from g8node.node.container import Container
from g8node.node.crun import Streams
from g8node.node.specs import check_user

_Size = Annotated[int, Meta(ge=1, le=10000)]


class ExecArgs(Struct, frozen=True):
    container: ContainerId
    command: Annotated[
        Annotated[str, Meta(extra={"kind": "command line"})] | list[Text],
        Meta(description="program and arguments; a string is split as a shell would"),
    ]
    env: Variables = {}
    dir: Annotated[
        str,
        Meta(
            pattern=r"\A(?:|/[^\x00]*)\Z",
            extra={"kind": "folder inside"},
            description="empty: the container's own",
        ),
    ] = ""
    user: Annotated[
        str, Meta(extra={"kind": "user"}, description="name or uid, and :group; empty: the container's")
    ] = ""
    tty: Annotated[bool, Meta(description="run it on a terminal")] = False
    stdin: Annotated[bool, Meta(description="it reads what job.input sends")] = False
    rows: _Size = 24
    columns: _Size = 80


@command("corex.exec")
async def exec_(ctx: Context, args: ExecArgs) -> Outcome:
    """Run a program in a container and talk with it: its output comes as it is, without levels.

    Send this with `stream`, follow `stream:<id>`, send input with job.input and sizes with job.resize.
    """
    check_user(args.user)
    words = _words(args.command)
    container = ctx.node.containers.get(args.container)
    corex.check_rights(ctx, container.spec)
    session = await (_on_terminal if args.tty else _on_pipes)(ctx, container, args, words)
    return await session.run()


def _words(command: str | list[str]) -> list[str]:
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise InvalidArgument(f"command: {error}", hint="give a list of words") from error
    if not words or not words[0] or any("\0" in word for word in words):
        raise InvalidArgument("command: expected a program and its arguments")
    return words


async def _on_terminal(ctx: Context, container: Container, args: ExecArgs, words: list[str]) -> Session:
    execs = ctx.node.containers.execs
    child, fd = await execs.start_terminal(
        container.id, words, env=args.env, cwd=args.dir, user=args.user or None
    )
    session = Session(ctx.job, child, ctx.jobs.valve)
    session.on_terminal(fd, args.rows, args.columns)
    return session


async def _on_pipes(ctx: Context, container: Container, args: ExecArgs, words: list[str]) -> Session:
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        out, err = _output(ours, theirs), _output(ours, theirs)
        stdin, write = _input(ours, theirs) if args.stdin else (_null(theirs), -1)
        child = await ctx.node.containers.exec(
            container.id,
            words,
            Streams(stdin, out[1], err[1]),
            env=args.env,
            cwd=args.dir,
            user=args.user or None,
        )
        ours.pop_all()
        session = Session(ctx.job, child, ctx.jobs.valve)
        session.on_pipes(write, out[0], err[0])
        return session


def _output(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write


def _input(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, write)
    theirs.callback(os.close, read)
    return read, write


def _null(theirs: contextlib.ExitStack) -> int:
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    theirs.callback(os.close, fd)
    return fd


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
    found = ctx.jobs.find(id)
    if found is None or not ctx.sees(found):
        raise NotFound(f"job {id!r} does not exist")
    if not isinstance(found.run, Session):
        raise Conflict(f"job {id!r} takes no input now")
    return found.run
