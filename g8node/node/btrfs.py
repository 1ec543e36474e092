"""Owner of the node's btrfs file systems: devices, subvolumes, snapshots, quotas (async).

Works with the btrfs command; changes come one at a time, since a balance refuses company anyway.
"""

import asyncio
import builtins
from collections.abc import Sequence
from typing import Any, Final

from g8node.errors import NotFound
from g8node.linux import mount as mounting
from g8node.node import blockdevices, programs
from g8node.runtime import blocking
from g8node.runtime.process import Reaper
from g8node.wire import btrfs

_MOVES_DATA_S: Final = 7 * 86400.0
_FORMATS_S: Final = 600.0
_Row = dict[str, Any]


class Btrfs:
    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._changing = asyncio.Lock()

    async def list(self) -> list[_Row]:
        """Every btrfs whose devices are here, mounted or not."""
        # Exit code 1 is what some versions say when there is none.
        done = await programs.attempt(self._reaper, "btrfs", "filesystem", "show", "--raw")
        if done.code not in (0, 1) or (done.code == 1 and done.stderr.strip()):
            raise programs.failure("btrfs", done)
        return btrfs.parse_show(done.stdout.decode(errors="replace"))

    async def info(self, mountpoint: str) -> _Row:
        """The row of `list` with `data, system, metadata, globalreserve`."""
        await self._mounted(mountpoint)
        shown = btrfs.parse_show(await self._btrfs("filesystem", "show", "--raw", mountpoint))
        if not shown:
            raise NotFound(f"mountpoint: {mountpoint} is no mounted btrfs")
        groups = btrfs.parse_df(await self._btrfs("filesystem", "df", "--raw", mountpoint))
        return {**shown[0], **groups}

    async def create(
        self, label: str, devices: Sequence[str], metadata: str, data: str, *, overwrite: bool
    ) -> None:
        """Make a file system over devices that nothing uses and, unless `overwrite`, that hold nothing."""
        async with self._changing:
            found = await blockdevices.resolve_all(devices, "devices")
            for device in found:
                await blockdevices.refuse_overwriting(self._reaper, device, "devices", overwrite=overwrite)
            words = ["-q", "-L", label] if label else ["-q"]
            words += [*(["-m", metadata] if metadata else []), *(["-d", data] if data else [])]
            words += ["-f"] if overwrite else []
            paths = [device.path for device in found]
            await programs.run(self._reaper, "mkfs.btrfs", *words, *paths, timeout_s=_FORMATS_S)

    async def add_devices(self, mountpoint: str, devices: Sequence[str], *, overwrite: bool) -> None:
        async with self._changing:
            await self._mounted(mountpoint)
            found = await blockdevices.resolve_all(devices, "devices")
            for device in found:
                await blockdevices.refuse_overwriting(self._reaper, device, "devices", overwrite=overwrite)
            paths = [device.path for device in found]
            await self._btrfs("device", "add", "-K", "-f", *paths, mountpoint, timeout_s=_FORMATS_S)

    async def remove_devices(self, mountpoint: str, devices: Sequence[str]) -> None:
        """Moves their data to the others first, which takes as long as it takes."""
        async with self._changing:
            await self._mounted(mountpoint)
            found = await blockdevices.resolve_all(devices, "devices")
            paths = [device.path for device in found]
            await self._btrfs("device", "remove", *paths, mountpoint, timeout_s=_MOVES_DATA_S)

    async def create_subvolume(self, path: str) -> None:
        async with self._changing:
            await self._btrfs("subvolume", "create", path)

    async def delete_subvolume(self, path: str) -> None:
        async with self._changing:
            await self._btrfs("subvolume", "delete", path)

    async def subvolumes(self, path: str) -> builtins.list[_Row]:
        """`{ID, Gen, TopLevel, Path, Quota}` of each; Quota 0 means none, also while quotas are off."""
        rows = btrfs.parse_subvolumes(await self._btrfs("subvolume", "list", path))
        groups = await programs.attempt(self._reaper, "btrfs", "qgroup", "show", "-re", "--raw", path)
        if groups.code == 0:
            quotas = btrfs.parse_quotas(groups.stdout.decode(errors="replace"))
            for row in rows:
                row["Quota"] = quotas.get(row["ID"], 0)
        return rows

    async def set_quota(self, path: str, limit: str) -> None:
        """Limit what the subvolume references; `none` lifts it. Turns quotas on for the file system."""
        async with self._changing:
            await self._btrfs("quota", "enable", path)
            await self._btrfs("qgroup", "limit", limit, path)

    async def snapshot(self, source: str, destination: str, *, read_only: bool) -> None:
        async with self._changing:
            flags = ["-r"] if read_only else []
            await self._btrfs("subvolume", "snapshot", *flags, source, destination)

    async def _btrfs(self, *words: str, timeout_s: float = 300.0) -> str:
        return await programs.run(self._reaper, "btrfs", *words, timeout_s=timeout_s)

    async def _mounted(self, mountpoint: str) -> None:
        """Read from the mount table: the path itself may be one that never answers."""
        table = await blocking.run("disk", mounting.mounts)
        wanted = mountpoint.rstrip("/") or "/"
        on_top = [entry for entry in table if entry.target == wanted][-1:]
        if not on_top or on_top[0].fstype != "btrfs":
            raise NotFound(f"mountpoint: {mountpoint} is no mounted btrfs")
