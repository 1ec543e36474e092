"""The cache disk (async): a btrfs on the machine's own disk for what may be lost; spec core0-resources 4.5.

Only when the settings ask for it (`cache.disk`), and then: the file system labelled `sp_zos-cache` if there
is one; else one is made, on the disk that was named or, with `auto`, on the first one that qualifies. A disk
with a signature of anything (partition table, file system, array, swap) is never written to; `auto` also
wants to find nothing but zeros at its beginning, in its middle and at its end.

Of its folders, `cache` becomes /var/cache (chunks, flists, images), `volumes` holds those of containers,
and a fresh one of `logs` becomes /var/log.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any, Final

from g8node.errors import FailedPrecondition, NodeError, NotFound
from g8node.linux import disk
from g8node.linux import mount as mounting
from g8node.linux.guard import off_loop
from g8node.linux.mount import Mount
from g8node.node import blockdevices, programs
from g8node.node.btrfs import Btrfs
from g8node.node.disks import Disks
from g8node.runtime import blocking, logs
from g8node.runtime.process import Reaper

log = logs.get("cache disk")

Row = dict[str, Any]

LABEL: Final = "sp_zos-cache"
AUTO: Final = "auto"
_POOL: Final = "mnt/storagepools/sp_zos-cache"
_LOGS_KEPT: Final = 8
_SIZE_MIN: Final = 256 << 20
_SETTLED_S: Final = 2.0
_LOOK_S: Final = 0.25
_FLAGS: Final = Mount.NOATIME | Mount.NODEV | Mount.NOSUID


class CacheDisk:
    """`open` before anything uses the cache folder, `close` when nothing does any more."""

    def __init__(
        self,
        reaper: Reaper,
        disks: Disks,
        btrfs: Btrfs,
        *,
        choice: str,
        root: str = "/",
        appear_s: float = 15.0,
    ) -> None:
        """`choice` is `auto` or a disk: its name, path, serial number or WWN, which may take `appear_s`."""
        self._appear_s = appear_s
        self._reaper = reaper
        self._disks = disks
        self._btrfs = btrfs
        self._choice = choice
        self._root = root.rstrip("/")
        self._mounted: list[str] = []
        self.device = ""
        self.error = ""

    async def open(self) -> None:
        """Find or make the file system, and mount it. Raises NodeError or OSError with nothing mounted."""
        try:
            device = await self._device()
            await blocking.run("path", self._mount, device)
        except (NodeError, OSError) as error:
            self.error = str(error)
            await self.close()
            raise
        self.device = device
        log.info(f"{device} holds the cache and the logs")

    def state(self) -> dict[str, Any]:
        """For core.state."""
        return {"device": self.device, "error": self.error}

    async def close(self) -> None:
        """Unmount; what is still in use goes when its last user does."""
        while self._mounted:
            await blocking.run("path", _unmount, self._mounted.pop())
        self.device = ""

    async def _device(self) -> str:
        """The path of the device with our file system, which is made if need be."""
        rows = await self._settled()
        if found := labelled(rows):
            # The kernel mounts one of several devices only when it has seen all of them.
            await programs.attempt(self._reaper, "btrfs", "device", "scan")
            return found
        for row in rows:
            try:
                return await self._made(row["path"])
            except FailedPrecondition as error:
                if self._choice != AUTO:
                    raise
                log.info(f"{row['path']} is left alone", reason=str(error))
        raise NotFound("cache.disk: no disk is blank" if self._choice == AUTO else self._missing())

    def _missing(self) -> str:
        return f"cache.disk: there is no disk {self._choice}"

    async def _settled(self) -> list[Row]:
        """The disks to consider, best first, once no further one appears: drivers load in the background."""
        deadline = time.monotonic() + self._appear_s
        rows: list[Row] = []
        since = time.monotonic()
        while time.monotonic() < deadline:
            now = considered(await self._disks.devices(), self._choice)
            if [row["path"] for row in now] != [row["path"] for row in rows]:
                rows, since = now, time.monotonic()
            elif rows and (self._choice != AUTO or time.monotonic() - since >= _SETTLED_S):
                return rows
            await asyncio.sleep(_LOOK_S)
        if not rows:
            raise NotFound(self._missing())
        return rows

    async def _made(self, path: str) -> str:
        """A partition table with one partition, and our file system in it."""
        device = await blockdevices.resolve(path, "cache.disk")
        await blockdevices.refuse_overwriting(self._reaper, device, "cache.disk", overwrite=False)
        if self._choice == AUTO and not await blocking.run("disk", disk.is_blank, device.path):
            raise FailedPrecondition(f"cache.disk: {path} holds data of an unknown kind")
        log.warning(f"{path} is blank and becomes the cache disk")
        await self._disks.make_table(path, "gpt", overwrite=False)
        await self._disks.make_partition(path, LABEL, "1MiB", "100%")
        part = f"{device.path}{'p' if device.path[-1].isdigit() else ''}1"
        await self._btrfs.create(LABEL, [part], "", "", overwrite=False)
        return part

    @off_loop
    def _mount(self, device: str) -> None:
        pool = f"{self._root}/{_POOL}"
        os.makedirs(pool, exist_ok=True)
        mounting.mount(device, pool, "btrfs", _FLAGS)
        self._mounted.append(pool)
        os.makedirs(f"{pool}/logs", exist_ok=True)
        earlier = sorted((int(name) for name in os.listdir(f"{pool}/logs") if name.isdigit()), reverse=True)
        for number in earlier[_LOGS_KEPT - 1 :]:
            shutil.rmtree(f"{pool}/logs/{number}", ignore_errors=True)
        fresh = f"{pool}/logs/{earlier[0] + 1 if earlier else 1}"
        os.makedirs(fresh)
        os.makedirs(f"{pool}/cache", exist_ok=True)
        os.makedirs(f"{pool}/volumes", mode=0o700, exist_ok=True)
        for source, target in (
            (f"{pool}/cache", "var/cache"),
            (f"{pool}/volumes", "var/lib/g8node/volumes"),
            (fresh, "var/log"),
        ):
            where = f"{self._root}/{target}"
            os.makedirs(where, exist_ok=True)
            mounting.bind(source, where)
            self._mounted.append(where)


@off_loop
def _unmount(target: str) -> None:
    try:
        mounting.unmount_if_mounted(target)
    except OSError:
        mounting.unmount_if_mounted(target, lazy=True)


def considered(rows: Sequence[Row], choice: str) -> list[Row]:
    """Of lsblk's rows the disk that is named, or those that `auto` may take, solid state ones first."""
    if choice != AUTO:
        names = ("name", "path", "serial", "wwn")
        return [row for row in rows if choice in [row.get(name) for name in names if row.get(name)]]
    fit = [row for row in rows if _is_fit(row)]
    return sorted(fit, key=lambda row: (row.get("rota") == "1", row["path"]))


def _is_fit(row: Row) -> bool:
    """A fixed disk of this machine: no stick, no loop, RAM or network device."""
    fixed = row.get("type") == "disk" and row.get("rm") != "1" and row.get("tran") not in ("usb", "iscsi")
    drive = row["name"].startswith(("sd", "vd", "nvme", "xvd", "hd", "mmcblk"))
    return fixed and drive and row.get("ro") != "1" and int(row.get("size") or 0) >= _SIZE_MIN


def labelled(rows: Sequence[Row]) -> str:
    """The path of the disk or partition that holds our file system; empty: none does."""
    for row in rows:
        if row.get("fstype") == "btrfs" and row.get("label") == LABEL:
            return str(row["path"])
        if found := labelled(row.get("children", [])):
            return found
    return ""
