"""What the kernel counts of processors, disks, memory and network links (blocking, virtual files mostly).

Names and units are those of spec core0-protocol 5.4. Readings are counters (D) or values (A) of this moment.
"""

import array
import fcntl
import os
import re
import socket
import struct
from typing import Final, Literal, NamedTuple

from g8node.linux.guard import off_loop

MAX_IDS: Final = 256
"""Disks, processors or links that are read at most."""

_MIB: Final = 1 << 20
_TICK: Final = os.sysconf("SC_CLK_TCK")
_SECTOR: Final = 512
_LOCAL_FILE_SYSTEMS: Final = frozenset({"ext2", "ext3", "ext4", "btrfs", "xfs", "f2fs", "vfat", "exfat"})


class Reading(NamedTuple):
    """One value; `id` is empty for what there is only one of, `extra` is one more tag."""

    key: str
    op: Literal["A", "D"]
    value: float
    id: str = ""
    extra: tuple[str, str] | None = None


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


class CpuTimes(NamedTuple):
    """Seconds since boot."""

    used: float
    idle: float
    user_and_system: float


@off_loop
def cpu_times(stat: str = "/proc/stat") -> dict[str, CpuTimes]:
    """By number of the processor."""
    times = {}
    for line in _read(stat).splitlines():
        if match := re.match(r"cpu(\d+) (.*)", line):
            fields = [int(field) / _TICK for field in match[2].split()]
            idle = fields[3] + fields[4]
            # guest time is part of user time already (proc(5)): the first eight fields are all there is.
            times[match[1]] = CpuTimes(sum(fields[:8]) - idle, idle, fields[0] + fields[2])
    return dict(list(times.items())[:MAX_IDS])


@off_loop
def cpu(stat: str = "/proc/stat") -> list[Reading]:
    """Utilisation, switches, interrupts, threads; the percentage needs two looks at `cpu_times`."""
    readings = [
        Reading("machine.CPU.utilisation", "D", times.user_and_system, id)
        for id, times in cpu_times(stat).items()
    ]
    for line in _read(stat).splitlines():
        if line.startswith("ctxt "):
            readings.append(Reading("machine.CPU.contextswitch", "D", float(line.split()[1])))
        elif line.startswith("intr "):
            readings.append(Reading("machine.CPU.interrupts", "D", float(line.split(None, 2)[1])))
    threads = int(_read("/proc/loadavg").split()[3].partition("/")[2])
    readings.append(Reading("machine.process.threads", "A", threads))
    return readings


def cpu_percent(before: dict[str, CpuTimes], after: dict[str, CpuTimes]) -> list[Reading]:
    """0 to 100 for each processor, over the time between two looks."""
    readings = []
    for id, now in after.items():
        if (then := before.get(id)) is None:
            continue
        # iowait, a part of idle, may go backwards (proc(5)): that is no reason to say nothing.
        used, idle = max(now.used - then.used, 0.0), max(now.idle - then.idle, 0.0)
        if used + idle > 0:
            readings.append(Reading("machine.CPU.percent", "A", 100 * used / (used + idle), id))
    return readings


@off_loop
def memory(meminfo: str = "/proc/meminfo") -> list[Reading]:
    """MiB of main memory and swap."""
    kib = {}
    for line in _read(meminfo).splitlines():
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    available = kib.get("MemAvailable", kib["MemFree"])
    free, total = kib.get("SwapFree", 0), kib.get("SwapTotal", 0)
    return [
        Reading("machine.memory.ram.available", "A", available / 1024),
        Reading("machine.memory.swap.left", "A", free / 1024),
        Reading("machine.memory.swap.used", "A", (total - free) / 1024),
    ]


@off_loop
def disk_activity(diskstats: str = "/proc/diskstats") -> list[Reading]:
    """Operations and KiB of every block device and partition that was ever used."""
    readings: list[Reading] = []
    for line in _read(diskstats).splitlines():
        fields = line.split()
        id, reads, sectors_read, writes, sectors_written = (fields[n] for n in (2, 3, 5, 7, 9))
        if id.startswith("ram") or (reads == writes == "0"):
            continue
        if len(readings) >= 4 * MAX_IDS:
            break
        readings += [
            Reading("disk.iops.read", "D", int(reads), id),
            Reading("disk.iops.write", "D", int(writes), id),
            Reading("disk.throughput.read", "D", int(sectors_read) * _SECTOR / 1024, id),
            Reading("disk.throughput.write", "D", int(sectors_written) * _SECTOR / 1024, id),
        ]
    return readings


@off_loop
def disk_space(mounts: str = "/proc/self/mounts", *, beside: str = "") -> list[Reading]:
    """Bytes of the mounted local file systems, once a device.

    What lies below the folder `beside` is left out: roots of containers, whose paths we may serve ourselves.
    A mount point can hang, so this belongs in the pool for such paths.
    """
    readings: list[Reading] = []
    seen: set[str] = set()
    for line in _read(mounts).splitlines():
        device, point, kind = line.split()[:3]
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), point)
        if device in seen or not device.startswith("/dev/") or kind not in _LOCAL_FILE_SYSTEMS:
            continue
        if (beside and point.startswith(f"{beside}/")) or len(seen) >= MAX_IDS:
            continue
        try:
            space = os.statvfs(os.fsencode(point))
        except OSError:
            continue
        seen.add(device)
        id, tag = os.path.basename(device), ("fs", kind)
        readings += [
            Reading("disk.size.total", "A", space.f_blocks * space.f_frsize, id, tag),
            Reading("disk.size.free", "A", space.f_bfree * space.f_frsize, id, tag),
        ]
    return readings


@off_loop
def network(table: str = "/proc/net/dev") -> list[Reading]:
    """MiB and packets of every link that is hardware, a bridge, Open vSwitch's or `contm…`."""
    readings: list[Reading] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for line in _read(table).splitlines()[2:]:
            name, _, numbers = line.partition(":")
            name, fields = name.strip(), numbers.split()
            kind = link_kind(probe, name)
            if not kind or len(readings) >= 4 * MAX_IDS:
                continue
            tag = ("kind", kind)
            readings += [
                Reading("network.throughput.incoming", "D", int(fields[0]) / _MIB, name, tag),
                Reading("network.packets.rx", "D", int(fields[1]), name, tag),
                Reading("network.throughput.outgoing", "D", int(fields[8]) / _MIB, name, tag),
                Reading("network.packets.tx", "D", int(fields[9]), name, tag),
            ]
    return readings


def link_kind(probe: socket.socket, name: str, sysfs: str = "/sys/class/net") -> str:
    """`device`, `bridge`, `openvswitch` or `veth`; empty for links that are not measured."""
    if name in ("lo", "ovs-system"):
        return ""
    driver = _driver(probe, name)
    if driver in ("bridge", "openvswitch"):
        return driver
    if driver == "veth":
        return driver if name.startswith("contm") else ""
    return "device" if os.path.exists(f"{sysfs}/{name}/device") else ""


_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GDRVINFO: Final = 3
_DRVINFO_BYTES: Final = 196  # struct ethtool_drvinfo: cmd, then driver[32]


def _driver(probe: socket.socket, name: str) -> str:
    """The kernel's driver of a link, which tells virtual links apart; empty when it does not say."""
    info = array.array("B", struct.pack("I", _ETHTOOL_GDRVINFO).ljust(_DRVINFO_BYTES, b"\0"))
    address, _ = info.buffer_info()
    request = struct.pack("16sP16x", os.fsencode(name), address)
    try:
        fcntl.ioctl(probe, _SIOCETHTOOL, request)
    except OSError:
        return ""
    return info.tobytes()[4:36].partition(b"\0")[0].decode("ascii", "replace")
