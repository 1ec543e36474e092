"""vdisks on clusters by way of `g8 vdisk serve --config` and of an agent, with real clients."""

import itertools
import json
import signal
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from g8node.wire import nbd
from g8tools.up.vm import free_port
from tests.support.clusters import KEPT, redis_servers, yaml_of
from tests.support.daemon import Daemon, daemon, refused
from tests.support.etcd import etcd_server
from tests.support.servers import RedisProcess
from tests.support.vdisks import Client, ServedConfig, run

BLOCK = 4096


@pytest.fixture
def four(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "primary", 4, *KEPT) as servers:
        yield servers


@pytest.fixture
def slaves(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "slave", 4, *KEPT) as servers:
        yield servers


def until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def events(served: ServedConfig) -> list[int]:
    written = served.log().rpartition("\n")[0]  # the last row may be half there
    rows = [row[4:] for row in written.split("\n") if row.startswith("20::")]
    return [json.loads(row)["status"] for row in rows]


def verify_while(served: ServedConfig, megabytes: int, disturb: Callable[[Client], None]) -> None:
    """fio writes, something happens, fio reads all it wrote. The client is for what is not fio's."""
    job = ["fio", "--name=job", "--ioengine=nbd", f"--uri={served.uri()}", "--bs=4k", "--iodepth=32"]
    job += ["--rw=randwrite", "--size=64M", f"--io_size={megabytes}M", "--verify=crc32c", "--verify_fatal=1"]
    failed: list[Exception] = []

    def work() -> None:
        try:
            run(*job, f"--aux-path={served.folder}", "--fsync=256")
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failed.append(error)

    keeper = served.client()  # the vdisk stays open, and its servers are healed, when fio has ended
    fio = threading.Thread(target=work)
    fio.start()
    try:
        disturb(keeper)
    finally:
        fio.join()
        keeper.close()
    if failed:
        raise failed[0]


def server_trouble(
    primary: list[RedisProcess], slaves: list[RedisProcess], served: ServedConfig, client: Client
) -> None:
    """The client writes, too: a server that nobody uses, because fio has ended, is not missed."""
    numbers = itertools.count()

    def told(condition: Callable[[list[int]], bool]) -> bool:
        number = next(numbers)
        for server in range(4):  # of blocks, and of sectors of hashes
            block = (512 << 20) // BLOCK + 129 * server
            client.write(block * BLOCK, struct.pack(">QQ", number, server) * (BLOCK // 16))
        client.flush()
        return condition(events(served))

    primary[1].kill()
    until(lambda: told(lambda rows: 422 in rows))
    primary[1].up()
    until(lambda: told(lambda rows: 210 in rows))
    slaves[2].stop()
    until(lambda: told(lambda rows: 421 in rows))
    slaves[2].resume()
    until(lambda: told(lambda rows: rows.count(210) >= 2))


@pytest.mark.parametrize("kind", ["db", "boot"])
def test_fio_finds_all_it_wrote_while_servers_die_and_stand_still(
    four: list[RedisProcess], slaves: list[RedisProcess], tmp_path: Path, kind: str
) -> None:
    text = yaml_of(four, slaves, kind=kind)
    with ServedConfig(tmp_path / "nbd", text, "--patience", "4").running() as served:
        verify_while(served, 64, partial(server_trouble, four, slaves, served))


def states(primary: list[RedisProcess], slaves: list[RedisProcess], served: ServedConfig, kind: str) -> None:
    """Every state of a server, by changes of the file."""

    def say(state: str) -> None:
        address = f'{{address: "127.0.0.1:{primary[2].port}"'
        served.replace(yaml_of(primary, slaves, kind=kind).replace(address, f"{address}, state: {state}"))

    say("repair")
    until(lambda: 210 in events(served))
    say("online")
    say("respread")
    until(lambda: 211 in events(served))
    say("rip")
    primary[2].kill()
    slaves[2].kill()


@pytest.mark.parametrize("kind", ["db", pytest.param("boot", marks=pytest.mark.soak)])
def test_fio_finds_all_it_wrote_while_a_server_is_repaired_spread_and_gone(
    four: list[RedisProcess], slaves: list[RedisProcess], tmp_path: Path, kind: str
) -> None:
    with ServedConfig(
        tmp_path / "nbd", yaml_of(four, slaves, kind=kind), "--patience", "4"
    ).running() as served:
        verify_while(served, 64, lambda _: states(four, slaves, served, kind))


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["db", "boot"])
def test_fio_finds_all_it_wrote_while_servers_fail_again_and_again(
    four: list[RedisProcess], slaves: list[RedisProcess], tmp_path: Path, kind: str
) -> None:
    for round_ in range(10):
        folder = tmp_path / f"nbd{round_}"
        with ServedConfig(folder, yaml_of(four, slaves, kind=kind)).running() as served:
            verify_while(served, 64, partial(server_trouble, four, slaves, served))


def test_answered_writes_are_there_after_the_server_was_killed(
    four: list[RedisProcess], tmp_path: Path
) -> None:
    with ServedConfig(tmp_path / "nbd", yaml_of(four)).running() as served:
        client = served.client()
        for number in range(50):
            client.write(number * BLOCK, bytes([number + 1]) * BLOCK)
        served.kill()
        client.close()
        served.start()
        client = served.client()
        for number in range(50):
            assert client.read(number * BLOCK, BLOCK) == bytes([number + 1]) * BLOCK
        client.close()


def test_flushed_writes_of_a_deduplicated_vdisk_are_there_after_the_server_was_killed(
    four: list[RedisProcess], tmp_path: Path
) -> None:
    with ServedConfig(tmp_path / "nbd", yaml_of(four, kind="boot")).running() as served:
        client = served.client()
        for number in range(50):
            client.write(number * BLOCK, bytes([number + 1]) * BLOCK)
        client.flush()
        client.write(0, b"x" * BLOCK)
        served.kill()
        client.close()
        served.start()
        client = served.client()
        assert client.read(0, BLOCK) in (b"\1" * BLOCK, b"x" * BLOCK)
        for number in range(1, 50):
            assert client.read(number * BLOCK, BLOCK) == bytes([number + 1]) * BLOCK
        client.close()


def test_figures_are_printed_as_the_original_did(four: list[RedisProcess], tmp_path: Path) -> None:
    with ServedConfig(tmp_path / "nbd", yaml_of(four), "--figures", "1").running() as served:
        client = served.client()
        client.write(0, b"x" * BLOCK)
        until(lambda: "10::vdisk.throughput.write@virt.vd:4.000000|A|cluster=primary\n" in served.log())
        until(lambda: "10::vdisk.iops.read@virt.vd:0.000000|A|cluster=primary\n" in served.log())
        client.close()


def test_two_connections_see_each_other(four: list[RedisProcess], tmp_path: Path) -> None:
    with ServedConfig(tmp_path / "nbd", yaml_of(four, kind="boot")).running() as served:
        one, other = served.client(), served.client()
        one.write(0, b"a" * BLOCK)
        assert other.read(0, BLOCK) == b"a" * BLOCK
        one.flush()
        other.write(512, b"b" * 512)
        assert one.read(0, BLOCK) == (b"a" * 512 + b"b" * 512).ljust(BLOCK, b"a")
        one.close()
        other.close()


def test_real_clients_copy_there_and_back(four: list[RedisProcess], tmp_path: Path) -> None:
    image, back = tmp_path / "image", tmp_path / "back"
    with open("/dev/urandom", "rb") as source:
        image.write_bytes(bytes(1 << 20) + source.read(1 << 20) + bytes(2 << 20))
    with ServedConfig(tmp_path / "nbd", yaml_of(four)).running() as served:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), served.uri())
        run("nbdcopy", "--", served.uri(), str(back))
        shown = run("nbdinfo", served.uri()).stdout
    assert "export-size: 1073741824" in shown
    with back.open("rb") as copied:
        assert copied.read(4 << 20) == image.read_bytes()


def test_file_that_changes_grows_a_vdisk_in_use(four: list[RedisProcess], tmp_path: Path) -> None:
    text = yaml_of(four)
    with ServedConfig(tmp_path / "nbd", text).running() as served:
        client = served.client()
        client.write(0, b"kept" * 1024)
        served.replace(text.replace("size: 1,", "size: 2,"))
        assert served.process is not None
        served.process.send_signal(signal.SIGHUP)

        def grown() -> bool:
            other = served.client()
            size = other.size
            other.close()
            return size == 2 << 30

        until(grown)
        assert client.read(0, BLOCK) == b"kept" * 1024
        served.replace("vdisks: [")
        until(lambda: 403 in events(served))
        assert client.read(0, BLOCK) == b"kept" * 1024
        client.close()


def test_configuration_in_etcd_is_served_and_followed(four: list[RedisProcess], tmp_path: Path) -> None:
    def cluster(state: str) -> str:
        rows = [f"- {{address: '127.0.0.1:{server.port}', state: {state}}}" for server in four]
        return "\n".join(["servers:", *rows])

    values = {
        "vm7:nbdserver:conf:vdisks": "vdisks: [vd]",
        "vd:vdisk:conf:static": "{blockSize: 4096, size: 1, type: db}",
        "vd:vdisk:conf:storage:nbd": "storageClusterID: c",
        "c:cluster:conf:storage": cluster("online"),
    }
    with etcd_server(tmp_path / "etcd") as etcd:
        etcd.put(values)
        served = ServedConfig(tmp_path / "nbd", "", "--id", "vm7")
        served.places = etcd.place
        with served.running():
            client = served.client()
            client.write(0, b"kept" * 1024)
            etcd.put({"c:cluster:conf:storage": cluster("offline")})
            until(lambda: client.call(nbd.CMD_READ, 0, BLOCK).error == nbd.EIO)
            etcd.put({"c:cluster:conf:storage": cluster("online")})
            until(lambda: client.call(nbd.CMD_READ, 0, BLOCK).error == 0)
            assert client.read(0, BLOCK) == b"kept" * 1024
            etcd.put({"c:cluster:conf:storage": "servers: []"})
            until(lambda: 403 in events(served))
            assert client.read(0, BLOCK) == b"kept" * 1024
            client.close()


# A node


@pytest.fixture
def node(four: list[RedisProcess], tmp_path: Path) -> Iterator[Daemon]:
    config = tmp_path / "vdisks.yml"
    config.write_text("vdisks: [")
    settings = f'[vdisk]\nconfig = "{config}"\n[stats]\nlisten = "127.0.0.1:{free_port()}"\n'
    with daemon(tmp_path / "node", settings) as running:
        assert "problem" not in running.direct("core.state")["vdisks"]
        config.write_text(yaml_of(four))
        until(lambda: bool(running.direct("vdisk.clusters")))
        yield running
        assert "Traceback" not in running.log()


@pytest.mark.root
@pytest.mark.fuse
def test_node_serves_vdisks_on_clusters_beside_its_own(node: Daemon, four: list[RedisProcess]) -> None:
    node.direct("vdisk.create", id="own", size=1 << 20)
    (before,) = node.direct("vdisk.clusters")
    assert (before["id"], before["size"], before["servers"], before["counters"]) == ("vd", 1 << 30, [], None)
    run("qemu-io", "-f", "raw", "-c", "write -P 3 0 64k", "-c", "flush", before["uri"])
    listed = run("nbdinfo", "--list", f"nbd+unix:///?socket={node.folder}/root/run/nbd.sock").stdout
    assert 'export="vd"' in listed
    assert 'export="own"' in listed
    client = Client(str(node.folder / "root/run/nbd.sock"), "vd")
    assert client.read(0, 16) == b"\3" * 16
    (during,) = node.direct("vdisk.clusters")
    assert [row["state"] for row in during["servers"]] == ["online"] * 4
    assert during["counters"]["read_ops"] == 1
    page = metrics(node)
    assert 'g8node_vdisk_read_ops_total{vdisk="vd"} 1\n' in page
    assert (
        f'g8node_vdisk_server_up{{vdisk="vd",server="127.0.0.1:{four[0].port}@0",type="primary"}} 1.0' in page
    )
    assert node.direct("vdisk.info", id="vd")["cluster"] == "primary"
    assert refused(node, "vdisk.delete", id="vd").startswith("409 ")
    client.close()
    assert node.direct("core.state")["vdisks"]["on_clusters"] == 1
    assert refused(node, "vdisk.create", id="new", size=1 << 30, cluster="primary").startswith("409 ")
    assert "encrypted" in refused(
        node, "vdisk.create", id="new", size=1 << 30, cluster="primary", encrypted=True
    )
    assert "slave_cluster" in refused(node, "vdisk.create", id="new", size=1 << 30, slave_cluster="x")
    assert refused(node, "vdisk.copy", id="vd", target="own").startswith("409 ")
    assert "change it in the file" in refused(node, "vdisk.resize", id="vd", size=2 << 30)
    assert "change it in the file" in refused(node, "vdisk.limit", id="vd", iops=5)
    assert "expected a vdisk of a folder" in refused(node, "vdisk.check", id="vd")
    assert refused(node, "vdisk.gc-cluster", cluster="nosuch").startswith("404 ")
    assert node.direct("vdisk.gc-cluster", cluster="primary") == {"blocks": 0, "bytes": 0, "kept": 0}
    until(lambda: node.direct("vdisk.info", id="vd")["connections"] == 0)
    node.direct("vdisk.delete", id="vd")
    shown = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 64k", before["uri"]).stdout
    assert "failed" not in shown


def metrics(node: Daemon) -> str:
    listen = (node.folder / "g8node.toml").read_text().split('[stats]\nlisten = "')[1].split('"')[0]
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text
