"""logger.*: the node's log level, and log records for subscribers (async); spec core0-protocol 4.4."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument, Unavailable
from g8node.jobs.arguments import Text
from g8node.jobs.loggers import Loggers
from g8node.jobs.registry import Context, command
from g8node.runtime import logs

_LEVELS: Final = {
    "CRITICAL": "critical",
    "ERROR": "error",
    "WARNING": "warning",
    "NOTICE": "warning",  # the node has no records between info and warning
    "INFO": "info",
    "DEBUG": "debug",
}


class LevelArgs(Struct, frozen=True):
    level: Annotated[
        str,
        Meta(
            extra={"kind": "log level"},
            description="CRITICAL, ERROR, WARNING, NOTICE, INFO or DEBUG in any case",
        ),
    ]


@command("logger.set_level", role="admin")
def set_level(ctx: Context, args: LevelArgs) -> None:
    """Change what the node's own log shows."""
    level = _LEVELS.get(args.level.upper())
    if level is None:
        raise InvalidArgument(f"invalid log level: {args.level[:80]}", hint=", ".join(_LEVELS))
    logs.set_level(level)


@command("logger.reopen", role="admin")
def reopen(ctx: Context) -> None:
    """Begin a new log file; the old one becomes `core.log.YYYYMMDD-HHMMSS`. An agent's log is its stderr."""
    logs.reopen()


class SubscribeArgs(Struct, frozen=True):
    queue: Annotated[
        str, Meta(max_length=128, extra={"kind": "list"}, description="name of the list; none: a fresh one")
    ] = ""
    levels: Annotated[
        list[Annotated[int, Meta(ge=0, le=99_999)]],
        Meta(max_length=64, description="levels wanted; empty: all"),
    ] = []


@command("logger.subscribe")
def subscribe(ctx: Context, args: SubscribeArgs) -> str:
    """Copy the log records of all jobs to a list, the last 1000 first; the list's key."""
    return _loggers(ctx).subscribe(args.queue, args.levels)


class UnsubscribeArgs(Struct, frozen=True):
    queue: Annotated[Text, Meta(description="full key, as logger.subscribe answered")] = ""


@command("logger.unsubscribe")
async def unsubscribe(ctx: Context, args: UnsubscribeArgs) -> None:
    """End a subscription; the list, with all that was said before, stays."""
    await _loggers(ctx).unsubscribed(args.queue)


def _loggers(ctx: Context) -> Loggers:
    if ctx.jobs.loggers is None:
        raise Unavailable("loggers are not ready yet", hint="the node is starting")
    return ctx.jobs.loggers
