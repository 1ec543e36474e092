"""The configuration of vdisks on clusters (pure): the original's YAML, or TOML of the same shape.

One file has all of it:

    vdisks: {<id>: {type, size (GiB), blockSize, readOnly, vdiskTemplateID, nbd: {...}, tlog: {...}}}
    storageClusters: {<id>: {servers: [{address, db, state}]}}
    tlogClusters, zeroStorClusters: the same by id

In etcd each part is a value of its own; `static_key` and its neighbours say under which key. Keys that are
not known are ignored, as the original did. What is wrong is InvalidArgument and names the key.
"""

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from g8node.errors import InvalidArgument
from g8node.vdisk.limits import Limits
from g8node.vdisk.record import BLOCK_MAX, ID_MAX, SIZE_MAX, Kind, Record
from g8node.wire import yamltext

T = TypeVar("T")

TEXT_BYTES_MAX: Final = 4 << 20
_DEPTH: Final = 8
GIB: Final = 1 << 30

ServerState = Literal["online", "offline", "repair", "respread", "rip"]
Id = Annotated[str, Meta(pattern=rf"\A[!-~]{{1,{ID_MAX}}}\Z")]
IdOrNone = Annotated[str, Meta(pattern=rf"\A[!-~]{{0,{ID_MAX}}}\Z")]
Address = Annotated[str, Meta(max_length=300)]
Secret = Annotated[str, Meta(max_length=1024)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Gib = Annotated[int, Meta(ge=1, le=SIZE_MAX // GIB)]
BlockSize = Annotated[int, Meta(ge=512, le=BLOCK_MAX)]
Shards = Annotated[int, Meta(ge=1, le=255)]


class Server(Struct, frozen=True):
    """One redis-protocol server; without an address only when it is gone for good.

    `user`, `password`, `tls` and `authority` (a file of certificates; else the system's) are ours, not the
    original's.
    """

    address: Address = ""
    db: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    state: ServerState = "online"
    user: Secret = ""
    password: Secret = ""
    tls: bool = False
    authority: Annotated[str, Meta(max_length=4096)] = field(default="", name="tlsAuthority")

    def __repr__(self) -> str:
        return f"{self.address}@{self.db}"

    def check(self, where: str) -> None:
        if self.address or self.state != "rip":
            host_port(self.address, f"{where}.address")
        if self.user and not self.password:
            raise InvalidArgument(f"{where}.password: expected one for the user")
        if self.authority and not self.tls:
            raise InvalidArgument(f"{where}.tlsAuthority: expected tls: true")

    def place(self) -> tuple[str, int]:
        return host_port(self.address, "address")

    def login(self) -> tuple[str, ...]:
        """The command, if there is a password."""
        if not self.password:
            return ()
        return ("AUTH", self.user, self.password) if self.user else ("AUTH", self.password)


class StorageCluster(Struct, frozen=True):
    """`type` and `replicas` are ours, not the original's.

    `servers` of a Redis Cluster are some of those that it has; a change is answered when `replicas` of its
    replicas have it.
    """

    servers: Annotated[tuple[Server, ...], Meta(min_length=1, max_length=1024)]
    type: Literal["servers", "redis-cluster"] = "servers"
    replicas: Annotated[int, Meta(ge=0, le=16)] = 1

    @property
    def has_slots(self) -> bool:
        """Whether it is a Redis Cluster, which knows by itself which server has what."""
        return self.type == "redis-cluster"

    def check(self) -> None:
        for number, server in enumerate(self.servers):
            server.check(f"servers[{number}]")
            if self.has_slots and (server.state != "online" or server.db):
                raise InvalidArgument(f"servers[{number}]: in a Redis Cluster all are online, with db 0")
        if all(server.state == "rip" for server in self.servers):
            raise InvalidArgument("servers: all of them are rip")


class TlogCluster(Struct, frozen=True):
    """Servers of the log, the active one first."""

    servers: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=300)], ...], Meta(min_length=1)]

    def check(self) -> None:
        for number, address in enumerate(self.servers):
            host_port(address, f"servers[{number}]")


class Iyo(Struct, frozen=True):
    org: Annotated[str, Meta(min_length=1)]
    namespace: Annotated[str, Meta(min_length=1)]
    client_id: str = field(default="", name="clientID")
    secret: str = ""


class Place(Struct, frozen=True):
    address: Address


class ZeroStorCluster(Struct, frozen=True, rename="camel"):
    iyo: Iyo
    metadata_servers: Annotated[tuple[Place, ...], Meta(min_length=1)]
    data_servers: Annotated[tuple[Place, ...], Meta(min_length=1)]
    data_shards: Shards
    parity_shards: Shards

    def check(self) -> None:
        for name, servers in (("metadataServers", self.metadata_servers), ("dataServers", self.data_servers)):
            for number, server in enumerate(servers):
                host_port(server.address, f"{name}[{number}].address")
        wanted = self.data_shards + self.parity_shards
        if len(self.data_servers) != wanted:
            raise InvalidArgument(
                f"dataServers: expected {wanted}, as many as dataShards and parityShards, "
                f"not {len(self.data_servers)}"
            )


class Static(Struct, frozen=True):
    """What a vdisk is. `size` in GiB. `limits` are ours, not the original's."""

    block_size: BlockSize = field(name="blockSize")
    size: Gib
    type: Kind
    read_only: bool = field(default=False, name="readOnly")
    template: IdOrNone = field(default="", name="templateVdiskID")
    limits: Limits = Limits()

    def check(self) -> None:
        if self.block_size & (self.block_size - 1):
            raise InvalidArgument(f"blockSize: expected a power of two, not {self.block_size}")

    def record(self, vdisk: str) -> Record:
        """The same as the node's own vdisks have it."""
        return Record(
            id=vdisk,
            type=self.type,
            size=self.size * GIB,
            block_size=self.block_size,
            read_only=self.read_only,
            limits=self.limits,
        )


class Nbd(Struct, frozen=True):
    """Where a vdisk's blocks lie: ids of clusters."""

    storage: Id = field(name="storageClusterID")
    template: IdOrNone = field(default="", name="templateStorageClusterID")
    slave: IdOrNone = field(default="", name="slaveStorageClusterID")
    tlog: IdOrNone = field(default="", name="tlogServerClusterID")

    def check(self) -> None:
        """Nothing beyond the types."""


class Tlog(Struct, frozen=True):
    zero_stor: Id = field(name="zeroStorClusterID")

    def check(self) -> None:
        """Nothing beyond the types."""


class VdiskList(Struct, frozen=True):
    """What one server serves."""

    vdisks: tuple[Id, ...]

    def check(self) -> None:
        """Nothing beyond the types."""


class Vdisk(Struct, frozen=True):
    """One vdisk with all that it refers to."""

    id: str
    static: Static
    nbd: Nbd
    storage: StorageCluster
    template: StorageCluster | None = None
    slave: StorageCluster | None = None
    tlog: Tlog | None = None

    def check(self) -> None:
        if self.slave is not None and (self.storage.has_slots or self.slave.has_slots):
            raise InvalidArgument("slaveStorageClusterID: a Redis Cluster has replicas, and is no slave")
        if self.slave is not None and len(self.slave.servers) < len(self.storage.servers):
            raise InvalidArgument(
                f"slaveStorageClusterID: cluster {self.nbd.slave!r} has {len(self.slave.servers)} servers, "
                f"expected {len(self.storage.servers)} or more, as {self.nbd.storage!r} has"
            )


class Configuration(Struct, frozen=True):
    """All vdisks of one server, by id."""

    vdisks: dict[str, Vdisk]


def host_port(address: str, key: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or " " in host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{key}: expected host:port, not {address[:80]!r}")
    return host, int(port)


def parse_server(text: str) -> Server:
    """One server on a command line: `host:port[@db]`."""
    address, at, db = text.partition("@")
    if at and not (db.isascii() and db.isdigit() and len(db) < 8):
        raise InvalidArgument(f"server {text[:80]!r}: expected host:port or host:port@db")
    host_port(address, f"server {text[:80]!r}")
    return Server(address, int(db or 0))


# Values of etcd


def static_key(vdisk: str) -> str:
    return f"{vdisk}:vdisk:conf:static"


def nbd_key(vdisk: str) -> str:
    return f"{vdisk}:vdisk:conf:storage:nbd"


def tlog_key(vdisk: str) -> str:
    return f"{vdisk}:vdisk:conf:storage:tlog"


def cluster_key(cluster: str) -> str:
    return f"{cluster}:cluster:conf:storage"


def zero_stor_key(cluster: str) -> str:
    return f"{cluster}:cluster:conf:zerostor"


def tlog_cluster_key(cluster: str) -> str:
    return f"{cluster}:cluster:conf:tlog"


def served_key(server: str) -> str:
    return f"{server}:nbdserver:conf:vdisks"


def parse_value(text: bytes, key: str, type: type[T]) -> T:
    """One YAML value."""
    if len(text) > TEXT_BYTES_MAX:
        raise InvalidArgument(f"{key}: {len(text)} bytes, limit {TEXT_BYTES_MAX}")
    return convert(yamltext.load(text, key, depth=_DEPTH), key, type)


def convert(tree: Any, where: str, type: type[T]) -> T:
    """A tree of mappings as what it should be; `where` begins what an error says."""
    try:
        value = msgspec.convert(tree, type, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        inside = path.rstrip("`")
        raise InvalidArgument(f"{where}{inside}: {reason}") from None
    try:
        value.check()  # type: ignore[attr-defined]  # every type here has it
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}.{error.message}") from None
    return value


def encode(value: Static | Nbd | VdiskList) -> bytes:
    """A value of etcd: JSON, which is YAML as well; what is empty is left out."""
    empty = ("", None, msgspec.to_builtins(Limits()))
    tree = {key: one for key, one in msgspec.to_builtins(value).items() if one not in empty}
    return msgspec.json.encode(tree)


# The file


def parse_file(text: bytes, name: str) -> Configuration:
    """YAML, or TOML when the name ends so."""
    if len(text) > TEXT_BYTES_MAX:
        raise InvalidArgument(f"{name}: {len(text)} bytes, limit {TEXT_BYTES_MAX}")
    if name.endswith(".toml"):
        try:
            tree: Any = tomllib.loads(text.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgument(f"{name}: {error}") from None
    else:
        tree = yamltext.load(text, name, depth=_DEPTH)
    if not isinstance(tree, dict):
        raise InvalidArgument(f"{name}: expected a mapping with vdisks and storageClusters")
    clusters = _section(tree, name, "storageClusters", StorageCluster)
    tlogs = _section(tree, name, "tlogClusters", TlogCluster)
    zero_stors = _section(tree, name, "zeroStorClusters", ZeroStorCluster)
    made = {}
    for vdisk, entry in _mapping(tree, name, "vdisks").items():
        where = f"{name}: vdisks.{vdisk}"
        static, nbd, tlog = _vdisk(entry, vdisk, where)
        _refer(tlogs, nbd.tlog, f"{where}.nbd.tlogServerClusterID")
        if tlog is not None:
            _refer(zero_stors, tlog.zero_stor, f"{where}.tlog.zeroStorClusterID")
        made[vdisk] = compose(vdisk, static, nbd, tlog, clusters, where=where)
    return Configuration(made)


def _mapping(tree: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    section = tree.get(key) or {}
    if not isinstance(section, dict):
        raise InvalidArgument(f"{name}: {key}: expected a mapping by id")
    for one in section:
        try:
            msgspec.convert(one, Id)
        except msgspec.ValidationError:
            expected = f"an id of 1 to {ID_MAX} printable ASCII characters without spaces"
            raise InvalidArgument(f"{name}: {key}: expected {expected}, not {str(one)[:100]!r}") from None
    return section


def _section(tree: dict[str, Any], name: str, key: str, type: type[T]) -> dict[str, T]:
    section = _mapping(tree, name, key)
    return {one: convert(value, f"{name}: {key}.{one}", type) for one, value in section.items()}


def _vdisk(entry: Any, vdisk: str, where: str) -> tuple[Static, Nbd, Tlog | None]:
    """The file has the parts of a vdisk in one mapping, and another name for the template's vdisk."""
    if not isinstance(entry, dict):
        raise InvalidArgument(f"{where}: expected a mapping")
    if "nbd" not in entry:
        raise InvalidArgument(f"{where}: Object missing required field `nbd`")
    static = dict(entry)
    template = static.pop("vdiskTemplateID", "")
    if not isinstance(template, str):
        raise InvalidArgument(f"{where}.vdiskTemplateID: expected the id of a vdisk")
    static["templateVdiskID"] = template
    tlog = convert(entry["tlog"], f"{where}.tlog", Tlog) if "tlog" in entry else None
    return convert(static, where, Static), convert(entry["nbd"], f"{where}.nbd", Nbd), tlog


def compose(
    vdisk: str,
    static: Static,
    nbd: Nbd,
    tlog: Tlog | None,
    clusters: Mapping[str, StorageCluster],
    *,
    where: str,
) -> Vdisk:
    """A vdisk with its clusters."""
    found = [
        _refer(clusters, cluster, f"{where}.nbd.{key}")
        for cluster, key in (
            (nbd.storage, "storageClusterID"),
            (nbd.template, "templateStorageClusterID"),
            (nbd.slave, "slaveStorageClusterID"),
        )
    ]
    assert found[0] is not None
    made = Vdisk(vdisk, static, nbd, found[0], found[1], found[2], tlog)
    try:
        made.check()
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}.nbd.{error.message}") from None
    return made


def _refer(clusters: Mapping[str, T], cluster: str, key: str) -> T | None:
    if not cluster:
        return None
    if cluster not in clusters:
        raise InvalidArgument(f"{key}: there is no cluster {cluster!r}")
    return clusters[cluster]
