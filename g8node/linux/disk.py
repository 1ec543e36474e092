"""Block devices: what they are, whether they are in use, read-only marks, a seek probe (blocking)."""

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import random
import stat
import struct
import time
from dataclasses import dataclass
from typing import Final

from g8node.linux.guard import off_loop

_BLKROSET: Final = 0x125D
_BLKGETSIZE64: Final = 0x80081272
_SECTOR: Final = 512  # sysfs counts in these, whatever the drive's own sectors are
_PROBE_BLOCK: Final = 4096
_PROBE_READS: Final = 64
_PROBE_S: Final = 3.0
_BLANK_BYTES: Final = 1 << 20
_BTRFS: Final = "/sys/fs/btrfs"
_SSD_BELOW_US: Final = 1000


@dataclass(frozen=True, slots=True)
class Device:
    """A block device: its name in the kernel, its path, major:minor, and the whole disk's name."""

    name: str
    path: str
    number: str
    disk: str

    @property
    def is_partition(self) -> bool:
        return self.disk != self.name


@off_loop
def resolve(given: str) -> Device:
    """The device of a path (symbolic links followed) or of a name below /dev.

    FileNotFoundError; ENOTBLK for what is no block device.
    """
    path = given if given.startswith("/") else f"/dev/{given}"
    seen = os.stat(path)
    if not stat.S_ISBLK(seen.st_mode):
        raise OSError(errno.ENOTBLK, "no block device", given)
    number = f"{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}"
    folder = os.path.realpath(f"/sys/dev/block/{number}")
    name = os.path.basename(folder).replace("!", "/")
    disk = name
    if os.path.exists(f"{folder}/partition"):
        disk = os.path.basename(os.path.dirname(folder)).replace("!", "/")
    node = f"/dev/{name}"
    return Device(name=name, path=node if os.path.exists(node) else path, number=number, disk=disk)


@off_loop
def extent(device: Device) -> tuple[int, int]:
    """(start, size) in bytes; a whole disk starts at 0."""
    folder = f"/sys/dev/block/{device.number}"
    start = _number(f"{folder}/start") if device.is_partition else 0
    return start * _SECTOR, _number(f"{folder}/size") * _SECTOR


@off_loop
def sector_size(device: Device) -> int:
    """Bytes of a logical sector."""
    return _number(f"/sys/block/{device.disk.replace('/', '!')}/queue/logical_block_size")


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


@off_loop
def partitions(disk: str) -> list[str]:
    """Paths of the partitions of a whole disk."""
    folder = f"/sys/block/{disk.replace('/', '!')}"
    names = [name for name in os.listdir(folder) if os.path.exists(f"{folder}/{name}/partition")]
    return [f"/dev/{name.replace('!', '/')}" for name in sorted(names)]


@off_loop
def in_use(path: str) -> bool:
    """Whether the kernel holds it, or a partition of it: mounted, swap, in a file system or an array.

    An exclusive open asks the kernel itself, so that mounts of other namespaces count too.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


@off_loop
def file_system_members(device: Device) -> set[str]:
    """Names of the devices whose mounted file system the device is of: itself, and what its btrfs spans."""
    name = device.name.replace("/", "!")
    for folder in glob.glob(f"{_BTRFS}/*/devices"):
        with contextlib.suppress(FileNotFoundError):
            members = os.listdir(folder)
            if name in members:
                return {member.replace("!", "/") for member in members}
    return {device.name}


@off_loop
def set_read_only(path: str) -> None:
    """BLKROSET: the kernel refuses writes from then on."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKROSET, struct.pack("i", 1))
    finally:
        os.close(fd)


@off_loop
def is_read_only(device: Device) -> bool:
    return bool(_number(f"/sys/dev/block/{device.number}/ro"))


@off_loop
def is_blank(path: str) -> bool:
    """Whether nothing but zeros is found in the first and the last MiB and at fifteen places between."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size_bytes = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
        places = {size_bytes * step // 16 for step in range(16)} | {max(0, size_bytes - _BLANK_BYTES)}
        return not any(any(os.pread(fd, _BLANK_BYTES, place)) for place in sorted(places))
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Seek:
    elapsed_us: int
    is_ssd: bool


@off_loop
def seek_time(path: str) -> Seek:
    """Median time of random reads past the page cache, in at most three seconds; EINVAL for a tiny device."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        size_bytes = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
        blocks = size_bytes // _PROBE_BLOCK
        if not blocks:
            raise OSError(errno.EINVAL, "the device is empty", path)
        buffer = _aligned()
        deadline = time.monotonic() + _PROBE_S
        times_us: list[int] = []
        while not times_us or (len(times_us) < _PROBE_READS and time.monotonic() < deadline):
            began_ns = time.perf_counter_ns()
            os.preadv(fd, [buffer], random.randrange(blocks) * _PROBE_BLOCK)
            times_us.append((time.perf_counter_ns() - began_ns) // 1000)
    finally:
        os.close(fd)
    median_us = sorted(times_us)[len(times_us) // 2]
    return Seek(median_us, median_us < _SSD_BELOW_US)


def _aligned() -> memoryview:
    """A buffer at a block boundary, as O_DIRECT wants it; anonymous mmap is not ours to use."""
    raw = (ctypes.c_char * (2 * _PROBE_BLOCK))()
    offset = -ctypes.addressof(raw) % _PROBE_BLOCK
    return memoryview(raw).cast("B")[offset : offset + _PROBE_BLOCK]


@off_loop
def serial_number(name: str) -> str | None:
    """As the drive tells it.

    SCSI and SATA: page 0x80 of its vital product data (SPC), text after 4 bytes of header; virtio and NVMe
    have a file of sysfs.
    """
    folder = f"/sys/block/{name.replace('/', '!')}"
    for path, header in (("device/vpd_pg80", 4), ("serial", 0), ("device/serial", 0)):
        with contextlib.suppress(OSError), open(f"{folder}/{path}", "rb") as file:
            if text := file.read(260)[header:].decode("ascii", "replace").strip("\0 \n"):
                return text
    return None


@off_loop
def mount_table() -> str:
    """/proc/mounts of this mount namespace."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
        return table.read()
