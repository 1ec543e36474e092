"""The node's settings: one frozen tree, declared once, read once (pure).

Defaults < the TOML file < `g8.section.key=value` words of the kernel command line. Key matching is the
original's (spec core0-protocol 1.4): case-insensitive, underscores ignored. An unknown or ill-typed key is
a warning that names file, line and key, and is dropped, because a node must boot; `g8 config check` and the
tests treat warnings as errors.
"""

import re
import tomllib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from g8node.errors import InvalidArgument


class Main(Struct, frozen=True):
    max_jobs: Annotated[int, Meta(ge=1, description="Jobs at once; more wait in core:default.")] = 524288
    include: Annotated[tuple[str, ...], Meta(description="Folders with services and extensions.")] = ()
    network: Annotated[str, Meta(description="Path of network.toml; empty: leave the network alone.")] = ""
    log_level: Annotated[str, Meta(description="debug, info, warning or error.")] = "info"


class Containers(Struct, frozen=True):
    max_count: Annotated[int, Meta(ge=0, le=65534, description="0 means 1000.")] = 1000
    starts: Annotated[int, Meta(ge=1, description="Container starts under way at once.")] = 8
    volumes: Annotated[str, Meta(description="Folder of volumes; empty: var/lib/g8node/volumes.")] = ""


class Network(Struct, frozen=True):
    default: Annotated[
        str, Meta(description="Address of the bridge core0, with the prefix of its network.")
    ] = "172.18.0.1/16"
    vlan_uplink: Annotated[
        str, Meta(description="Link whose VLANs containers join, unless they name one.")
    ] = ""
    vxlan_underlay: Annotated[str, Meta(description="Link that carries VXLANs of containers.")] = ""
    vxlan_group: Annotated[str, Meta(description="Multicast group by which nodes find each other.")] = ""
    vxlan_peers: Annotated[
        tuple[str, ...], Meta(description="Addresses of the other nodes, where there is no multicast.")
    ] = ()


class FileLog(Struct, frozen=True):
    levels: Annotated[tuple[int, ...], Meta(description="Levels kept; empty means all.")] = (2, 4, 7, 8, 9)


class LedisLog(Struct, frozen=True):
    size: Annotated[int, Meta(ge=1, description="Records kept in each logger:* list.")] = 50000


class Logging(Struct, frozen=True):
    file: FileLog = FileLog()
    ledis: LedisLog = LedisLog()


class Stats(Struct, frozen=True):
    enabled: Annotated[bool, Meta(description="Measure the machine and its containers.")] = True
    period_s: Annotated[float, Meta(ge=1, le=3600, description="Seconds between two measurements.")] = 30.0
    listen: Annotated[str, Meta(description="host:port of metrics for Prometheus; empty: none.")] = ""


class Watchdog(Struct, frozen=True):
    device: Annotated[str, Meta(description="Restarts a booted machine that hangs; empty: none.")] = (
        "/dev/watchdog"
    )
    timeout_s: Annotated[int, Meta(ge=5, le=600, description="Seconds without a sign of life.")] = 60


class Screen(Struct, frozen=True):
    console: Annotated[str, Meta(description="Status screen: auto, serial, off, or a terminal as tty2.")] = (
        "auto"
    )
    probe: Annotated[
        str, Meta(description="host:port,... that tell whether the internet is reached; empty: none.")
    ] = "1.1.1.1:80,9.9.9.9:53"


class Cache(Struct, frozen=True):
    disk: Annotated[
        str, Meta(description="Disk for cache and logs: auto, or its name, serial or WWN; empty: none.")
    ] = ""


class Globals(Struct, frozen=True):
    storage: Annotated[str, Meta(description="Default chunk store URL of flists; empty: the flist's.")] = ""
    cache: Annotated[
        str, Meta(description="Folder of chunks, flists and images; empty: var/cache/g8node.")
    ] = ""


RoleName = Literal["reader", "operator", "admin"]


class Jwt(Struct, frozen=True):
    keys: Annotated[tuple[str, ...], Meta(description="PEM files: P-384 for ES384, RSA for RS256.")] = ()
    secrets: Annotated[tuple[str, ...], Meta(description="Files with HS256 secrets, 32 bytes or more.")] = ()
    organizations: Annotated[
        dict[str, RoleName],
        Meta(description="Role of each one's members (azp, scope); none: not asked."),
    ] = {}
    role_claim: Annotated[str, Meta(description="Claim that names the role; empty: none does.")] = "role"
    audience: Annotated[str, Meta(description="What aud must be or contain; empty: anything.")] = ""
    leeway_s: Annotated[float, Meta(ge=0, le=3600, description="Clocks may differ by so much.")] = 60.0


class Gate(Struct, frozen=True):
    listen: Annotated[str, Meta(description="host:port of the network face; empty: none.")] = "0.0.0.0:6379"
    password_file: Annotated[
        str, Meta(description="File with AUTH passwords, one a line: role:password, or bare for admin.")
    ] = "/sys/firmware/qemu_fw_cfg/by_name/opt/g8node/password/raw"
    max_clients: Annotated[int, Meta(ge=1)] = 4096
    tls: Annotated[bool, Meta(description="TLS 1.3 instead of plain TCP.")] = False
    tls_certificate: Annotated[
        str, Meta(description="PEM chain; empty: certificates of an own CA, made at each start.")
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM key of tls_certificate.")] = ""
    tls_names: Annotated[
        tuple[str, ...], Meta(description="More names and addresses in certificates of the own CA.")
    ] = ()
    tls_client_ca: Annotated[str, Meta(description="PEM CA whose client certificates are an identity.")] = ""
    certificate_roles: Annotated[
        dict[str, RoleName], Meta(description="Role by common name of a client certificate; * for the rest.")
    ] = {}
    jwt: Jwt = Jwt()


class Fuse(Struct, frozen=True):
    cache_bytes: Annotated[int, Meta(ge=1 << 20, description="Budget of the chunk cache.")] = 2 << 30
    fetch_bytes: Annotated[int, Meta(ge=1 << 20, description="Chunk data in flight at once.")] = 64 << 20
    around_bytes: Annotated[
        int, Meta(ge=0, le=8 << 20, description="Fetched around a chunk that is missing; 0: nothing.")
    ] = 256 << 10
    read_timeout_s: Annotated[float, Meta(gt=0, description="A read that takes longer answers EIO.")] = 30.0
    flist_bytes: Annotated[int, Meta(ge=1 << 20, description="Largest flist that is downloaded.")] = 1 << 30
    view: Annotated[
        Literal["auto", "erofs", "tree"],
        Meta(description="erofs: the kernel's EROFS; tree: FUSE alone; auto: as the kernel can."),
    ] = "auto"
    require_signature: Annotated[bool, Meta(description="Mount only flists that an allowed key signed.")] = (
        False
    )
    allowed_keys: Annotated[
        tuple[str, ...], Meta(description="Ed25519 public keys, 64 hex digits each, that may sign flists.")
    ] = ()


class VdiskSettings(Struct, frozen=True):
    key_file: Annotated[
        str, Meta(description="File with the master key of encrypted vdisks, 64 to 128 hex digits.")
    ] = ""
    key_command: Annotated[
        list[str],
        Meta(
            description="Program and arguments that print the master key at the start; in place of key_file."
        ),
    ] = []
    folder: Annotated[str, Meta(description="Folder of vdisks; empty: below the state folder.")] = ""
    config: Annotated[
        str,
        Meta(
            description="Configuration of vdisks on clusters: a YAML or TOML file, or host:port,... of etcd."
        ),
    ] = ""
    patience_s: Annotated[
        float,
        Meta(
            ge=0.1, le=600, description="A server of a cluster that does not answer for so long is given up."
        ),
    ] = 8.0
    config_id: Annotated[str, Meta(description="Under which etcd has the list of vdisks.")] = "default"
    listen: Annotated[str, Meta(description="host:port of NBD over TCP; empty: the unix socket only.")] = ""
    plain: Annotated[bool, Meta(description="Let TCP clients come without TLS.")] = False
    tls_certificate: Annotated[str, Meta(description="PEM chain of the NBD server.")] = ""
    tls_key: Annotated[str, Meta(description="PEM key of tls_certificate.")] = ""
    tls_client_ca: Annotated[str, Meta(description="PEM CA that certificates of clients must be of.")] = ""
    tls_psk: Annotated[
        str, Meta(description="File of identity:hex-key lines: TLS with pre-shared keys, no certificate.")
    ] = ""


Extensions = Annotated[dict[str, Any], Meta(description="Commands that run a program; see docs/services.md.")]


class Config(Struct, frozen=True):
    main: Main = Main()
    containers: Containers = Containers()
    network: Network = Network()
    logging: Logging = Logging()
    stats: Stats = Stats()
    watchdog: Watchdog = Watchdog()
    screen: Screen = Screen()
    cache: Cache = Cache()
    extension: Extensions = {}
    globals: Globals = Globals()
    gate: Gate = Gate()
    g8ufs: Fuse = Fuse()
    vdisk: VdiskSettings = VdiskSettings()


def load(text: str, *, file: str = "", overrides: Iterable[tuple[str, str]] = ()) -> tuple[Config, list[str]]:
    """The settings, and one warning for each key that was dropped.

    `overrides` are the kernel command line's words; those of the form g8.section.key are taken. Raises
    InvalidArgument when the file is no TOML at all.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{file or 'configuration'}: {error}") from error
    warnings: list[str] = []
    known = _struct(tree, Config, (), lambda path: _where(text, file, path), warnings)
    for word, value in overrides:
        if match := re.fullmatch(r"g8\.(\w+)\.(\w+)", word):
            section, key = match.groups()
            override = _struct(
                {section: {key: value}}, Config, (), lambda path: "kernel command line", warnings
            )
            for name, fields in override.items():
                known.setdefault(name, {}).update(fields)
    return msgspec.convert(known, Config, strict=False), warnings


def _fold(key: str) -> str:
    return key.replace("_", "").lower()


def _where(text: str, file: str, path: tuple[str, ...]) -> str:
    """file:line of the last key of path; tomllib keeps no positions, so the text is searched."""
    section = ".".join(path[:-1])
    inside = not section
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\]]+)\]", line):
            inside = header[1].replace(" ", "") in (section, ".".join(path))
            if header[1].replace(" ", "") == ".".join(path):
                return f"{file}:{number}"
        elif inside and re.match(rf"\s*[\"']?{re.escape(path[-1])}[\"']?\s*[=.]", line):
            return f"{file}:{number}"
    return file


def _struct(
    tree: Any, kind: type[Struct], path: tuple[str, ...], where: Any, warnings: list[str]
) -> dict[str, Any]:
    """What of tree fits kind, by the struct's own field names; the rest becomes warnings."""
    if not isinstance(tree, dict):
        warnings.append(f"{where(path)}: {'.'.join(path)}: expected a table, dropped")
        return {}
    hints = get_type_hints(kind, include_extras=True)
    names = {_fold(name): name for name in hints}
    known: dict[str, Any] = {}
    for key, value in tree.items():
        here = (*path, key)
        name = names.get(_fold(key))
        if name is None:
            warnings.append(f"{where(here)}: {'.'.join(here)}: unknown key, dropped")
        elif isinstance(hints[name], type) and issubclass(hints[name], Struct):
            known[name] = _struct(value, hints[name], here, where, warnings)
        else:
            try:
                known[name] = msgspec.convert(value, hints[name], strict=False)
            except msgspec.ValidationError as error:
                warnings.append(f"{where(here)}: {'.'.join(here)}: {error}, dropped")
    return known


def describe(kind: type[Struct] = Config, prefix: str = "") -> list[tuple[str, str, Any, str]]:
    """Every setting as (dotted key, type, default, description), for `g8 config show` and the manual."""
    rows: list[tuple[str, str, Any, str]] = []
    for field in msgspec.structs.fields(kind):
        key = f"{prefix}{field.name}"
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            rows += describe(field.type, f"{key}.")
            continue
        plain, text = field.type, ""
        if get_origin(field.type) is Annotated:
            plain, *metas = get_args(field.type)
            text = next((m.description for m in metas if isinstance(m, Meta) and m.description), "")
        rows.append((key, getattr(plain, "__name__", str(plain)), field.default, text))
    return rows
