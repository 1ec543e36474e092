"""vdisk.*: block devices, served over NBD (async)."""

from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.jobs.registry import Context, command
from g8node.vdisk.cluster.settings import Nbd, Static
from g8node.vdisk.limits import Limits
from g8node.vdisk.record import (
    BLOCK_MAX,
    BLOCK_MIN,
    ID_MAX,
    SIZE_MAX,
    Kind,
    Record,
    Storage,
    StorageWish,
    storage_of,
)

Id = Annotated[
    str,
    Meta(
        extra={"kind": "vdisk"},
        pattern=rf"\A[!-~]{{1,{ID_MAX}}}\Z",
        description="1 to 80 printable ASCII characters, no space.",
    ),
]
Template = Annotated[
    str,
    Meta(
        extra={"kind": "vdisk or empty"},
        pattern=rf"\A[!-~]{{0,{ID_MAX}}}\Z",
        description="A vdisk that this one shows where it has nothing itself, read-only from then on.",
    ),
]
Size = Annotated[int, Meta(ge=BLOCK_MIN, le=SIZE_MAX, description="Bytes, a multiple of the block size.")]
Iops = Annotated[int, Meta(ge=0, le=1 << 50, description="Requests a second; 0: no limit.")]
BytesS = Annotated[int, Meta(ge=0, le=1 << 50, description="Bytes a second; 0: no limit.")]
BurstMs = Annotated[int, Meta(ge=1, le=3_600_000, description="Unused rate of so long may be used at once.")]


Cluster = Annotated[
    str,
    Meta(
        extra={"kind": "vdisk or empty"},
        pattern=rf"\A[!-~]{{0,{ID_MAX}}}\Z",
        description="A storage cluster of `vdisk.config`; empty: none.",
    ),
]
GIB: Final = 1 << 30


class CreateArgs(Struct, frozen=True):
    id: Id
    size: Size
    type: Kind = "db"
    block_size: Annotated[int, Meta(ge=BLOCK_MIN, le=BLOCK_MAX, description="A power of two.")] = 4096
    read_only: bool = False
    encrypted: bool = False
    storage: Annotated[StorageWish, Meta(description="Empty: dedup for boot disks and with a template.")] = ""
    template: Template = ""
    iops: Iops = 0
    bytes_s: BytesS = 0
    burst_ms: BurstMs = 1000
    cluster: Cluster = ""
    template_cluster: Cluster = ""
    slave_cluster: Cluster = ""


class Counted(Struct, frozen=True):
    """Requests and bytes since the vdisk was opened."""

    read_ops: int
    write_ops: int
    flush_ops: int
    trim_ops: int
    zero_ops: int
    read_bytes: int
    write_bytes: int
    trim_bytes: int
    zero_bytes: int


class Info(Struct, frozen=True):
    """`used` are bytes on the disk, without the content that deduplicated vdisks share, and 0 on a `cluster`;
    `uri` is for clients here; `counters` only while it is open."""

    id: str
    type: Kind
    size: int
    block_size: int
    read_only: bool
    encrypted: bool
    storage: Storage
    template: str
    limits: Limits
    created: int
    used: int
    connections: int
    uri: str
    cluster: str = ""
    counters: Counted | None = None


def _uri(ctx: Context, vdisk: str) -> str:
    """For clients here."""
    return f"nbd+unix:///{quote(vdisk, safe='')}?socket={quote(ctx.node.blocks.socket)}"


async def _info(ctx: Context, vdisk: str) -> Info:
    found = await ctx.node.blocks.info(vdisk)
    fields: dict[str, Any] = found | {
        "uri": _uri(ctx, vdisk),
        "counters": found["counters"] or None,
    }
    return msgspec.convert(fields, Info)


@command("vdisk.create", role="admin")
async def create(ctx: Context, args: CreateArgs) -> Info:
    """Make an empty vdisk; it takes space only for what is written. Encryption needs `vdisk.key_file`.

    With `cluster` it lies there, if `vdisk.config` is etcd: GiB, deduplicated if a boot disk.
    """
    if args.cluster:
        await _create_on_cluster(ctx, args)
        return await _info(ctx, args.id)
    for name in ("template_cluster", "slave_cluster"):
        if getattr(args, name):
            raise InvalidArgument(f"{name}: expected a cluster")
    record = Record(
        id=args.id,
        type=args.type,
        size=args.size,
        block_size=args.block_size,
        read_only=args.read_only,
        storage=storage_of(args.storage, args.type, template=args.template, encrypted=args.encrypted),
        template=args.template,
        limits=Limits(args.iops, args.bytes_s, args.burst_ms / 1000),
    )
    await ctx.node.blocks.vdisks.create(record, encrypted=args.encrypted)
    return await _info(ctx, args.id)


async def _create_on_cluster(ctx: Context, args: CreateArgs) -> None:
    """InvalidArgument for what vdisks on clusters do not have."""
    storage = "dedup" if args.type == "boot" else "plain"
    for name, wrong in (
        ("encrypted", args.encrypted),
        ("storage", args.storage not in ("", storage)),
        ("size", args.size % GIB),
    ):
        if wrong:
            expected = "a multiple of 1 GiB" if name == "size" else "none of it on a cluster"
            raise InvalidArgument(f"{name}: expected {storage if name == 'storage' else expected}")
    limits = Limits(args.iops, args.bytes_s, args.burst_ms / 1000)
    static = Static(args.block_size, args.size // GIB, args.type, args.read_only, args.template, limits)
    static.check()
    nbd = Nbd(args.cluster, args.template_cluster, args.slave_cluster)
    await ctx.node.blocks.on_clusters.create(args.id, static, nbd)


@command("vdisk.list", role="reader")
async def list_(ctx: Context) -> list[Info]:
    """The node's own vdisks, by id; `vdisk.clusters` has those on clusters."""
    return [await _info(ctx, record.id) for record in ctx.node.blocks.vdisks.records()]


class IdArgs(Struct, frozen=True):
    id: Id


@command("vdisk.info", role="reader")
async def info(ctx: Context, args: IdArgs) -> Info:
    """One vdisk, with what it has done since it was opened."""
    return await _info(ctx, args.id)


class ResizeArgs(Struct, frozen=True):
    id: Id
    size: Size


@command("vdisk.resize", role="admin")
async def resize(ctx: Context, args: ResizeArgs) -> Info:
    """Grow a vdisk, also one in use: clients see it when they connect again. 409 for less.

    On clusters to GiB, and only if `vdisk.config` is etcd.
    """
    await ctx.node.blocks.resize(args.id, args.size)
    return await _info(ctx, args.id)


class LimitArgs(Struct, frozen=True):
    id: Id
    iops: Iops = 0
    bytes_s: BytesS = 0
    burst_ms: BurstMs = 1000


@command("vdisk.limit", role="admin")
async def limit(ctx: Context, args: LimitArgs) -> Info:
    """Other limits of rate, at once and for good; on clusters if `vdisk.config` is etcd."""
    await ctx.node.blocks.limit(args.id, Limits(args.iops, args.bytes_s, args.burst_ms / 1000))
    return await _info(ctx, args.id)


class CopyArgs(Struct, frozen=True):
    id: Id
    target: Id


@command("vdisk.copy", role="admin")
async def copy(ctx: Context, args: CopyArgs) -> Info:
    """A new vdisk with the same content; 409 while somebody may write.

    On clusters the target is made in etcd; a file must have it already, without blocks.
    """
    await ctx.node.blocks.copy(args.id, args.target)
    return await _info(ctx, args.target)


@command("vdisk.delete", role="admin")
async def delete(ctx: Context, args: IdArgs) -> None:
    """Remove a vdisk and its data; 409 while it is in use. A file with vdisks on clusters keeps its entry."""
    await ctx.node.blocks.delete(args.id)


@command("vdisk.check", role="operator")
async def check(ctx: Context, args: IdArgs) -> list[str]:
    """Read everything; what is damaged, for a person. Not for vdisks on clusters, whose reads check that."""
    return await ctx.node.blocks.check(args.id)


class GcArgs(Struct, frozen=True):
    bytes_s: BytesS = 256 << 20


class Collected(Struct, frozen=True):
    """Bytes of one pool's content that were given back, and that stayed.

    `problem`: why nothing, or not all, was given back.
    """

    block_size: int
    encrypted: bool
    freed: int
    kept: int
    problem: str


@command("vdisk.gc", role="admin")
async def gc(ctx: Context, args: GcArgs) -> list[Collected]:
    """Give back the space of deduplicated content that no vdisk has any more; 409 while that is going on."""
    return msgspec.convert(await ctx.node.blocks.vdisks.gc(args.bytes_s), list[Collected])


class GcClusterArgs(Struct, frozen=True):
    cluster: Annotated[
        str,
        Meta(
            extra={"kind": "vdisk"},
            pattern=rf"\A[!-~]{{1,{ID_MAX}}}\Z",
            description="A storage cluster of `vdisk.config`.",
        ),
    ]
    bytes_s: BytesS = 64 << 20


class CollectedThere(Struct, frozen=True):
    """Blocks and bytes of a cluster's content that were removed, and blocks that stayed, slaves included."""

    blocks: int
    bytes: int
    kept: int


@command("vdisk.gc-cluster", role="admin")
async def gc_cluster(ctx: Context, args: GcClusterArgs) -> CollectedThere:
    """Remove content that no deduplicated vdisk of a cluster names, beside writers; all servers must answer.

    What was used in the last quarter of an hour stays. Clones elsewhere must be in the configuration.
    """
    done = await ctx.node.blocks.on_clusters.vdisks.collect(args.cluster, bytes_s=args.bytes_s)
    return CollectedThere(done.blocks, done.bytes, done.kept)


class OnServer(Struct, frozen=True):
    """One redis-protocol server of a vdisk. `in_step`: it has all that was written; `reason`: if down."""

    server: str
    type: str
    state: str
    in_step: bool
    retries: int
    reason: str


class OnClusters(Struct, frozen=True):
    """`servers` and `counters` only while it is in use."""

    id: str
    type: Kind
    size: int
    connections: int
    uri: str
    servers: list[OnServer]
    counters: Counted | None = None


@command("vdisk.clusters", role="reader")
async def clusters(ctx: Context) -> list[OnClusters]:
    """The vdisks on clusters of servers, as `vdisk.config` has them, and the states of their servers."""
    remote = ctx.node.blocks.remote
    rows = remote.states() if remote is not None else []
    return [
        msgspec.convert(row | {"uri": _uri(ctx, row["id"]), "counters": row["counters"] or None}, OnClusters)
        for row in rows
    ]
