"""The arguments of `corex.create` (pure): their shape, and what is wrong with them."""

import posixpath
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.node import nicspec
from g8node.node.limits import Limits
from g8node.node.policies import HealthCheck, Restart, health_command
from g8node.node.volumespec import Volume

LAYERS_MAX: Final = 16
DEFAULT_HOSTNAME: Final = "corex"

_NO_MOUNT_POINTS: Final = ("", "dev", "proc")  # no container would start or be entered

_NO_NUL: Final = r"\A[^\x00]*\Z"
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9.-]{1,64}(?<!-)")
ENV_NAME = re.compile(r"[^=\0]+")
_GROUP: Final = r"\A[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,63}\Z"
_USER: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}(:[A-Za-z0-9_.-]{1,256})?", re.ASCII)
_DEVICE: Final = re.compile(r"(/dev/[!-9;-~]{1,200})(?::(/dev/[!-9;-~]{1,200})(?::([rwm]{1,3}))?)?", re.ASCII)
_SYSCTL: Final = re.compile(
    r"(?:net(?:\.[A-Za-z0-9_-]{1,64}){1,6}|fs\.mqueue\.[a-z_]{1,64}|kernel\.(?:shm|msg)[a-z_]{1,32}|kernel\.sem)",
    re.ASCII,
)


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
    nics: Annotated[
        list[nicspec.Nic] | None, Meta(description="network links; none: only lo; see docs/networks.md")
    ] = None
    port: Annotated[
        nicspec.Ports | None, Meta(description="port of the node -> port inside, by the default nic")
    ] = None
    privileged: Annotated[bool | None, Meta(description="all capabilities and devices, no filter")] = None
    userns: Annotated[bool | None, Meta(description="its root is nobody on the node; see docs")] = None
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
        Meta(
            description="what runs as PID 1; default: the flist's entrypoint, else, or if empty, an init"
            " that only waits"
        ),
    ] = None
    workdir: Annotated[
        Annotated[str, Meta(pattern=r"\A(?:|/[^\x00]*)\Z", extra={"kind": "folder inside"})] | None,
        Meta(description="where programs start; default: the flist's, else /"),
    ] = None
    user: Annotated[
        Annotated[str, Meta(extra={"kind": "user"})] | None,
        Meta(description="name or uid, and :group or :gid; default: the flist's, else root"),
    ] = None
    cgroups: Annotated[
        Annotated[
            list[
                Annotated[
                    list[Annotated[str, Meta(pattern=_GROUP, extra={"kind": "group or subsystem"})]],
                    Meta(min_length=2, max_length=2),
                ]
            ],
            Meta(max_length=16),
        ]
        | None,
        Meta(description="[subsystem, name] of control groups that exist, see cgroup.ensure; one name"),
    ] = None
    limits: Annotated[Limits | None, Meta(description="cpu, memory, swap, pids, io; see docs")] = None
    readonly: Annotated[bool | None, Meta(description="nothing can be written to the root")] = None
    size: Annotated[
        Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | None,
        Meta(description="bytes that may be written to root and flists; default: 25 % of memory"),
    ] = None
    tmpfs: Annotated[
        Annotated[
            dict[
                Annotated[str, Meta(extra={"kind": "mount target"})],
                Annotated[int, Meta(ge=4096, le=1 << 50)],
            ],
            Meta(max_length=64),
        ]
        | None,
        Meta(description="absolute path inside -> bytes: folders in memory"),
    ] = None
    volumes: Annotated[
        Annotated[
            dict[Annotated[str, Meta(extra={"kind": "mount target"})], Volume],
            Meta(max_length=64),
        ]
        | None,
        Meta(description="absolute path inside -> {name, size, readonly}: folders that outlive it; see docs"),
    ] = None
    devices: Annotated[
        Annotated[list[Annotated[str, Meta(extra={"kind": "device rule"})]], Meta(max_length=64)] | None,
        Meta(description="/dev/x, /dev/x:/dev/y or /dev/x:/dev/y:rwm; needs the role admin"),
    ] = None
    sysctls: Annotated[
        Annotated[
            dict[
                Annotated[str, Meta(extra={"kind": "sysctl"})],
                Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "text"})],
            ],
            Meta(max_length=64),
        ]
        | None,
        Meta(description="kernel settings of its own namespaces, e.g. net.core.somaxconn"),
    ] = None
    restart: Annotated[Restart | None, Meta(description="policy no, on-failure or always; max_retries")] = (
        None
    )
    health: Annotated[
        HealthCheck | None,
        Meta(description="command, interval, timeout, retries, start_period, restart; see docs"),
    ] = None


def validate(spec: Spec) -> None:
    """InvalidArgument names the first field that is wrong and what it should be."""
    if not spec.root:
        raise InvalidArgument("root: expected an flist (path or URL), got none")
    _validate_layers(spec)
    nicspec.validate(spec.nics or (), spec.port or {})
    if spec.hostname and not _HOSTNAME.fullmatch(spec.hostname):
        raise InvalidArgument(f"hostname: expected 1-64 of A-Z a-z 0-9 . -, got {spec.hostname[:80]!r}")
    for name, value in (spec.env or {}).items():
        if not ENV_NAME.fullmatch(name) or "\0" in value:
            raise InvalidArgument(f"env: expected a name without '=' and no NUL bytes, got {name[:80]!r}")
    for source, target in (spec.mount or {}).items():
        _validate_mount(source, target)
    for path in spec.config or {}:
        if "\0" in path or not path.strip("/"):
            raise InvalidArgument(f"config: expected the path of a file, got {path[:80]!r}")
    command(spec)
    _validate_rights(spec)
    if spec.health is not None:
        health_command(spec.health)


def _validate_rights(spec: Spec) -> None:
    for field in ("privileged", "devices", "host_network") if spec.userns else ():
        if getattr(spec, field):
            raise InvalidArgument(
                f"userns: what {field} gives belongs to the node's root, expected no {field}"
            )
    check_user(spec.user or "")
    for target in spec.tmpfs or {}:
        _validate_target("tmpfs", target)
    _validate_volumes(spec.volumes or {})
    for rule in spec.devices or ():
        device_rule(rule)
    for name in spec.sysctls or {}:
        if not _SYSCTL.fullmatch(name) or (spec.host_network and name.startswith("net.")):
            raise InvalidArgument(
                f"sysctls: expected net.* (with a network of its own), fs.mqueue.*, kernel.shm*, kernel.msg*"
                f" or kernel.sem, got {name[:80]!r}"
            )


def _validate_volumes(volumes: Mapping[str, Volume]) -> None:
    sizes: dict[str, int | None] = {}
    for target, volume in volumes.items():
        _validate_target("volumes", target)
        if sizes.setdefault(volume.name, volume.size) != volume.size:
            raise InvalidArgument(f"volumes: {volume.name} is given two sizes, expected one")


def check_user(user: str) -> None:
    """InvalidArgument unless it is written as a user."""
    if user and not _USER.fullmatch(user):
        raise InvalidArgument(f"user: expected NAME or UID, and :GROUP or :GID, got {user[:80]!r}")


def device_rule(rule: str) -> tuple[str, str, str]:
    """(path on the host, path inside, access) of one of `devices`."""
    match = _DEVICE.fullmatch(rule)
    if match is None or any(posixpath.normpath(path) != path for path in match.group(1, 2) if path):
        raise InvalidArgument(f"devices: expected /dev/x[:/dev/y[:rwm]], got {rule[:200]!r}")
    return match[1], match[2] or match[1], match[3] or "rwm"


def _validate_layers(spec: Spec) -> None:
    layers = spec.layers or []
    if len(layers) > LAYERS_MAX:
        raise InvalidArgument(f"layers: expected at most {LAYERS_MAX} flists, got {len(layers)}")
    if not all(layers):
        raise InvalidArgument("layers: expected flists (path or URL), got an empty one")
    if any(layer.startswith("restic:") for layer in layers):
        raise InvalidArgument("layers: only root can be a snapshot, expected flists")
    if len({spec.root, *layers}) <= len(layers):
        raise InvalidArgument("layers: one flist is named twice, expected different ones")


def mounts_host(spec: Spec) -> bool:
    """Whether a folder or file of the host is mounted: all that is no flist URL."""
    return any("://" not in source for source in spec.mount or {})


def _validate_mount(source: str, target: str) -> None:
    _validate_target("mount", target)
    if "\0" in source or not ("://" in source or source.startswith("/")):
        raise InvalidArgument(f"mount: expected an absolute host path or an flist URL, got {source[:200]!r}")


def _validate_target(field: str, target: str) -> None:
    place = posixpath.normpath(target).lstrip("/")
    if not target.startswith("/") or "\0" in target or place in _NO_MOUNT_POINTS:
        raise InvalidArgument(
            f"{field}: expected an absolute path inside, but not /, /dev or /proc, got {target[:200]!r}"
        )


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
