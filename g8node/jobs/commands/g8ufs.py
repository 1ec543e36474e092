"""g8ufs.*: mounted flists and the chunk cache (async)."""

import base64
from typing import Annotated, Any

from msgspec import Meta, Struct

from g8node.jobs.arguments import PATH_BYTES_MAX, Path
from g8node.jobs.kinds import FlistName
from g8node.jobs.registry import Context, command

FlistOrDigest = Annotated[
    str,
    Meta(
        max_length=PATH_BYTES_MAX,
        pattern=r"\A(?:(?:/|file:///|https?://)[^\x00]*|[0-9a-f]{64})\Z",
        extra={"kind": "flist"},
        description="as for g8ufs.pin, or the flist's digest",
    ),
]
StoreUrl = Annotated[
    str,
    Meta(
        max_length=PATH_BYTES_MAX,
        pattern=r"\A[^\x00]*\Z",
        extra={"kind": "storage"},
        description="chunk store; empty: as a container would have it",
    ),
]


@command("g8ufs.list", role="reader")
async def list_(ctx: Context) -> list[dict[str, Any]]:
    """The mounted flists: where, from which stores, and what their readers asked for."""
    return await ctx.node.flists.shown()


@command("g8ufs.stats", role="reader")
async def stats(ctx: Context) -> dict[str, Any]:
    """Reads, fetches and the cache, all mounts together; how the chunk stores do."""
    return ctx.node.flists.stats()


class PrefetchArgs(Struct, frozen=True):
    flist: FlistName
    storage: StoreUrl = ""
    paths: Annotated[
        list[Path],
        Meta(max_length=1000, description="files and folders inside; none: everything"),
    ] = []


@command("g8ufs.prefetch")
async def prefetch(ctx: Context, args: PrefetchArgs) -> dict[str, Any]:
    """Fetch an flist and its chunks into the cache: `{chunks, size_bytes, cached, failed, error}`."""
    return await ctx.node.flists.prefetch(args.flist, storage=args.storage, paths=args.paths)


class FlistArgs(Struct, frozen=True):
    flist: FlistName


@command("g8ufs.pin")
async def pin(ctx: Context, args: FlistArgs) -> dict[str, Any]:
    """Never evict an flist and its chunks, those fetched later included: `{digest, chunks, size_bytes}`.

    Pins live as long as the cache does; together they take half of it at most (503).
    """
    return await ctx.node.flists.pin(args.flist)


@command("g8ufs.profile")
async def profile(ctx: Context, args: FlistArgs) -> dict[str, Any]:
    """What a start of the flist reads first, for its Hub: `{digest, chunks, profile}`, the last in base64.

    It is there once a container of the flist has ended or has run for 30 s (404 before).
    """
    digest, chunks, data = await ctx.node.flists.profile(args.flist)
    return {"digest": digest, "chunks": chunks, "profile": base64.b64encode(data).decode()}


class UnpinArgs(Struct, frozen=True):
    flist: FlistOrDigest


@command("g8ufs.unpin")
async def unpin(ctx: Context, args: UnpinArgs) -> bool:
    """Undo g8ufs.pin; false when it was not pinned."""
    return await ctx.node.flists.unpin(args.flist)


@command("g8ufs.drop", role="admin")
async def drop(ctx: Context) -> int:
    """Empty the chunk cache but for what is pinned; the bytes that became free."""
    return await ctx.node.flists.drop()
