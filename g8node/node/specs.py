"""The arguments of `corex.create` (pure): their shape, and what is wrong with them."""

import posixpath
import re
import shlex
from typing import Annotated, Final

from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.node import nicspec

LAYERS_MAX: Final = 16
DEFAULT_HOSTNAME: Final = "corex"

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
    nics: Annotated[
        list[nicspec.Nic] | None, Meta(description="network links; none: only lo; see docs/networks.md")
    ] = None
    port: Annotated[
        nicspec.Ports | None, Meta(description="port of the node -> port inside, by the default nic")
    ] = None
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


def validate(spec: Spec) -> None:
    """InvalidArgument names the first field that is wrong and what it should be."""
    if not spec.root:
        raise InvalidArgument("root: expected an flist (path or URL), got none")
    _validate_layers(spec)
    nicspec.validate(spec.nics or (), spec.port or {})
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
