"""What the OCI runtime is told about a container (pure): the config.json of a bundle.

Capabilities, masked and read-only paths and mounts are those that Podman gives; see opencontainers'
runtime-spec for the words. Everything here is a plain JSON value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from g8node.linux import oom
from g8node.linux.devices import Device
from g8node.node import seccomp
from g8node.node.specs import DEFAULT_HOSTNAME, Spec, command

INIT: Final = "/dev/init"
_ENV: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}

# By number, include/uapi/linux/capability.h.
_CAPABILITIES: Final = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
"""
_DEFAULT_CAPABILITIES: Final = """
    AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID
    SETPCAP SETUID SYS_CHROOT
"""
CAPABILITIES: Final = tuple(f"CAP_{name}" for name in _CAPABILITIES.split())
DEFAULT_CAPABILITIES: Final = frozenset(f"CAP_{name}" for name in _DEFAULT_CAPABILITIES.split())

MASKED: Final = (
    "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/timer_list", "/proc/timer_stats", "/sys/dev/block", "/sys/devices/virtual/powercap",
    "/sys/firmware", "/sys/fs/selinux",
)  # fmt: skip
READONLY: Final = (
    "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Host:
    """What the host can give: found out once."""

    capabilities: int
    cgroups: bool
    open_files: int
    init: str = "/usr/bin/catatonit"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container's parts are on the host."""

    id: int
    rootfs: str
    cgroup: str
    binds: tuple[tuple[str, str], ...] = ()
    resolv_conf: str = ""
    devices: tuple[Device, ...] = ()
    netns: str = ""
    """Path of the network namespace; empty: the runtime makes one."""


def capabilities(spec: Spec, host: Host) -> frozenset[str]:
    """What the container's processes may have: never more than we have ourselves."""
    own = frozenset(name for bit, name in enumerate(CAPABILITIES) if host.capabilities >> bit & 1)
    if spec.privileged:
        return own
    # Without a device cgroup a node made in /dev would open the host's disks.
    return (DEFAULT_CAPABILITIES & own) - (frozenset() if host.cgroups else {"CAP_MKNOD"})


def environment(spec: Spec, container_id: int, more: Mapping[str, str] | None = None) -> list[str]:
    merged = {**_ENV, **(spec.env or {}), **(more or {}), "G8NODE_CONTAINER_ID": str(container_id)}
    return [f"{name}={value}" for name, value in merged.items()]


def process(
    spec: Spec,
    host: Host,
    container_id: int,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    uid: int = 0,
    gid: int = 0,
) -> dict[str, Any]:
    """The `process` object: of the bundle, and alone the process.json of an exec."""
    names = sorted(capabilities(spec, host))
    return {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": list(argv),
        "env": environment(spec, container_id, env),
        "cwd": cwd,
        "capabilities": {"bounding": names, "effective": names, "permitted": names},
        "rlimits": [
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {
                "type": "RLIMIT_NOFILE",
                "soft": min(65536, host.open_files),
                "hard": min(1048576, host.open_files),
            },
        ],
        "noNewPrivileges": False,
        "oomScoreAdj": oom.CONTAINERS,
    }


def config(spec: Spec, host: Host, place: Place, *, compiled_filter: str = "") -> dict[str, Any]:
    """The whole config.json. `compiled_filter`: the system call filter as the runtime compiled it before."""
    argv = command(spec) or [INIT, "-P"]
    kinds = ["pid", "mount", "ipc", "uts", "cgroup"] + ([] if spec.host_network else ["network"])
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds]}
    if place.netns and not spec.host_network:
        linux["namespaces"][-1]["path"] = place.netns
    if spec.privileged:
        linux["devices"] = [_device(device) for device in place.devices]
    else:
        linux["maskedPaths"] = list(MASKED)
        linux["readonlyPaths"] = list(READONLY)
        linux["seccomp"] = seccomp.profile(capabilities(spec, host))
    if host.cgroups:
        linux["cgroupsPath"] = f"/{place.cgroup}"
        linux["resources"] = {"devices": _device_rules(bool(spec.privileged))}
    return {
        "annotations": {"run.oci.seccomp_bpf_data": compiled_filter} if compiled_filter else {},
        "ociVersion": "1.0.2",
        "root": {"path": place.rootfs, "readonly": False},
        "hostname": spec.hostname or DEFAULT_HOSTNAME,
        "process": process(spec, host, place.id, argv),
        "mounts": _mounts(spec, host, place),
        "linux": linux,
    }


def _device(device: Device) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }


def _device_rules(privileged: bool) -> list[dict[str, Any]]:
    """Nodes of any kind may be made, only harmless ones opened; the runtime adds null, zero, tty, pts, ..."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    return [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
        {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},  # /dev/net/tun
    ]


def _mount(target: str, fstype: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": fstype, "source": source or fstype, "options": list(options)}


def _mounts(spec: Spec, host: Host, place: Place) -> list[dict[str, Any]]:
    quiet = ("nosuid", "noexec", "nodev")
    mounts = [
        _mount("/proc", "proc", *quiet),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/mqueue", "mqueue", *quiet),
        _mount("/dev/shm", "tmpfs", *quiet, "mode=1777", "size=65536k"),
        _mount("/sys", "sysfs", *quiet, "rw" if spec.privileged else "ro"),
    ]
    if host.cgroups:
        mounts.append(
            _mount("/sys/fs/cgroup", "cgroup", *quiet, "relatime", "rw" if spec.privileged else "ro")
        )
    if not spec.command:
        mounts.append(_mount(INIT, "bind", "bind", "ro", "nosuid", "nodev", source=host.init))
    if place.resolv_conf:
        mounts.append(_mount("/etc/resolv.conf", "bind", "bind", "ro", *quiet, source=place.resolv_conf))
    # A mount point below another one must come after it.
    for source, target in sorted(place.binds, key=lambda bind: bind[1].rstrip("/").count("/")):
        mounts.append(_mount(target, "bind", "rbind", "rprivate", "rw", source=source))
    return mounts
