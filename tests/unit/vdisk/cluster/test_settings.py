"""The original's YAML (block-storage 3): what it says, what is refused, and that the key is named."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from g8node.errors import InvalidArgument
from g8node.vdisk.cluster import settings
from g8node.vdisk.cluster.settings import Nbd, Server, Static, StorageCluster, parse_file, parse_value
from g8node.vdisk.limits import Limits

EXAMPLE = b"""
vdisks:
  vd1: {type: db, size: 10, blockSize: 4096,
        nbd: {storageClusterID: c1, tlogServerClusterID: t1}, tlog: {zeroStorClusterID: z1}}
storageClusters: {c1: {servers: [{address: "10.0.0.1:2000"}, {address: "10.0.0.2:2000", state: online}]}}
tlogClusters: {t1: {servers: ["10.0.0.3:11211"]}}
zeroStorClusters: {z1: {iyo: {org: o, namespace: n, clientID: "", secret: ""},
  metadataServers: [{address: "10.0.0.4:2379"}], dataShards: 2, parityShards: 1,
  dataServers: [{address: "10.0.0.5:1"}, {address: "10.0.0.6:1"}, {address: "10.0.0.7:1"}]}}
"""


def test_example_of_the_specification_is_understood() -> None:
    vdisk = parse_file(EXAMPLE, "config.yml").vdisks["vd1"]
    assert vdisk.static == Static(block_size=4096, size=10, type="db")
    assert vdisk.storage == StorageCluster((Server("10.0.0.1:2000"), Server("10.0.0.2:2000")))
    assert (vdisk.template, vdisk.slave) == (None, None)
    assert (vdisk.nbd.tlog, vdisk.tlog) == ("t1", settings.Tlog("z1"))
    record = vdisk.static.record("vd1")
    assert (record.size, record.block_size, record.type, record.read_only) == (10 << 30, 4096, "db", False)


def test_toml_of_the_same_shape_is_the_same() -> None:
    text = b"""
[vdisks.vd1]
type = "db"
size = 10
blockSize = 4096
nbd = {storageClusterID = "c1", tlogServerClusterID = "t1"}
tlog = {zeroStorClusterID = "z1"}
[storageClusters]
c1 = {servers = [{address = "10.0.0.1:2000"}, {address = "10.0.0.2:2000", state = "online"}]}
[tlogClusters]
t1 = {servers = ["10.0.0.3:11211"]}
[zeroStorClusters.z1]
iyo = {org = "o", namespace = "n"}
metadataServers = [{address = "10.0.0.4:2379"}]
dataShards = 2
parityShards = 1
dataServers = [{address = "10.0.0.5:1"}, {address = "10.0.0.6:1"}, {address = "10.0.0.7:1"}]
"""
    assert parse_file(text, "config.toml") == parse_file(EXAMPLE, "config.yml")


def test_limits_of_a_vdisk_are_kept_in_etcd() -> None:
    static = Static(4096, 10, "db", limits=Limits(iops=500))
    assert settings.parse_value(settings.encode(static), "key", Static) == static
    assert static.record("vd1").limits.iops == 500
    assert b"limits" not in settings.encode(Static(4096, 10, "db"))


def test_redis_cluster_is_named_by_its_type() -> None:
    def change(tree: Any) -> None:
        tree["storageClusters"]["c1"] |= {"type": "redis-cluster", "replicas": 2}
        tree["storageClusters"]["c1"]["servers"][1].pop("state")

    storage = parse_file(changed(change), "config.yml").vdisks["vd1"].storage
    assert (storage.has_slots, storage.replicas, len(storage.servers)) == (True, 2, 2)


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ({"type": "sentinel"}, r"storageClusters\.c1\.type"),
        ({"type": "redis-cluster", "replicas": -1}, r"storageClusters\.c1\.replicas"),
        ({"type": "redis-cluster", "servers": [{"address": "h:1", "db": 1}]}, r"servers\[0\].*db 0"),
        ({"type": "redis-cluster", "servers": [{"address": "h:1", "state": "rip"}]}, r"servers\[0\].*online"),
    ],
)
def test_wrong_redis_cluster_is_refused(cluster: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_file(changed(lambda tree: tree["storageClusters"]["c1"].update(cluster)), "config.yml")


def test_redis_cluster_has_no_slave() -> None:
    def change(tree: Any) -> None:
        tree["storageClusters"]["c1"]["type"] = "redis-cluster"
        tree["vdisks"]["vd1"]["nbd"]["slaveStorageClusterID"] = "c1"

    with pytest.raises(InvalidArgument, match="slaveStorageClusterID: a Redis Cluster has replicas"):
        parse_file(changed(change), "config.yml")


def changed(change: Callable[[Any], object]) -> bytes:
    tree = yaml.safe_load(EXAMPLE)
    change(tree)
    return yaml.safe_dump(tree).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t["vdisks"]["vd1"].pop("size"), "vdisks.vd1: Object missing required field `size`"),
        (lambda t: t["vdisks"]["vd1"].pop("type"), "vdisks.vd1: Object missing required field `type`"),
        (lambda t: t["vdisks"]["vd1"].pop("nbd"), "vdisks.vd1: Object missing required field `nbd`"),
        (lambda t: t["vdisks"]["vd1"].update(size=0), "vdisks.vd1.size: "),
        (lambda t: t["vdisks"]["vd1"].update(size=65537), "vdisks.vd1.size: "),
        (lambda t: t["vdisks"]["vd1"].update(size="ten"), "vdisks.vd1.size: "),
        (lambda t: t["vdisks"]["vd1"].update(type="disk"), "vdisks.vd1.type: "),
        (lambda t: t["vdisks"]["vd1"].update(readOnly="maybe"), "vdisks.vd1.readOnly: "),
        (lambda t: t["vdisks"]["vd1"].update(blockSize=256), "vdisks.vd1.blockSize: "),
        (
            lambda t: t["vdisks"]["vd1"].update(blockSize=5000),
            "vdisks.vd1.blockSize: expected a power of two",
        ),
        (lambda t: t["vdisks"]["vd1"].update(vdiskTemplateID=[1]), "vdisks.vd1.vdiskTemplateID: "),
        (lambda t: t["vdisks"]["vd1"]["nbd"].pop("storageClusterID"), "vdisks.vd1.nbd: Object missing"),
        (
            lambda t: t["vdisks"]["vd1"]["nbd"].update(storageClusterID="c9"),
            "vdisks.vd1.nbd.storageClusterID: there is no cluster 'c9'",
        ),
        (
            lambda t: t["vdisks"]["vd1"]["nbd"].update(templateStorageClusterID="c9"),
            "vdisks.vd1.nbd.templateStorageClusterID: there is no cluster 'c9'",
        ),
        (
            lambda t: t["vdisks"]["vd1"]["nbd"].update(tlogServerClusterID="t9"),
            "vdisks.vd1.nbd.tlogServerClusterID: there is no cluster 't9'",
        ),
        (
            lambda t: t["vdisks"]["vd1"]["tlog"].update(zeroStorClusterID="z9"),
            "vdisks.vd1.tlog.zeroStorClusterID: there is no cluster 'z9'",
        ),
        (lambda t: t["vdisks"].update({"a b": {}}), "vdisks: expected an id"),
        (lambda t: t.update(vdisks=[1]), "vdisks: expected a mapping"),
        (lambda t: t["storageClusters"]["c1"].update(servers=[]), "storageClusters.c1.servers: "),
        (
            lambda t: t["storageClusters"]["c1"]["servers"][1].pop("address"),
            "storageClusters.c1.servers[1].address: expected host:port",
        ),
        (
            lambda t: t["storageClusters"]["c1"]["servers"][1].update(user="u"),
            "storageClusters.c1.servers[1].password: expected",
        ),
        (
            lambda t: t["storageClusters"]["c1"]["servers"][0].update(tlsAuthority="/ca"),
            "storageClusters.c1.servers[0].tlsAuthority: expected tls",
        ),
        (
            lambda t: t["storageClusters"]["c1"]["servers"][0].update(tls="perhaps"),
            "storageClusters.c1.servers[0].tls: ",
        ),
        (
            lambda t: t["storageClusters"]["c1"]["servers"][1].update(address="host"),
            "storageClusters.c1.servers[1].address: expected host:port",
        ),
        (
            lambda t: t["storageClusters"]["c1"]["servers"][0].update(state="broken"),
            "storageClusters.c1.servers[0].state: ",
        ),
        (
            lambda t: t["storageClusters"]["c1"]["servers"][0].update(db=-1),
            "storageClusters.c1.servers[0].db: ",
        ),
        (
            lambda t: [one.update(state="rip") for one in t["storageClusters"]["c1"]["servers"]],
            "storageClusters.c1.servers: all of them are rip",
        ),
        (lambda t: t["tlogClusters"]["t1"].update(servers=["x"]), "tlogClusters.t1.servers[0]: "),
        (lambda t: t["zeroStorClusters"]["z1"].update(dataShards=3), "zeroStorClusters.z1.dataServers: "),
        (lambda t: t["zeroStorClusters"]["z1"].update(parityShards=0), "zeroStorClusters.z1.parityShards: "),
        (lambda t: t["zeroStorClusters"]["z1"]["iyo"].update(org=""), "zeroStorClusters.z1.iyo.org: "),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Any], object], says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_file(changed(change), "config.yml")
    assert f"config.yml: {says}" in str(refused.value)


def test_slave_cluster_has_at_least_as_many_servers() -> None:
    def change(tree: Any) -> None:
        tree["storageClusters"]["s1"] = {"servers": [{"address": "h:1"}]}
        tree["vdisks"]["vd1"]["nbd"]["slaveStorageClusterID"] = "s1"

    with pytest.raises(InvalidArgument, match=r"vdisks\.vd1\.nbd\.slaveStorageClusterID: .*2 or more"):
        parse_file(changed(change), "config.yml")


def test_server_that_is_gone_needs_no_address() -> None:
    cluster = parse_value(b"servers: [{state: rip}, {address: 'h:1'}]", "k", StorageCluster)
    assert cluster.servers[0] == Server(state="rip")


def test_ids_with_colons_and_of_digits_are_text() -> None:
    def change(tree: Any) -> None:
        tree["vdisks"] |= {"ubuntu:latest": {**tree["vdisks"]["vd1"], "nbd": {"storageClusterID": "c1"}}}
        tree["vdisks"]["ubuntu:latest"].pop("tlog")
        tree["vdisks"][10] = tree["vdisks"].pop("vd1")

    assert set(parse_file(changed(change), "config.yml").vdisks) == {"10", "ubuntu:latest"}


def test_keys_of_etcd_are_the_originals() -> None:
    assert settings.static_key("a:b") == "a:b:vdisk:conf:static"
    assert settings.nbd_key("v") == "v:vdisk:conf:storage:nbd"
    assert settings.tlog_key("v") == "v:vdisk:conf:storage:tlog"
    assert settings.cluster_key("c") == "c:cluster:conf:storage"
    assert settings.zero_stor_key("c") == "c:cluster:conf:zerostor"
    assert settings.tlog_cluster_key("c") == "c:cluster:conf:tlog"
    assert settings.served_key("default") == "default:nbdserver:conf:vdisks"


def test_values_of_etcd_are_understood() -> None:
    static = parse_value(
        b"blockSize: 4096\nreadOnly: true\nsize: 10\ntype: boot\ntemplateVdiskID: ubuntu:latest\n",
        "k",
        Static,
    )
    assert static == Static(4096, 10, "boot", True, "ubuntu:latest")
    nbd = parse_value(b"storageClusterID: a\nslaveStorageClusterID: b\nold: 1\n", "k", Nbd)
    assert nbd == Nbd("a", slave="b")


@pytest.mark.parametrize("text", [b"[", b"1", b"\xff", b"a: &x 1\nb: *x", b"!!python/none x", b"[" * 50])
def test_text_that_is_no_value_is_refused_with_its_key(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="vd:vdisk:conf:static"):
        parse_value(text, "vd:vdisk:conf:static", Static)


def test_server_of_a_command_line() -> None:
    assert settings.parse_server("127.0.0.1:6379@3") == Server("127.0.0.1:6379", 3)
    assert settings.parse_server("[::1]:6379").place() == ("::1", 6379)
    for wrong in ("", "host", "host:0", "host:1@", "host:1@x", "host:1@-1"):
        with pytest.raises(InvalidArgument):
            settings.parse_server(wrong)
