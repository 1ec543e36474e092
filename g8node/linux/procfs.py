"""What /proc says about processes, processors and memory (blocking).

The shapes are those of spec core0-protocol 4.1 and 4.2.
"""

import os
import resource
import time
from typing import Any, Final

from g8node.linux.guard import off_loop

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_RELEASES: Final = ("/etc/os-release", "/usr/lib/os-release")


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _fields(text: str) -> dict[str, str]:
    """`key: value` lines."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _kib(text: str) -> int:
    """`123 kB` in bytes."""
    return int(text.split()[0]) * 1024 if text else 0


@off_loop
def boot_time() -> int:
    """Seconds since the epoch at which the kernel started."""
    for line in _read("/proc/stat").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0


@off_loop
def pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


class Stat:
    """The fields of /proc/<pid>/stat that we use (proc(5))."""

    __slots__ = (
        "name",
        "pgid",
        "pid",
        "ppid",
        "rss",
        "session",
        "start_ticks",
        "state",
        "stime",
        "utime",
        "vms",
    )

    def __init__(self, text: str) -> None:
        head, _, tail = text.rpartition(")")
        pid, _, self.name = head.partition(" (")
        fields = tail.split()
        self.pid = int(pid)
        self.state = fields[0]
        self.ppid, self.pgid, self.session = (int(field) for field in fields[1:4])
        self.utime, self.stime = int(fields[11]), int(fields[12])
        self.start_ticks = int(fields[19])
        self.vms, self.rss = int(fields[20]), int(fields[21]) * _PAGE


@off_loop
def stat(pid: int) -> Stat:
    """Raises FileNotFoundError or ProcessLookupError for a process that is gone."""
    return Stat(_read(f"/proc/{pid}/stat"))


@off_loop
def usage(pid: int) -> dict[str, Any] | None:
    """`{cpu (% since its start), rss, vms, swap}` in bytes; None when the process is gone."""
    try:
        seen = stat(pid)
        swap = _kib(_fields(_read(f"/proc/{pid}/status")).get("VmSwap", ""))
        uptime_s = float(_read("/proc/uptime").split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return None
    alive_s = max(uptime_s - seen.start_ticks / _TICK, 1 / _TICK)
    cpu = 100 * (seen.utime + seen.stime) / _TICK / alive_s
    return {"cpu": round(cpu, 3), "rss": seen.rss, "vms": seen.vms, "swap": swap}


@off_loop
def process(pid: int) -> dict[str, Any] | None:
    """One row of process.list; None when the process is gone."""
    try:
        seen = stat(pid)
        argv = _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
        status = _fields(_read(f"/proc/{pid}/status"))
        limits = _limits(_read(f"/proc/{pid}/limits"))
        open_files = _count(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return None
    idle = dict.fromkeys(("guestnice", "idle", "iowait", "irq", "nice", "softirq", "steal", "stolen"), 0.0)
    return {
        "pid": seen.pid,
        "ppid": seen.ppid,
        "cmdline": " ".join(argv),
        "name": seen.name,
        "createtime": int((boot_time() + seen.start_ticks / _TICK) * 1000),
        "cpu": idle | {"system": seen.stime / _TICK, "user": seen.utime / _TICK},
        "rss": seen.rss,
        "vms": seen.vms,
        "swap": _kib(status.get("VmSwap", "")),
        "rlimit": limits,
        "ofd": open_files,
    }


def _count(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except PermissionError:
        return 0


_LIMITS: Final = {
    "Max cpu time": resource.RLIMIT_CPU,
    "Max file size": resource.RLIMIT_FSIZE,
    "Max data size": resource.RLIMIT_DATA,
    "Max stack size": resource.RLIMIT_STACK,
    "Max core file size": resource.RLIMIT_CORE,
    "Max resident set": resource.RLIMIT_RSS,
    "Max processes": resource.RLIMIT_NPROC,
    "Max open files": resource.RLIMIT_NOFILE,
    "Max locked memory": resource.RLIMIT_MEMLOCK,
    "Max address space": resource.RLIMIT_AS,
}


def _limits(text: str) -> list[dict[str, int]]:
    """`resource` is the number of setrlimit(2); -1 means unlimited."""
    rows = []
    for line in text.splitlines()[1:]:
        number = _LIMITS.get(line[:26].strip())
        if number is not None:
            soft, hard = line[26:].split()[:2]
            rows.append({"resource": number, "soft": _limit(soft), "hard": _limit(hard)})
    return rows


def _limit(text: str) -> int:
    return -1 if text == "unlimited" else int(text)


@off_loop
def cpus() -> list[dict[str, Any]]:
    """info.cpu: one row per logical processor."""
    rows = []
    for block in _read("/proc/cpuinfo").strip().split("\n\n"):
        seen = _fields(block)
        if "processor" not in seen:
            continue
        number = int(seen["processor"])
        rows.append(
            {
                "cpu": number,
                "vendorId": seen.get("vendor_id", ""),
                "family": seen.get("cpu family", ""),
                "model": seen.get("model", ""),
                "stepping": int(seen.get("stepping", "0")) if seen.get("stepping", "0").isdigit() else 0,
                "physicalId": seen.get("physical id", ""),
                "coreId": seen.get("core id", ""),
                "cores": 1,
                "modelName": seen.get("model name", ""),
                "mhz": _max_mhz(number, seen.get("cpu MHz", "0")),
                "cacheSize": int(seen.get("cache size", "0").split()[0] or 0),
                "flags": seen.get("flags", "").split(),
                "microcode": seen.get("microcode", ""),
            }
        )
    return rows


def _max_mhz(number: int, current: str) -> float:
    try:
        return int(_read(f"/sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq")) / 1000
    except (OSError, ValueError):
        return float(current or 0)


@off_loop
def memory() -> dict[str, Any]:
    """info.mem, in bytes."""
    seen = {
        key: _kib(value) for key, value in _fields(_read("/proc/meminfo")).items() if value.endswith("kB")
    }
    total, free = seen["MemTotal"], seen["MemFree"]
    buffers = seen.get("Buffers", 0)
    cached = seen.get("Cached", 0) + seen.get("SReclaimable", 0)
    available = seen.get("MemAvailable", free + buffers + cached)
    used = total - free - buffers - cached
    return {
        "total": total,
        "available": available,
        "used": used,
        "usedPercent": 100 * used / total,
        "free": free,
        "active": seen.get("Active", 0),
        "inactive": seen.get("Inactive", 0),
        "wired": 0,
        "buffers": buffers,
        "cached": cached,
        "writeback": seen.get("Writeback", 0),
        "dirty": seen.get("Dirty", 0),
        "writebacktmp": seen.get("WritebackTmp", 0),
        "shared": seen.get("Shmem", 0),
        "slab": seen.get("Slab", 0),
        "pagetables": seen.get("PageTables", 0),
        "swapcached": seen.get("SwapCached", 0),
    }


@off_loop
def system() -> dict[str, Any]:
    """info.os."""
    name = os.uname()
    release = os_release(next(filter(None, map(_text, _RELEASES)), ""))
    virtualization = _virtualization()
    booted = boot_time()
    return {
        "hostname": name.nodename,
        "uptime": int(time.time()) - booted,
        "bootTime": booted,
        "procs": len(pids()),
        "os": name.sysname.lower(),
        **release,
        "kernelVersion": name.release,
        "virtualizationSystem": virtualization,
        "virtualizationRole": "guest" if virtualization else "host",
        "hostid": _first_line("/etc/machine-id") or _first_line("/proc/sys/kernel/random/boot_id"),
    }


def os_release(text: str) -> dict[str, str]:
    """The three `platform` fields of info.os from the text of an os-release file (os-release(5))."""
    pairs = (line.partition("=") for line in text.splitlines())
    seen = {key: value.strip("\"'") for key, _, value in pairs}
    return {
        "platform": seen.get("ID", ""),
        "platformFamily": seen.get("ID_LIKE", seen.get("ID", "")),
        "platformVersion": seen.get("VERSION_ID", ""),
    }


def _text(path: str) -> str:
    try:
        return _read(path)
    except OSError:
        return ""


def _virtualization() -> str:
    product = f"{_first_line('/sys/class/dmi/id/sys_vendor')} {_first_line('/sys/class/dmi/id/product_name')}"
    for mark, name in (("QEMU", "qemu"), ("KVM", "kvm"), ("VMware", "vmware"), ("VirtualBox", "vbox")):
        if mark in product:
            return name
    return "kvm" if "hypervisor" in _read("/proc/cpuinfo") else ""


def _first_line(path: str) -> str:
    return _text(path).partition("\n")[0].strip()
