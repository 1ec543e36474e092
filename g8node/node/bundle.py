"""What the OCI runtime is told about a container (pure): the config.json of a bundle.

Capabilities, masked and read-only paths and mounts are those that Podman gives; see opencontainers'
runtime-spec for the words. Everything here is a plain JSON value.
"""

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.linux import oom
from g8node.linux.devices import Device
from g8node.node import seccomp

LAYERS_MAX: Final = 16
DEFAULT_HOSTNAME: Final = "corex"
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

_NO_MOUNT_POINTS: Final = ("", "dev", "proc")  # no container would start or be entered

_NO_NUL: Final = r"\A[^\x00]*\Z"
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9.-]{1,64}(?<!-)")
_ENV_NAME = re.compile(r"[^=\0]+")


class Spec(Struct, frozen=True, omit_defaults=False):
    """The arguments of `corex.create` (spec core0-resources 1.2), as the caller gave them."""

    root: Annotated[
        str, Meta(description="flist of the root: path, file:// or http(s):// URL", extra={"kind": "root"})
    ] = ""
    layers: Annotated[
        list[Annotated[str, Meta(extra={"kind": "root"})]] | None,
        Meta(description="flists over the root, the last on top; see docs/flist.md"),
    ] = None
    mount: Annotated[
        dict[
            Annotated[str, Meta(extra={"kind": "mount source"})],
            Annotated[str, Meta(extra={"kind": "mount target"})],
        ]
        | None,
        Meta(description="host path or flist URL -> absolute path inside"),
    ] = None
    host_network: Annotated[bool | None, Meta(description="share the host's network namespace")] = None
    nics: Annotated[list[Any] | None, Meta(description="network links; only [] for now")] = None
    privileged: Annotated[bool | None, Meta(description="all capabilities and devices, no filter")] = None
    hostname: Annotated[
        Annotated[str, Meta(extra={"kind": "host name"})] | None, Meta(description="default: corex")
    ] = None
    storage: Annotated[
        Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "storage"})] | None,
        Meta(description="chunk stores; default: the flist's own"),
    ] = None
    name: Annotated[
        Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "label or none"})] | None,
        Meta(description="for lookup; need not be unique"),
    ] = None
    tags: list[Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "text"})]] | None = None
    env: Annotated[
        dict[
            Annotated[str, Meta(extra={"kind": "variable"})],
            Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "text"})],
        ]
        | None,
        Meta(description="merged over PATH and HOME"),
    ] = None
    config: Annotated[
        dict[
            Annotated[str, Meta(extra={"kind": "file inside"})], Annotated[str, Meta(extra={"kind": "data"})]
        ]
        | None,
        Meta(description="path -> content, written before the start"),
    ] = None
    command: Annotated[
        Annotated[str, Meta(extra={"kind": "command line"})]
        | list[Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "text"})]]
        | None,
        Meta(description="what runs as PID 1; default: an init that only waits"),
    ] = None


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


def validate(spec: Spec) -> None:
    """InvalidArgument names the first field that is wrong and what it should be."""
    if not spec.root:
        raise InvalidArgument("root: expected an flist (path or URL), got none")
    _validate_layers(spec)
    if spec.nics:
        raise InvalidArgument(
            "nics: expected [] (default, bridge, macvlan, passthrough, vlan, vxlan and zerotier come later)",
            hint="use host_network: true, or nics: [] for a network of its own with only lo",
        )
    if spec.hostname and not _HOSTNAME.fullmatch(spec.hostname):
        raise InvalidArgument(f"hostname: expected 1-64 of A-Z a-z 0-9 . -, got {spec.hostname[:80]!r}")
    for name, value in (spec.env or {}).items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise InvalidArgument(f"env: expected a name without '=' and no NUL bytes, got {name[:80]!r}")
    for source, target in (spec.mount or {}).items():
        _validate_mount(source, target)
    for path in spec.config or {}:
        if "\0" in path or not path.strip("/"):
            raise InvalidArgument(f"config: expected the path of a file, got {path[:80]!r}")
    command(spec)


def _validate_layers(spec: Spec) -> None:
    layers = spec.layers or []
    if len(layers) > LAYERS_MAX:
        raise InvalidArgument(f"layers: expected at most {LAYERS_MAX} flists, got {len(layers)}")
    if not all(layers):
        raise InvalidArgument("layers: expected flists (path or URL), got an empty one")
    if len({spec.root, *layers}) <= len(layers):
        raise InvalidArgument("layers: one flist is named twice, expected different ones")


def mounts_host(spec: Spec) -> bool:
    """Whether a folder or file of the host is mounted: all that is no flist URL."""
    return any("://" not in source for source in spec.mount or {})


def _validate_mount(source: str, target: str) -> None:
    place = posixpath.normpath(target).lstrip("/")
    if not target.startswith("/") or "\0" in target or place in _NO_MOUNT_POINTS:
        raise InvalidArgument(
            f"mount: expected an absolute path inside, but not /, /dev or /proc, got {target[:200]!r}"
        )
    if "\0" in source or not ("://" in source or source.startswith("/")):
        raise InvalidArgument(f"mount: expected an absolute host path or an flist URL, got {source[:200]!r}")


def command(spec: Spec) -> list[str]:
    """argv of the container's PID 1; a string is split as a shell would, without expansions."""
    if not spec.command:
        return []
    words = spec.command
    if isinstance(words, str):
        try:
            words = shlex.split(words)
        except ValueError as error:
            raise InvalidArgument(f"command: {error}", hint="give a list of words") from error
    if not words or not words[0] or any("\0" in word for word in words):
        raise InvalidArgument("command: expected a program and its arguments")
    return words


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
