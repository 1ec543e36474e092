"""disk.*: disks, partitions, mounts, power and health of drives (async)."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from g8node.jobs.kinds import AbsolutePath, Device, OptionalDevice
from g8node.jobs.registry import Context, command

Position = Annotated[
    str,
    Meta(
        extra={"kind": "position"},
        pattern=r"\A-?[0-9]{1,15}(?:\.[0-9]{1,6})?(?:%|s|B|[kMGTP]B|[KMGTP]iB)?\Z",
        description="As parted.",
    ),
]
Table = Literal["aix", "amiga", "bsd", "dvh", "gpt", "mac", "msdos", "pc98", "sun", "loop"]


@command("disk.list", role="reader")
async def list_(ctx: Context) -> list[dict[str, Any]]:
    """Every disk as lsblk tells it, with start, end, size, blocksize, table, free and children."""
    return await ctx.node.disks.list()


class InfoArgs(Struct, frozen=True):
    disk: Device
    part: OptionalDevice = ""


@command("disk.getinfo", role="reader")
async def getinfo(ctx: Context, args: InfoArgs) -> dict[str, Any]:
    """One disk, or one of its partitions."""
    return await ctx.node.disks.info(args.disk, args.part)


class MountOf(Struct, frozen=True):
    """One mount of a device."""

    mountpoint: str
    filesystem: str
    options: dict[str, str]


@command("disk.mounts", role="reader")
async def mounts(ctx: Context) -> dict[str, list[MountOf]]:
    """Where each device is mounted."""
    found = await ctx.node.disks.mounts()
    return {device: [MountOf(**row) for row in rows] for device, rows in found.items()}


class SmartArgs(Struct, frozen=True):
    device: Device


class SmartInfo(Struct, frozen=True):
    """What a drive says it is; empty where it says nothing."""

    model: str
    serial_number: str
    device_id: str
    firmware_version: str
    user_capacity: int
    sector_size: int
    rotation_rate: str
    device: str
    ata_version: str
    sata_version: str
    smart_support_available: bool
    smart_support_enabled: bool


@command("disk.smartctl-info", role="reader")
async def smartctl_info(ctx: Context, args: SmartArgs) -> SmartInfo:
    """Model, serial number and abilities of a drive."""
    return SmartInfo(**await ctx.node.disks.smart_information(args.device))


class SmartHealth(Struct, frozen=True):
    passed: bool


@command("disk.smartctl-health", role="reader")
async def smartctl_health(ctx: Context, args: SmartArgs) -> SmartHealth:
    """Whether a drive thinks itself healthy."""
    return SmartHealth(await ctx.node.disks.smart_passed(args.device))


class SpindownArgs(Struct, frozen=True):
    disk: Device
    spindown: Annotated[int, Meta(ge=0, le=240, description="hdparm -S; 0: never")]


@command("disk.spindown", role="admin")
async def spindown(ctx: Context, args: SpindownArgs) -> None:
    """After how long without work a drive stops spinning."""
    await ctx.node.disks.spin_down(args.disk, args.spindown)


class DiskArgs(Struct, frozen=True):
    disk: Device


@command("disk.isstandby", role="reader")
async def isstandby(ctx: Context, args: DiskArgs) -> bool:
    """Whether a drive stands by."""
    return await ctx.node.disks.is_standby(args.disk)


class SeekTime(Struct, frozen=True):
    """`elapsed` in microseconds, the median of random reads."""

    device: str
    elapsed: int
    type: Literal["SSD", "HDD"]


@command("disk.seektime", role="operator")
async def seektime(ctx: Context, args: DiskArgs) -> SeekTime:
    """Measure random reads of a drive, and tell SSD from HDD by it."""
    return SeekTime(**await ctx.node.disks.seek_time(args.disk))


class ProtectArgs(Struct, frozen=True):
    partuuid: Annotated[str, Meta(extra={"kind": "uuid"}, pattern=r"\A[0-9a-fA-F-]{1,64}\Z")]


@command("disk.protect", role="admin")
async def protect(ctx: Context, args: ProtectArgs) -> None:
    """Make a partition and its disk read-only, if they are there."""
    await ctx.node.disks.protect(args.partuuid)


class TableArgs(Struct, frozen=True):
    disk: Device
    table_type: Table = "gpt"
    overwrite: bool = False


@command("disk.mktable", role="admin")
async def mktable(ctx: Context, args: TableArgs) -> None:
    """Make an empty partition table; 412 on a disk with file systems unless overwrite is true."""
    await ctx.node.disks.make_table(args.disk, args.table_type, overwrite=args.overwrite)


class PartitionArgs(Struct, frozen=True):
    disk: Device
    start: Position | Annotated[int, Meta(ge=-(10**15), le=10**15)]
    end: Position | Annotated[int, Meta(ge=-(10**15), le=10**15)]
    part_type: Literal["primary", "logical", "extended"] = "primary"


@command("disk.mkpart", role="admin")
async def mkpart(ctx: Context, args: PartitionArgs) -> None:
    """Make a partition; start and end as parted has them, megabytes without a unit."""
    await ctx.node.disks.make_partition(args.disk, args.part_type, str(args.start), str(args.end))


class NumberArgs(Struct, frozen=True):
    disk: Device
    number: Annotated[int, Meta(ge=1, le=256)]


@command("disk.rmpart", role="admin")
async def rmpart(ctx: Context, args: NumberArgs) -> None:
    """Remove a partition that nothing uses."""
    await ctx.node.disks.remove_partition(args.disk, args.number)


class MountArgs(Struct, frozen=True):
    source: Device
    target: AbsolutePath
    options: Annotated[
        str,
        Meta(extra={"kind": "text"}, pattern=r"\A[^\x00]*\Z", max_length=2048, description="As mount -o."),
    ]


@command("disk.mount", role="admin")
async def mount(ctx: Context, args: MountArgs) -> None:
    """Mount a device's file system at a folder that exists."""
    await ctx.node.disks.mount(args.source, args.target, args.options)


class UmountArgs(Struct, frozen=True):
    source: Device


@command("disk.umount", role="admin")
async def umount(ctx: Context, args: UmountArgs) -> None:
    """Unmount a device, or what is mounted at a path."""
    await ctx.node.disks.unmount(args.source)
