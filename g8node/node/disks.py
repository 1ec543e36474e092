"""Owner of the node's disks: what they are, partitions, mounts, power, health (async).

Works with lsblk, blkid, parted, hdparm and smartctl; changes come one at a time.
"""

import asyncio
import builtins
import errno
import json
import os
from typing import Any, Final

from g8node.errors import Conflict, InvalidArgument, NodeError, NotFound
from g8node.linux import disk
from g8node.linux import mount as mounting
from g8node.linux.disk import Device
from g8node.linux.mount import Mount
from g8node.node import blockdevices, programs
from g8node.runtime import blocking
from g8node.runtime.process import Reaper
from g8node.wire import disktools

_AT_ONCE: Final = 4
_SMART_FAILED: Final = 0b11  # bad arguments, or the device cannot be opened; the other bits tell its health
_DEFAULTS: Final = frozenset(
    {"", "auto", "defaults", "rw", "suid", "dev", "exec", "atime", "relatime", "async"}
)
_REFUSED: Final = frozenset({"bind", "rbind", "move", "remount", "loop", "user", "users", "owner"})
_TAGS: Final = {
    "fstype": "TYPE",
    "fsver": "VERSION",
    "label": "LABEL",
    "uuid": "UUID",
    "pttype": "PTTYPE",
    "ptuuid": "PTUUID",
    "partuuid": "PART_ENTRY_UUID",
    "parttype": "PART_ENTRY_TYPE",
    "partlabel": "PART_ENTRY_NAME",
}
Row = dict[str, Any]


class Disks:
    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._changing = asyncio.Lock()

    async def list(self) -> list[Row]:
        """Every disk as lsblk tells it, values as strings, `start, end, size, blocksize` as numbers."""
        rows = await self._lsblk("--exclude", "1,2")
        slots = asyncio.Semaphore(_AT_ONCE)

        async def described(row: Row) -> Row | None:
            async with slots:
                try:
                    return await self._described(row)
                except NotFound:
                    return None  # it was taken away meanwhile

        found = await asyncio.gather(*(described(row) for row in rows))
        return [row for row in found if row is not None]

    async def devices(self) -> builtins.list[Row]:
        """As `list`, without what only parted knows: quick."""
        return await self._lsblk("--exclude", "1,2")

    async def info(self, name: str, part: str = "") -> Row:
        """One disk, or one of its partitions."""
        device = await blockdevices.resolve(name, "disk")
        if part:
            device = await self._partition(device, part)
        rows = await self._lsblk(device.path)
        if not rows:
            raise NotFound(f"disk: there is no device {part or name}")
        return await self._described(rows[0])

    async def _partition(self, whole: Device, part: str) -> Device:
        device = await blockdevices.resolve(part, "part")
        if not device.is_partition or device.disk != whole.disk:
            raise NotFound(f"part: {part} is no partition of {whole.path}")
        return device

    async def _lsblk(self, *arguments: str) -> builtins.list[Row]:
        output = await programs.run(
            self._reaper, "lsblk", "--json", "--output-all", "--bytes", *arguments, good=(0, 32)
        )
        rows: list[Row] = json.loads(output)["blockdevices"] if output.strip() else []
        rows = [_as_text(row) for row in rows]
        paths = [path for row in rows for path in _paths(row)]
        if paths:
            # lsblk asks udev, which a node does not run; the devices themselves know.
            found = await blockdevices.tags(self._reaper, paths)
            for row in rows:
                _add_tags(row, found)
                row["serial"] = row.get("serial") or await blocking.run(
                    "disk", disk.serial_number, row["name"]
                )
        return rows

    async def _described(self, row: Row) -> Row:
        device = await blockdevices.resolve(row["path"], "disk")
        start, size = await blocking.run("disk", disk.extent, device)
        numbers = {
            "start": start,
            "end": start + size - 1 if size else 0,
            "size": size,
            "blocksize": await blocking.run("disk", disk.sector_size, device),
            "table": "",
            "free": [],
        }
        if not device.is_partition:
            # Without a table parted fails, and still says what is asked here.
            done = await programs.attempt(
                self._reaper, "parted", "-s", "-m", device.path, "unit", "B", "print", "free"
            )
            seen = disktools.parse_parted(done.stdout.decode(errors="replace"))
            numbers |= {"table": seen["table"], "free": seen["free"]}
        return {**row, **numbers, "children": row.get("children", [])}

    async def mounts(self) -> dict[str, builtins.list[Row]]:
        """Device -> where it is mounted, with file system and options."""
        return disktools.parse_mounts(await blocking.run("disk", disk.mount_table))

    async def smart_information(self, name: str) -> Row:
        return disktools.smart_information(await self._smartctl(name, "-i"))

    async def smart_passed(self, name: str) -> bool:
        """What the drive says of itself; a failing one is an answer, no error."""
        status = (await self._smartctl(name, "-H")).get("smart_status", {})
        if "passed" not in status:
            raise NodeError(f"device: {name} does not tell its health")
        return bool(status["passed"])

    async def _smartctl(self, name: str, wanted: str) -> Row:
        device = await blockdevices.resolve(name, "device")
        done = await programs.attempt(self._reaper, "smartctl", wanted, "-j", device.path)
        if done.code < 0 or done.code & _SMART_FAILED:
            raise programs.failure("smartctl", done)
        report: Row = json.loads(done.stdout)
        return report

    async def spin_down(self, name: str, spindown: int) -> None:
        """`spindown` is hdparm's -S, 0 to 240."""
        device = await blockdevices.resolve(name, "disk")
        await programs.run(self._reaper, "hdparm", "-S", str(spindown), device.path)

    async def is_standby(self, name: str) -> bool:
        device = await blockdevices.resolve(name, "disk")
        output = await programs.run(self._reaper, "hdparm", "-C", device.path)
        standby = disktools.parse_power_state(output)
        if standby is None:
            raise InvalidArgument(f"disk: {name} does not tell its power state")
        return standby

    async def seek_time(self, name: str) -> Row:
        """`{device, elapsed (microseconds of a random read), type: SSD or HDD}`."""
        device = await blockdevices.resolve(name, "disk")
        try:
            seen = await blocking.run("disk", disk.seek_time, device.path)
        except OSError as error:
            raise _refusal("disk", name, error) from error
        return {"device": device.path, "elapsed": seen.elapsed_us, "type": "SSD" if seen.is_ssd else "HDD"}

    async def protect(self, partuuid: str) -> None:
        """Make the partition of that PARTUUID and its disk read-only; nothing when there is none."""
        rows = await self._lsblk("--exclude", "1,2")
        for row in rows:
            for child in row.get("children", []):
                if (child.get("partuuid") or "").lower() == partuuid.lower():
                    for path in (child["path"], row["path"]):
                        await blocking.run("disk", disk.set_read_only, path)

    async def make_table(self, name: str, table: str, *, overwrite: bool) -> None:
        """A new, empty partition table on a disk that nothing uses."""
        async with self._changing:
            device = await self._whole(name)
            await blockdevices.refuse_overwriting(
                self._reaper, device, "disk", overwrite=overwrite, table_too=False
            )
            await self._parted(device, "mktable", table)

    async def make_partition(self, name: str, kind: str, start: str, end: str) -> None:
        async with self._changing:
            device = await self._whole(name)
            await self._parted(device, "mkpart", kind, start, end)

    async def remove_partition(self, name: str, number: int) -> None:
        """Conflict while it is mounted or used otherwise."""
        async with self._changing:
            device = await self._whole(name)
            separator = "p" if device.path[-1].isdigit() else ""
            part = await blockdevices.resolve(f"{device.path}{separator}{number}", "number")
            await blockdevices.refuse_use(part, "number")
            await self._parted(device, "rm", str(number))

    async def _whole(self, name: str) -> Device:
        device = await blockdevices.resolve(name, "disk")
        if device.is_partition:
            raise InvalidArgument(f"disk: {name} is a partition, expected a whole disk")
        return device

    async def _parted(self, device: Device, *words: str) -> None:
        # "--": a start may be negative, counted from the end.
        await programs.run(self._reaper, "parted", "-s", "--", device.path, *words)

    async def mount(self, source: str, target: str, options: str) -> None:
        """Mount a device's file system; what it is, is read from the device."""
        flags, data = _mount_options(options)
        device = await blockdevices.resolve(source, "source")
        if not await blocking.run("path", os.path.isdir, target):
            raise NotFound(f"target: there is no folder {target}")
        seen = (await blockdevices.tags(self._reaper, [device.path])).get(device.path, {})
        fstype = seen.get("TYPE")
        if not fstype:
            raise InvalidArgument(f"source: no file system is known on {source}")
        if fstype == "btrfs":
            # The kernel mounts one of several devices only when it has seen all of them.
            await programs.attempt(self._reaper, "btrfs", "device", "scan")
        try:
            await blocking.run("path", mounting.mount, device.path, target, fstype, flags, data or None)
        except OSError as error:
            raise _refusal("source", source, error) from error

    async def unmount(self, source: str) -> None:
        """`source` is a device, of which the newest mount ends, or where something is mounted."""
        table = await blocking.run("disk", mounting.mounts)
        targets = [entry.target for entry in table if entry.target == source.rstrip("/")]
        if not targets:
            device = await blockdevices.resolve(source, "source")
            members = await blocking.run("disk", disk.file_system_members, device)
            targets = [entry.target for entry in table if await _is_of(entry.source, members)]
        if not targets:
            raise NotFound(f"source: {source} is not mounted")
        try:
            await blocking.run("path", mounting.unmount, targets[-1])
        except OSError as error:
            raise _refusal("source", source, error) from error


async def _is_of(source: str, members: set[str]) -> bool:
    """Whether the source of a mount, as the kernel names it, is one of the devices."""
    if not source.startswith("/dev/"):
        return False
    try:
        return (await blocking.run("disk", disk.resolve, source)).name in members
    except OSError:
        return False


def _mount_options(text: str) -> tuple[Mount, str]:
    """mount(8)'s words as flags of mount(2), and what is the file system's own."""
    flags, data = Mount(0), []
    for word in text.split(","):
        if word in _REFUSED:
            raise InvalidArgument(f"options: {word} is not possible here")
        if word in mounting.FLAGS:
            flags |= mounting.FLAGS[word]
        elif word not in _DEFAULTS:
            data.append(word)
    return flags, ",".join(data)


def _refusal(field: str, what: str, error: OSError) -> NodeError:
    kind: type[NodeError] = {
        errno.EBUSY: Conflict,
        errno.EINVAL: InvalidArgument,
        errno.ENOENT: NotFound,
        errno.ENOMEDIUM: NotFound,
    }.get(error.errno or 0, NodeError)
    return kind(f"{field}: {what}: {(error.strerror or str(error)).lower()}")


def _as_text(value: Any) -> Any:
    """lsblk's JSON as its older versions wrote it: every value a string or null."""
    if isinstance(value, dict):
        return {name: _as_text(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, bool):
        return "1" if value else "0"
    return value if value is None else str(value)


def _paths(row: Row) -> list[str]:
    return [row["path"], *(path for child in row.get("children", []) for path in _paths(child))]


def _add_tags(row: Row, found: dict[str, dict[str, str]]) -> None:
    seen = found.get(row["path"], {})
    for name, tag in _TAGS.items():
        if not row.get(name):
            row[name] = seen.get(tag)
    for child in row.get("children", []):
        _add_tags(child, found)
