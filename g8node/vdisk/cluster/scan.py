"""Walks over what servers hold (async)."""

from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.vdisk.cluster.member import Member

BATCH: Final = 128


async def fields(
    source: Member, key: str, wanted: Collection[int | bytes] | None
) -> AsyncIterator[dict[int, bytes]]:
    """What a hash holds, in pieces; of `wanted` fields only, if given."""
    if wanted is not None:
        for some in batches(one for one in wanted if isinstance(one, int)):
            (values,) = await source.call([("HMGET", key, *some)])
            yield {field: data for field, data in zip(some, as_list(values), strict=True) if data is not None}
        return
    cursor = b"0"
    while True:
        (reply,) = await source.call([("HSCAN", key, cursor, "COUNT", BATCH)])
        cursor, flat = as_list(reply)
        yield {int(field): data for field, data in zip(flat[::2], flat[1::2], strict=True)}
        if cursor == b"0":
            return


async def keys(source: Member, pattern: str = "*") -> AsyncIterator[list[bytes]]:
    """Its keys, in pieces; some perhaps twice."""
    cursor = b"0"
    while True:
        (reply,) = await source.call([("SCAN", cursor, "MATCH", pattern, "COUNT", 8 * BATCH)])
        cursor, found = as_list(reply)
        yield found
        if cursor == b"0":
            return


def batches(items: Iterable[Any]) -> Iterable[list[Any]]:
    everything = list(items)
    return (everything[at : at + BATCH] for at in range(0, len(everything), BATCH))


def as_list(reply: Any) -> list[Any]:
    if not isinstance(reply, list):
        raise Unavailable(f"a server answered {str(reply)[:200]} where a list was expected")
    return reply
