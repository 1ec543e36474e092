"""volume.*: folders with a name that outlive containers (async)."""

from typing import Annotated

from msgspec import Meta, Struct, convert

from g8node.jobs.registry import Context, command
from g8node.node.volumespec import VolumeName, VolumeSize


class Volume(Struct, frozen=True, kw_only=True):
    """`size` in bytes, 0 for no limit; `created` in ms since the epoch; `containers` have it."""

    name: str
    size: int
    created: int
    containers: list[int]


class Inspected(Volume, frozen=True, kw_only=True):
    """With the bytes `used`, null for too many files to be counted, and its `path` on the node while used."""

    used: int | None
    path: str


class CreateArgs(Struct, frozen=True):
    name: VolumeName
    size: Annotated[VolumeSize | None, Meta(description="bytes, which are reserved; none: no limit")] = None


class NameArgs(Struct, frozen=True):
    name: VolumeName


@command("volume.create")
async def create(ctx: Context, args: CreateArgs) -> Volume:
    """Make an empty volume, for `volumes` of corex.create; 409 when it exists. See docs/containers.md."""
    return convert(await ctx.node.containers.volumes.create(args.name, args.size or 0), Volume)


@command("volume.list", role="reader")
async def list_(ctx: Context) -> list[Volume]:
    """The volumes, by name."""
    return convert(await ctx.node.containers.volumes.list(), list[Volume])


@command("volume.get", role="reader")
async def get(ctx: Context, args: NameArgs) -> Inspected:
    """One volume, and how much is in it."""
    return convert(await ctx.node.containers.volumes.get(args.name), Inspected)


@command("volume.remove")
async def remove(ctx: Context, args: NameArgs) -> None:
    """Remove a volume with all that is in it; 409 while a container has it."""
    await ctx.node.containers.volumes.remove(args.name)
