"""btrfs.*: file systems over several devices, subvolumes, snapshots, quotas (async)."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, convert

from g8node.jobs.kinds import AbsolutePath, Device
from g8node.jobs.registry import Context, command

Profile = Literal["", "raid0", "raid1", "raid5", "raid6", "raid10", "dup", "single"]
Devices = Annotated[list[Device], Meta(min_length=1, max_length=256)]


class FsDevice(Struct, frozen=True):
    """One device of a file system, in bytes."""

    dev_id: int
    size: int
    used: int
    path: str


class FileSystem(Struct, frozen=True, kw_only=True):
    """One row of btrfs.list; `label` is "none" when there is none."""

    label: str
    uuid: str
    total_devices: int
    used: int
    devices: list[FsDevice]
    warnings: str


class Group(Struct, frozen=True):
    """Space of one kind, in bytes."""

    profile: str
    total: int
    used: int


class Info(FileSystem, frozen=True, kw_only=True):
    """A row of btrfs.list with its space by kind."""

    data: Group
    system: Group
    metadata: Group
    globalreserve: Group


class Subvolume(Struct, frozen=True):
    """`Quota` is the most bytes it may reference, 0 for no limit."""

    ID: int
    Gen: int
    TopLevel: int
    Path: str
    Quota: int


@command("btrfs.list", role="reader")
async def list_(ctx: Context) -> list[FileSystem]:
    """Every btrfs on the node's disks, mounted or not."""
    return convert(await ctx.node.btrfs.list(), list[FileSystem])


class MountpointArgs(Struct, frozen=True):
    mountpoint: AbsolutePath


@command("btrfs.info", role="reader")
async def info(ctx: Context, args: MountpointArgs) -> Info:
    """A mounted btrfs: devices and space by kind."""
    return convert(await ctx.node.btrfs.info(args.mountpoint), Info)


class CreateArgs(Struct, frozen=True):
    label: Annotated[str, Meta(extra={"kind": "label"}, pattern=r"\A[^\x00-\x1f\\]*\Z", max_length=255)]
    devices: Devices
    metadata: Profile = ""
    data: Profile = ""
    overwrite: bool = False


@command("btrfs.create", role="admin")
async def create(ctx: Context, args: CreateArgs) -> None:
    """Make a file system; 412 on devices that hold something unless overwrite is true."""
    await ctx.node.btrfs.create(args.label, args.devices, args.metadata, args.data, overwrite=args.overwrite)


class DeviceAddArgs(Struct, frozen=True):
    mountpoint: AbsolutePath
    devices: Devices
    overwrite: bool = False


@command("btrfs.device_add", role="admin")
async def device_add(ctx: Context, args: DeviceAddArgs) -> None:
    """Add devices to a mounted file system; 412 on those that hold something unless overwrite is true."""
    await ctx.node.btrfs.add_devices(args.mountpoint, args.devices, overwrite=args.overwrite)


class DeviceRemoveArgs(Struct, frozen=True):
    mountpoint: AbsolutePath
    devices: Devices


@command("btrfs.device_remove", role="admin")
async def device_remove(ctx: Context, args: DeviceRemoveArgs) -> None:
    """Take devices out of a mounted file system, their data moved to the others."""
    await ctx.node.btrfs.remove_devices(args.mountpoint, args.devices)


class PathArgs(Struct, frozen=True):
    path: AbsolutePath


@command("btrfs.subvol_create", role="admin")
async def subvol_create(ctx: Context, args: PathArgs) -> None:
    """Create a subvolume."""
    await ctx.node.btrfs.create_subvolume(args.path)


@command("btrfs.subvol_delete", role="admin")
async def subvol_delete(ctx: Context, args: PathArgs) -> None:
    """Delete a subvolume; one with others inside is refused."""
    await ctx.node.btrfs.delete_subvolume(args.path)


@command("btrfs.subvol_list", role="reader")
async def subvol_list(ctx: Context, args: PathArgs) -> list[Subvolume]:
    """The subvolumes of the file system at path, with their quotas."""
    return convert(await ctx.node.btrfs.subvolumes(args.path), list[Subvolume])


class QuotaArgs(Struct, frozen=True):
    path: AbsolutePath
    limit: Annotated[
        str,
        Meta(
            extra={"kind": "size"},
            pattern=r"\A(?:none|[0-9]{1,18}[kKmMgGtTpPeE]?)\Z",
            description="e.g. 100M, or none",
        ),
    ]


@command("btrfs.subvol_quota", role="admin")
async def subvol_quota(ctx: Context, args: QuotaArgs) -> None:
    """Limit what a subvolume may hold."""
    await ctx.node.btrfs.set_quota(args.path, args.limit)


class SnapshotArgs(Struct, frozen=True):
    source: AbsolutePath
    destination: AbsolutePath
    read_only: bool = False


@command("btrfs.subvol_snapshot", role="admin")
async def subvol_snapshot(ctx: Context, args: SnapshotArgs) -> None:
    """Snapshot a subvolume."""
    await ctx.node.btrfs.snapshot(args.source, args.destination, read_only=args.read_only)
