"""disk.* and btrfs.* (pure)."""

from collections.abc import Sequence
from typing import Any, Literal

from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.manager import Manager

Table = Literal["aix", "amiga", "bsd", "dvh", "gpt", "mac", "msdos", "pc98", "sun", "loop"]
Profile = Literal["", "raid0", "raid1", "raid5", "raid6", "raid10", "dup", "single"]
Rows = list[dict[str, Any]]


class Disk(Manager[M]):
    """Disks and partitions; a disk is named sda or /dev/sda."""

    @call
    def list(self) -> Flow[Rows]:
        """Every disk with its partitions and free space."""
        return self._json("disk.list")

    @call
    def getinfo(self, disk: str, part: str = "") -> Flow[dict[str, Any]]:
        """One disk, or one of its partitions."""
        return self._json("disk.getinfo", disk=disk, part=part)

    @call
    def mounts(self) -> Flow[dict[str, Rows]]:
        """Where each device is mounted."""
        return self._json("disk.mounts")

    @call
    def mktable(self, disk: str, table_type: Table = "gpt", overwrite: bool = False) -> Flow[None]:
        """Make a partition table; refused (412) on a disk that holds data unless `overwrite`."""
        return self._done("disk.mktable", disk=disk, table_type=table_type, overwrite=overwrite)

    @call
    def mkpart(
        self,
        disk: str,
        start: int | str,
        end: int | str,
        part_type: Literal["primary", "logical", "extended"] = "primary",
    ) -> Flow[None]:
        """Make a partition; start and end as parted has them (`50%`, `1MiB`)."""
        return self._done("disk.mkpart", disk=disk, start=start, end=end, part_type=part_type)

    @call
    def rmpart(self, disk: str, number: int) -> Flow[None]:
        """Remove a partition, counted from 1."""
        return self._done("disk.rmpart", disk=disk, number=number)

    @call
    def mount(self, source: str, target: str, options: Sequence[str] = ()) -> Flow[None]:
        """Mount a device at a folder that exists."""
        return self._done("disk.mount", source=source, target=target, options=",".join(options))

    @call
    def umount(self, source: str) -> Flow[None]:
        """Unmount a device."""
        return self._done("disk.umount", source=source)

    @call
    def smartctl_info(self, device: str) -> Flow[dict[str, Any]]:
        """What a drive says of itself."""
        return self._json("disk.smartctl-info", device=device)

    @call
    def smartctl_health(self, device: str) -> Flow[dict[str, Any]]:
        """Whether a drive thinks itself healthy: `{passed}`."""
        return self._json("disk.smartctl-health", device=device)

    @call
    def spindown(self, disk: str, spindown: int = 1) -> Flow[None]:
        """When an idle drive stops spinning (as hdparm -S: 0 is never, at most 240)."""
        return self._done("disk.spindown", disk=disk, spindown=spindown)

    @call
    def isstandby(self, disk: str) -> Flow[bool]:
        """Whether a drive stands by."""
        return self._json("disk.isstandby", disk=disk)

    @call
    def seektime(self, disk: str) -> Flow[dict[str, Any]]:
        """Measure random reads: `{device, elapsed, type}`."""
        return self._json("disk.seektime", disk=disk)

    @call
    def protect(self, partuuid: str) -> Flow[None]:
        """Make a partition and its disk read-only, if they are there."""
        return self._done("disk.protect", partuuid=partuuid)


class Btrfs(Manager[M]):
    """btrfs file systems."""

    @call
    def list(self) -> Flow[Rows]:
        """Every btrfs on the node's disks."""
        return self._json("btrfs.list")

    @call
    def info(self, mountpoint: str) -> Flow[dict[str, Any]]:
        """A mounted one, with its space by kind."""
        return self._json("btrfs.info", mountpoint=mountpoint)

    @call
    def create(
        self,
        label: str,
        devices: Sequence[str],
        metadata_profile: Profile = "",
        data_profile: Profile = "",
        overwrite: bool = False,
    ) -> Flow[None]:
        """Make a file system; refused (412) on devices that hold data unless `overwrite`."""
        return self._done(
            "btrfs.create",
            label=label,
            devices=devices,
            metadata=metadata_profile,
            data=data_profile,
            overwrite=overwrite,
        )

    @call
    def device_add(self, mountpoint: str, *device: str) -> Flow[None]:
        """Add devices to a mounted file system."""
        return self._done("btrfs.device_add", mountpoint=mountpoint, devices=device)

    @call
    def device_remove(self, mountpoint: str, *device: str) -> Flow[None]:
        """Take devices out of a mounted file system."""
        return self._done("btrfs.device_remove", mountpoint=mountpoint, devices=device)

    @call
    def subvol_create(self, path: str) -> Flow[None]:
        """Create a subvolume."""
        return self._done("btrfs.subvol_create", path=path)

    @call
    def subvol_list(self, path: str) -> Flow[Rows]:
        """The subvolumes below a path: ID, Gen, TopLevel, Path, Quota."""
        return self._json("btrfs.subvol_list", path=path)

    @call
    def subvol_delete(self, path: str) -> Flow[None]:
        """Delete a subvolume."""
        return self._done("btrfs.subvol_delete", path=path)

    @call
    def subvol_quota(self, path: str, limit: str) -> Flow[None]:
        """Limit a subvolume: `100M`, or `none`."""
        return self._done("btrfs.subvol_quota", path=path, limit=limit)

    @call
    def subvol_snapshot(self, source: str, destination: str, read_only: bool = False) -> Flow[None]:
        """Snapshot a subvolume."""
        return self._done(
            "btrfs.subvol_snapshot", source=source, destination=destination, read_only=read_only
        )


class Volume(Manager[M]):
    """Volumes: folders with a name that outlive the containers that have them."""

    @call
    def create(self, name: str, size: int | None = None) -> Flow[dict[str, Any]]:
        """Make an empty one; `size` in bytes, without it there is no limit."""
        return self._json("volume.create", name=name, size=size)

    @call
    def list(self) -> Flow[Rows]:
        """All: name, size, created, and the containers that have it."""
        return self._json("volume.list")

    @call
    def get(self, name: str) -> Flow[dict[str, Any]]:
        """One, with the bytes that are used."""
        return self._json("volume.get", name=name)

    @call
    def remove(self, name: str) -> Flow[None]:
        """Remove one with all that is in it; refused while a container has it."""
        return self._done("volume.remove", name=name)
