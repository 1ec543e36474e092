"""aggregator.*: statistics as they are aggregated now (async); spec core0-protocol 4.4 and 5.3."""

from typing import Annotated

from msgspec import Meta, Struct

from g8node.jobs.arguments import Text
from g8node.jobs.registry import Context, command
from g8node.wire.aggregate import State


class QueryArgs(Struct, frozen=True):
    key: Annotated[Text, Meta(description="exact name of the metric; none: all")] = ""
    tags: Annotated[dict[Text, Text], Meta(max_length=16, description="all must match; id is a tag")] = {}


@command("aggregator.query", role="reader")
def query(ctx: Context, args: QueryArgs) -> dict[str, State]:
    """The states of the matching series, by `<metric>[/<id>]`."""
    return ctx.node.stats.query(args.key, args.tags)
