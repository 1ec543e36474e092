"""What the OCI runtime is told about a container (pure): the config.json of a bundle.

Capabilities, masked and read-only paths and mounts are those that Podman gives; see opencontainers'
runtime-spec for the words. Everything here is a plain JSON value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from g8node.linux import oom
from g8node.linux.devices import Device
from g8node.node import seccomp
from g8node.node.image import Program
from g8node.node.specs import DEFAULT_HOSTNAME, Spec
from g8node.node.users import ROOT, User

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
    volumes: tuple[tuple[str, str, bool], ...] = ()
    """Source, path inside, whether it is read-only."""
    resolv_conf: str = ""
    devices: tuple[tuple[Device, str], ...] = ()
    """Nodes of the host with the access that is given, r, w and m."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Limits, as the runtime wants them."""
    program: Program = field(default_factory=Program)
    user: User = ROOT
    userns: str = ""
    """Path of the user namespace; empty: that of the node."""
    netns: str = ""
    """Path of the network namespace; empty: the runtime makes one."""


def capabilities(spec: Spec, host: Host) -> frozenset[str]:
    """What the container's processes may have: never more than we have ourselves."""
    own = frozenset(name for bit, name in enumerate(CAPABILITIES) if host.capabilities >> bit & 1)
    if spec.privileged:
        return own
    # Without a device cgroup a node made in /dev would open the host's disks.
    return (DEFAULT_CAPABILITIES & own) - (frozenset() if host.cgroups else {"CAP_MKNOD"})


def environment(place: Place, user: User, more: Mapping[str, str] | None = None) -> list[str]:
    home = {"HOME": user.home} if user.home and user.uid else {}
    own = {"G8NODE_CONTAINER_ID": str(place.id)}
    return [f"{k}={v}" for k, v in {**_ENV, **home, **place.program.env, **(more or {}), **own}.items()]


def process(
    spec: Spec,
    host: Host,
    place: Place,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "",
    user: User | None = None,
    terminal: bool = False,
) -> dict[str, Any]:
    """The `process` object: of the bundle, and alone the process.json of an exec."""
    user = place.user if user is None else user
    names = sorted(capabilities(spec, host))
    held = [] if user.uid else names  # as after setuid(2); a setuid program gets them back
    return {
        "terminal": terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(argv),
        "env": environment(place, user, env),
        "cwd": cwd or place.program.cwd,
        "capabilities": {"bounding": names, "effective": held, "permitted": held},
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
    argv = place.program.argv or (INIT, "-P")
    kinds = ["pid", "mount", "ipc", "uts", "cgroup"] + ([] if spec.host_network else ["network"])
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds]}
    if place.netns and not spec.host_network:
        linux["namespaces"][-1]["path"] = place.netns
    if place.userns:
        linux["namespaces"].append({"type": "user", "path": place.userns})
    if place.devices:
        linux["devices"] = [_device(device) for device, _ in place.devices]
    if spec.sysctls:
        linux["sysctl"] = spec.sysctls
    if not spec.privileged:
        linux["maskedPaths"] = list(MASKED)
        linux["readonlyPaths"] = list(READONLY)
        linux["seccomp"] = seccomp.profile(capabilities(spec, host))
    if host.cgroups:
        linux["cgroupsPath"] = f"/{place.cgroup}"
        linux["resources"] = {"devices": _device_rules(spec, place), **place.resources}
    return {
        "annotations": {"run.oci.seccomp_bpf_data": compiled_filter} if compiled_filter else {},
        "ociVersion": "1.0.2",
        "root": {"path": place.rootfs, "readonly": bool(spec.readonly)},
        "hostname": spec.hostname or DEFAULT_HOSTNAME,
        "process": process(spec, host, place, argv),
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


def _device_rules(spec: Spec, place: Place) -> list[dict[str, Any]]:
    """Nodes of any kind may be made, only harmless ones opened; the runtime adds null, zero, tty, pts, ..."""
    if spec.privileged:
        return [{"allow": True, "access": "rwm"}]
    return [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
        {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},  # /dev/net/tun
        *(
            {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": access}
            for node, access in place.devices
        ),
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
    if not place.program.argv:
        mounts.append(_mount(INIT, "bind", "bind", "ro", "nosuid", "nodev", source=host.init))
    if place.resolv_conf:
        mounts.append(_mount("/etc/resolv.conf", "bind", "bind", "ro", *quiet, source=place.resolv_conf))
    extra = [
        _mount(target, "bind", "rbind", "rprivate", "rw", source=source) for source, target in place.binds
    ]
    for source, target, readonly in place.volumes:
        how = ("bind", "rprivate", "ro" if readonly else "rw", "nosuid", "nodev")
        extra.append(_mount(target, "bind", *how, source=source))
    for target, size_bytes in (spec.tmpfs or {}).items():
        extra.append(_mount(target, "tmpfs", "nosuid", "nodev", "mode=1777", f"size={size_bytes}"))
    # A mount point below another one must come after it.
    return mounts + sorted(extra, key=lambda mount: str(mount["destination"]).rstrip("/").count("/"))
