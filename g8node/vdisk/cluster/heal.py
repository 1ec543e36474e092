"""Copying shards while they are in use (async): to a server that missed changes, or over all other servers.

No block is locked. The target loses the fields in question first, while nothing changes; from then on every
change goes to it as well, over the one connection that also brings the copies. So HSETNX of a copied value
does nothing where a newer one arrived, and a field that was removed since is known (`dropped`) and left out.
A change that the target could not take ends the copying; it begins anew.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

from g8node.errors import Unavailable
from g8node.vdisk.cluster import scan
from g8node.vdisk.cluster.layout import HASH_BYTES
from g8node.vdisk.cluster.member import Member
from g8node.vdisk.cluster.shard import Copy, Shard, Touched


async def fill(shard: Shard, copy: Copy, key: str) -> None:
    """Give a copy what it missed. Unavailable; then all of that is still missed."""
    source = next((one.member for one in shard.in_step() if one.member.up), None)
    if source is None:
        raise Unavailable(f"shard {shard.number}: no server to copy from")
    async with shard.quiet():
        missed, copy.missed = copy.missed, set()
        copy.dropped.clear()
        try:
            await _forget(copy.member, key, missed)
        except BaseException:
            copy.missed = missed
            raise
        copy.syncing = True
    try:
        async for fields in scan.fields(source, key, missed):
            await copy.member.set_absent(key, fields, copy.dropped)
            _check(copy)
        async for contents in _contents(source, missed):
            await copy.member.once([("SET", one, data, "NX") for one, data in contents.items()])
            _check(copy)
    except BaseException:
        copy.syncing = False
        copy.missed = None if missed is None or copy.missed is None else missed | copy.missed
        raise


def _check(copy: Copy) -> None:
    if not copy.syncing:
        raise Unavailable(f"{copy.member!r} could not take a change while it was copied")


async def _forget(member: Member, key: str, missed: Collection[Touched] | None) -> None:
    if missed is None:
        await member.once([("DEL", key)])
        return
    for fields in scan.batches(one for one in missed if isinstance(one, int)):
        await member.once([("HDEL", key, *fields)])


async def spread(
    shard: Shard,
    shards: Sequence[Shard],
    key: str,
    *,
    now: Callable[[Touched], Shard],
    then: Callable[[Touched], Shard],
) -> None:
    """Copy a shard's fields and contents to where `then` says; its changes go there as well from now on."""
    ready = sorted(shard.in_step(), key=lambda one: one.member.role != "slave")
    if not ready:
        raise Unavailable(f"shard {shard.number}: no server to copy from")
    source = ready[0].member
    async with shard.quiet():  # nothing of an earlier attempt is under way
        shard.also = None
    for target in shards:
        if target is not shard and not target.moved:
            await _purge(target, shard, key, now)
    async with shard.quiet():
        shard.dropped.clear()
        shard.spread_broken = False
        shard.also = then
    async for fields in scan.fields(source, key, None):
        for target, part in _parted(fields, then).items():
            await target.put_absent(part, shard.dropped)
    async for contents in _contents(source, None):
        mine = {one: data for one, data in contents.items() if now(one) is shard}
        for target, part in _parted(mine, then).items():
            await target.put_contents(part)


async def _purge(target: Shard, shard: Shard, key: str, now: Callable[[Touched], Shard]) -> None:
    """Remove what an attempt that was broken off has left of the shard's fields elsewhere."""
    if not (ready := target.in_step()):
        return
    async for fields in scan.fields(ready[0].member, key, None):
        if left := [field for field in fields if now(field) is shard]:
            await target.drop(left)


def _parted(items: dict[Any, bytes], place: Callable[[Touched], Shard]) -> dict[Shard, dict[Any, bytes]]:
    parts: dict[Shard, dict[Any, bytes]] = {}
    for item, data in items.items():
        parts.setdefault(place(item), {})[item] = data
    return parts


async def _contents(source: Member, wanted: Collection[Touched] | None) -> AsyncIterator[dict[bytes, bytes]]:
    """Blocks under their hashes; those of other vdisks too, which cannot be told apart."""
    if wanted is not None:
        for hashes in scan.batches(one for one in wanted if isinstance(one, bytes)):
            yield await _contents_of(source, hashes)
        return
    cursor = b"0"
    while True:
        (reply,) = await source.call([("SCAN", cursor, "COUNT", scan.BATCH)])
        cursor, keys = scan.as_list(reply)
        if hashes := [one for one in keys if len(one) == HASH_BYTES]:
            yield await _contents_of(source, hashes)
        if cursor == b"0":
            return


async def _contents_of(source: Member, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
    (values,) = await source.call([("MGET", *hashes)])
    return {one: data for one, data in zip(hashes, scan.as_list(values), strict=True) if data is not None}
