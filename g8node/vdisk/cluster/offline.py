"""What is done with vdisks on clusters that nobody uses meanwhile (async): removed, copied."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from g8node.errors import AlreadyExists, InvalidArgument, Unavailable
from g8node.runtime.resp import ReplyError
from g8node.vdisk.cluster import slotmirror
from g8node.vdisk.cluster.blocks import PlainBlocks
from g8node.vdisk.cluster.content import ContentBlocks
from g8node.vdisk.cluster.events import Tell
from g8node.vdisk.cluster.layout import HASH_BYTES, NO_HASH, SECTOR_BYTES, plain_key, sectors_key
from g8node.vdisk.cluster.ledger import key_of
from g8node.vdisk.cluster.locks import Locks
from g8node.vdisk.cluster.member import Member, Patience
from g8node.vdisk.cluster.open import open_blocks
from g8node.vdisk.cluster.settings import Server, StorageCluster, Vdisk
from g8node.vdisk.cluster.slotmirror import SlotMirror
from g8node.vdisk.cluster.slots import SlotServers


@asynccontextmanager
async def members(
    clusters: Iterable[StorageCluster | None], *, vdisk: str, patience: Patience, tell: Tell
) -> AsyncIterator[list[Member]]:
    """One for each server that is not gone, or is a master with slots; those of several clusters once."""
    servers: dict[tuple[str, int, Server], None] = {}
    for cluster in clusters:
        for server in await servers_of(cluster, patience, tell) if cluster is not None else ():
            servers[server.address, server.db, server] = None
    made = [
        Member(server, number, role="primary", vdisk=vdisk, patience=patience, tell=tell)
        for number, (_, _, server) in enumerate(servers)
    ]
    try:
        yield made
    finally:
        await asyncio.gather(*(member.close() for member in made))


async def servers_of(cluster: StorageCluster, patience: Patience, tell: Tell) -> list[Server]:
    """Those that have something. Unavailable."""
    if not cluster.has_slots:
        return [server for server in cluster.servers if server.state != "rip"]
    async with slots_of(cluster, patience, tell) as slots:
        return [slots.server(place) for place in slots.masters()]


@asynccontextmanager
async def slots_of(cluster: StorageCluster, patience: Patience, tell: Tell) -> AsyncIterator[SlotServers]:
    """A Redis Cluster. Unavailable."""
    slots = SlotServers(cluster, vdisk="", role="primary", patience=patience, tell=tell)
    try:
        await slots.open()
        yield slots
    finally:
        await slots.close()


async def remove(vdisk: Vdisk, *, patience: Patience, tell: Tell) -> None:
    """Take a vdisk's blocks, hashes and ledger off all its servers. Content stays: see `collect`.

    Unavailable when one of them does not answer; what the others had is gone then, and it may be done again.
    """
    name = vdisk.id
    if vdisk.storage.has_slots:
        await slotmirror.remove(vdisk.storage, vdisk=name, patience=patience, tell=tell)
        return
    data = [plain_key(name), sectors_key(name), f"semidedup:bitmap:{name}", f"tlog:{name}"]
    ledgers = [key_of(name), f"{key_of(name)}:flush"]
    async with members((vdisk.storage, vdisk.slave), vdisk=name, patience=patience, tell=tell) as servers:
        for keys in (data, ledgers):
            await _all(_remove(member, keys) for member in servers)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    results = await asyncio.gather(*work, return_exceptions=True)
    for failure in results:
        if isinstance(failure, BaseException):
            raise failure


async def _remove(member: Member, keys: Sequence[str]) -> None:
    """UNLINK frees large hashes beside what the server does; ARDB has only DEL."""
    for word in ("UNLINK", "DEL"):
        (reply,) = await member.call([(word, *keys)])
        if not isinstance(reply, ReplyError):
            return
    raise Unavailable(f"{member!r}: {reply}")


async def copy(source: Vdisk, target: Vdisk, *, patience: Patience, tell: Tell) -> None:
    """A vdisk with the bytes of another one. AlreadyExists when there are blocks of it; InvalidArgument.

    What fails is removed again.
    """
    _check(source, target)
    await _refuse_blocks(target, patience=patience, tell=tell)
    quiet = msgspec.structs.replace(source, static=msgspec.structs.replace(source.static, read_only=True))
    fresh = msgspec.structs.replace(target, static=msgspec.structs.replace(target.static, read_only=False))
    try:
        reader = await open_blocks(quiet, Locks(), patience=patience, tell=tell)
        try:
            writer = await open_blocks(fresh, Locks(), patience=patience, tell=tell)
            try:
                if isinstance(reader, ContentBlocks) and isinstance(writer, ContentBlocks):
                    await _copy_contents(reader, writer)
                elif isinstance(reader, PlainBlocks) and isinstance(writer, PlainBlocks):
                    await _copy_blocks(reader, writer)
                await writer.flush()
            finally:
                await writer.close()
        finally:
            await reader.close()
    except BaseException:
        await remove(target, patience=patience, tell=tell)
        raise


def _check(source: Vdisk, target: Vdisk) -> None:
    ours, theirs = source.static, target.static
    if ours.block_size != theirs.block_size:
        raise InvalidArgument(f"target: expected block size {ours.block_size}, not {theirs.block_size}")
    if theirs.size < ours.size:
        raise InvalidArgument(f"target: expected a size of {ours.size} GiB or more, not {theirs.size}")
    if (ours.type == "boot") != (theirs.type == "boot"):
        raise InvalidArgument(f"target: expected type {ours.type}, not {theirs.type}")
    if ours.type != "boot" and _shown(source) != _shown(target):
        raise InvalidArgument("target: expected the template that the source has")


def _shown(vdisk: Vdisk) -> tuple[str, StorageCluster | None]:
    """Which template a plain one shows."""
    if vdisk.template is None and not vdisk.static.template:
        return "", None
    return vdisk.static.template or vdisk.id, vdisk.template


async def _refuse_blocks(target: Vdisk, *, patience: Patience, tell: Tell) -> None:
    name = target.id
    if target.storage.has_slots:
        await _refuse_fields(target, patience=patience, tell=tell)
        return
    async with members((target.storage, target.slave), vdisk=name, patience=patience, tell=tell) as servers:
        for member in servers:
            replies = await member.call([("EXISTS", plain_key(name)), ("EXISTS", sectors_key(name))])
            if any(isinstance(reply, ReplyError) for reply in replies):
                raise Unavailable(f"{member!r}: {replies}")
            if any(replies):
                raise AlreadyExists(f"vdisk {name!r} has blocks on {member!r}", hint="delete it first")


async def _refuse_fields(target: Vdisk, *, patience: Patience, tell: Tell) -> None:
    for key in (plain_key(target.id), sectors_key(target.id)):
        there = SlotMirror(
            target.storage, vdisk=target.id, key=key, role="primary", patience=patience, tell=tell
        )
        try:
            await there.open(read_only=True)
            if await there.has_fields():
                raise AlreadyExists(f"vdisk {target.id!r} has blocks", hint="delete it first")
        finally:
            await there.close()


async def _copy_blocks(reader: PlainBlocks, writer: PlainBlocks) -> None:
    async for fields in reader.mirror.fields():
        _raise(await writer.mirror.put(fields))


async def _copy_contents(reader: ContentBlocks, writer: ContentBlocks) -> None:
    """The hashes, after their content, which is put in any case: so a collection knows that it is in use."""
    async for sectors in reader.mirror.fields():
        wanted = {hash for sector in sectors.values() for hash in _hashes(sector)}
        contents = await reader.contents(list(wanted))
        _raise({one: data for one, data in contents.items() if isinstance(data, Unavailable)})
        whole = {one: data for one, data in contents.items() if isinstance(data, bytes)}
        _raise(await writer.mirror.put_contents(whole))
        _raise(await writer.mirror.put(sectors))


def _hashes(sector: bytes) -> set[bytes]:
    if len(sector) != SECTOR_BYTES:
        raise Unavailable(f"a sector has {len(sector)} bytes")
    return {sector[at : at + HASH_BYTES] for at in range(0, SECTOR_BYTES, HASH_BYTES)} - {NO_HASH}


def _raise(failures: Mapping[bytes, Exception] | Mapping[int, Exception]) -> None:
    for failure in failures.values():
        raise failure
