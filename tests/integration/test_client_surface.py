"""A client written from the table of spec core0-protocol 6.1: every method once, against a whole agent.

Shapes are the spec's. What the node does not have yet is called too, and must be refused by the node.
"""

import asyncio
import contextlib
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from g8node.flist.pack import pack
from g8node.store.local import LocalStore
from g8tools.g8 import flow
from g8tools.g8.client import Client, JobNotFoundError, Message, ResultError
from g8tools.g8.host import HostClient
from g8tools.g8.managers.container import ContainerClient
from g8tools.g8.managers.manager import Manager
from tests.support.busybox import busybox_flist
from tests.support.daemon import Daemon, daemon
from tests.support.faults import ChunkServer
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish
from tests.support.loops import Loops
from tests.support.netns import agent_inside, network_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]

NUMBER = (int, float)
JOB = {"cpu": NUMBER, "rss": int, "vms": int, "swap": int, "starttime": int, "pid": int, "cmd": dict}
MAYBE = (list, type(None))
WIRE = {
    "id": str,
    "command": str,
    "arguments": dict,
    "queue": str,
    "stream": bool,
    "tags": (list, type(None)),
}
CPU_TIMES = ["guestnice", "idle", "iowait", "irq", "nice", "softirq", "steal", "stolen", "system", "user"]
MEM = (
    "total available used usedPercent free active inactive wired buffers cached writeback dirty "
    "writebacktmp shared slab pagetables swapcached"
)

called: set[tuple[str, str]] = set()


@pytest.fixture(scope="module", autouse=True)
def recorded() -> Iterator[None]:
    """Notes every method and attribute that is used."""
    patch = pytest.MonkeyPatch()
    for kind in (flow.call, flow.value, flow.each):
        patch.setattr(kind, "__get__", _noting(kind.__get__))
    yield
    patch.undo()


def _noting(get: Any) -> Any:
    def noting(self: Any, owner: Any, kind: Any = None) -> Any:
        if owner is not None:
            called.add((type(owner).__name__, self._make.__name__))
        return get(self, owner, kind)

    return noting


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture
def client(node: Daemon) -> Iterator[Client]:
    with Client("127.0.0.1", node.port, node.password, 0, False, 60, 3) as opened:
        yield opened


def has(row: Any, shape: dict[str, Any]) -> None:
    """The keys of the spec with values of its types; more are allowed."""
    assert isinstance(row, dict), row
    for key, kind in shape.items():
        assert key in row, (key, row)
        assert isinstance(row[key], kind), (key, row[key])


def refused(code: int, work: Callable[[], object]) -> ResultError:
    with pytest.raises(ResultError) as caught:
        work()
    assert caught.value.code == code, caught.value
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.message == str(caught.value)
    return caught.value


def code_of(work: Callable[[], object]) -> int:
    """0, or the code of the failure."""
    try:
        work()
    except ResultError as error:
        return error.code
    return 0


def not_there_yet(*works: Callable[[], object]) -> None:
    """Commands of parts that are built later: sent, and answered by the node whatever it has to say."""
    for work in works:
        code_of(work)


def eventually(find: Callable[[], Any]) -> Any:
    """What is found, as soon as it is."""
    deadline = time.monotonic() + 60
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_jobs_and_responses(client: Client, node: Daemon) -> None:
    assert client.timeout == 60
    assert client.ping().startswith("PONG Version: ")
    response = client.raw("bash", {"script": "echo hi"}, "q", 5, True, ["t"], "job-raw", None)
    assert response.id == "job-raw"
    got: list[tuple[int, str, int]] = []
    assert response.stream(lambda *message: got.append(message)) == len(got) == 2
    assert got[0] == (1, "hi\n", 1)
    assert got[1][2] & 2
    result = response.get()
    assert response.exists is True
    assert response.running is False
    assert (result.id, result.state, result.code, result.level) == ("job-raw", "SUCCESS", 0, 0)
    assert (result.stdout, result.stderr, result.data) == ("hi\n", "", "")
    assert 1e9 < result.starttime < 1e10
    assert isinstance(result.time, int)
    assert result.payload["tags"] == ["t"]
    assert "SUCCESS" in str(result)
    assert client.response_for("job-raw").get() == result
    with pytest.raises(JobNotFoundError):
        client.response_for("never").get()
    assert client.sync("core.ping", {}).data.startswith('"PONG')
    assert client.json("core.ping", {}).startswith("PONG")
    assert client.direct("core.ping", {}).startswith(b'"PONG')
    refused(1003, lambda: client.sync("bash", {"script": "exit 3"}))
    refused(406, lambda: client.json("bash", {"script": "true"}))
    slow = client.system("sleep 600", max_time=600)
    with pytest.raises(TimeoutError):
        slow.get(0.2)
    assert slow.running
    assert client.job.kill(slow.id, signal=signal.SIGKILL) is True
    assert slow.get().code == 999
    assert client.system(["cat"], stdin="exact\n", env={"A": "b"}).get().stdout == "exact\n"
    assert client.bash("cat", "in").get().stdout == "in"


def test_output_of_another_job(client: Client, tmp_path: Path) -> None:
    script = f"echo one; until test -e {tmp_path}/go; do sleep 0.05; done; echo 3::two; exit 4"
    talker = client.bash(script, id="talker")
    messages = []
    for message in client.subscribe("talker", "listener").messages():
        messages.append(message)
        (tmp_path / "go").touch()
    assert [message.text for message in messages if message.level in (1, 3) and message.text] == [
        "one\n",
        "two\n",
    ]
    assert isinstance(messages[-1], Message)
    assert messages[-1].flags & 6
    assert talker.get().code == 1004
    forever = client.system("sleep 600")
    listening = client.subscribe(forever.id)
    assert list(client.subscribe(forever.id, follow=False).messages())[-1].flags & 2
    assert client.job.kill(listening.id) is True
    assert listening.get().code == 999
    client.job.kill(forever.id, 9)


def test_job(client: Client) -> None:
    again = client.raw("bash", {"script": "true"}, recurring_period=600, tags=["x"])
    (row,) = client.job.list(again.id)
    has(row, JOB)
    has(row["cmd"], WIRE)
    assert row["cmd"]["arguments"]["script"] == "true"
    assert again.id in [each["cmd"]["id"] for each in client.job.list()]
    assert client.job.unschedule(again.id) is True
    assert again.get().state == "SUCCESS"
    assert client.job.unschedule("never") is False
    assert client.job.kill("never") is False
    refused(404, lambda: client.job.list("never"))
    victim = client.system("sleep 600")
    assert client.job.killall() is True
    assert victim.get().code == 999


def test_process(client: Client) -> None:
    sleeper = client.system("sleep 601")
    (row,) = eventually(
        lambda: [each for each in client.process.list() if each["cmdline"].endswith("sleep 601")]
    )
    has(row, {"pid": int, "ppid": int, "name": str, "createtime": int, "cpu": dict, "rss": int, "vms": int})
    has(row, {"swap": int, "rlimit": list, "ofd": int})
    has(row["cpu"], dict.fromkeys(CPU_TIMES, NUMBER))
    assert client.process.list(row["pid"])[0]["pid"] == row["pid"]
    assert client.process.kill(row["pid"], signal.SIGKILL) is True
    assert sleeper.get().state == "ERROR"
    assert client.process.list(row["pid"]) == []


def test_info(client: Client, node: Daemon) -> None:
    cpus = client.info.cpu()
    has(cpus[0], {"cpu": int, "vendorId": str, "modelName": str, "mhz": NUMBER, "flags": list, "cores": int})
    has(client.info.mem(), dict.fromkeys(MEM.split(), NUMBER))
    for disk in client.info.disk():
        has(disk, dict.fromkeys(("device", "mountpoint", "fstype", "opts"), str))
    nic = next(each for each in client.info.nic() if each["name"] == "lo")
    has(nic, {"mtu": int, "hardwareaddr": str, "flags": list, "addrs": list, "speed": int})
    has(nic, {"carrier": bool, "operstate": bool})
    assert {"addr": "127.0.0.1/8"} in nic["addrs"]
    has(
        client.info.os(),
        {"hostname": str, "uptime": NUMBER, "bootTime": int, "procs": int, "kernelVersion": str},
    )
    assert {"network": "tcp", "ip": "127.0.0.1", "port": node.port, "pid": node.pid} in client.info.port()
    has(client.info.version(), {"branch": str, "revision": str, "dirty": bool})
    found: list[Any] = []
    code = code_of(lambda: found.append(client.info.dmi("bios", 1)))
    assert code in (0, 500, 503)  # not every machine has such a table
    for each in found:
        has(each, {"tooling": dict, "sections": list})
    refused(400, lambda: client.info.dmi(43))


def test_core(client: Client) -> None:
    has(client.core.state(), {"cpu": NUMBER, "rss": int, "vms": int, "swap": int})
    (row,) = client.core.help("core.ping")
    assert row["command"] == "core.ping"


def test_filesystem(client: Client, tmp_path: Path) -> None:
    files, folder = client.filesystem, str(tmp_path / "a/b")
    files.mkdir(folder)
    assert files.exists(folder) is True
    fd = files.open(f"{folder}/f", "w", 0o600)
    files.write(fd, b"hello")
    files.close(fd)
    fd = files.open(f"{folder}/f")
    assert (files.read(fd), files.read(fd)) == (b"hello", b"")
    files.close(fd)
    assert files.list(folder) == [{"name": "f", "size": 5, "mode": 0o600, "is_dir": False}]
    files.chmod(f"{folder}/f", 0o640, False)
    files.chown(f"{folder}/f", "daemon", "daemon", recursive=False)
    found = os.stat(f"{folder}/f")
    assert (found.st_mode & 0o777, found.st_uid) == (0o640, 1)
    files.move(f"{folder}/f", f"{folder}/g")
    data = os.urandom((1 << 20) + 7)
    files.upload(f"{folder}/up", io.BytesIO(data))
    back = io.BytesIO()
    files.download(f"{folder}/up", back)
    assert back.getvalue() == data
    files.download_file(f"{folder}/up", str(tmp_path / "local"))
    files.upload_file(f"{folder}/again", str(tmp_path / "local"))
    assert (tmp_path / "a/b/again").read_bytes() == data
    files.remove(folder)
    assert files.exists(folder) is False
    refused(404, lambda: files.open(f"{folder}/none"))


def test_ip(tmp_path: Path) -> None:
    with agent_inside(tmp_path / "node") as inside:
        client = Client("127.0.0.1", inside.port, inside.password, ssl=False, testConnectionAttempts=0)
        with network_of(inside.pid):
            client.ping()  # the connection that all the others use
        ip = client.ip
        ip.link.up("v0")
        ip.link.mtu("v0", 1400)
        ip.addr.add("v0", "10.9.0.1/24")
        assert "10.9.0.1/24" in ip.addr.list("v0")
        ip.route.add("v0", "10.8.0.0/16", "10.9.0.2")
        assert {"dev": "v0", "dst": "10.8.0.0/16", "gw": "10.9.0.2"} in ip.route.list()
        ip.route.delete("v0", "10.8.0.0/16")
        ip.addr.delete("v0", "10.9.0.1/24")
        ip.link.down("v0")
        ip.link.name("v0", "w0")
        ip.bridge.add("br0")
        ip.bridge.addif("br0", "w0")
        row = next(row for row in ip.link.list() if row["name"] == "w0")
        has(row, {"type": str, "hwaddr": str, "master": str, "up": bool, "mtu": int})
        assert (row["master"], row["mtu"], row["up"]) == ("br0", 1400, False)
        ip.bridge.delif("br0", "w0")
        ip.bridge.delete("br0")
        not_there_yet(lambda: ip.bond.add("bond0", ["w0", "v1"]), lambda: ip.bond.delete("bond0"))
        assert isinstance(ip.bond.list(), dict)
        client.close()


def test_networks(tmp_path: Path) -> None:
    flist = busybox_flist(tmp_path)
    with agent_inside(tmp_path / "node") as inside:
        client = Client("127.0.0.1", inside.port, inside.password, ssl=False, testConnectionAttempts=0)
        with network_of(inside.pid):
            client.ping()  # the connection that all the others use
        bridge, nft, containers = client.bridge, client.nft, client.container
        settings = {"cidr": "10.77.0.1/24", "start": "10.77.0.5", "end": "10.77.0.9"}
        bridge.create("lan", network="dnsmasq", nat=True, settings=settings)
        assert bridge.list() == ["lan"]
        bridge.add_host("lan", "10.77.0.2", "02:00:00:00:00:01")
        bridge.nic_add("lan", "v0")
        assert bridge.nic_list("lan") == ["v0"]
        bridge.nic_remove("v0")
        nft.open_port(65000)
        assert "tcp dport 65000 accept" in nft.list()
        assert nft.rule_exists(65000) is True
        nft.drop_port(65000)
        assert client.socat.reserve(1)[0] >= 1024
        id = containers.create(flist["root"], storage=flist["storage"], port={8080: 80}).get(60)
        assert client.socat.list()
        containers.nic_add(id, {"type": "bridge", "id": "lan"})
        containers.nic_remove(id, 1)
        containers.add_portforward(id, "lo:9090", 80)
        containers.remove_portforward(id, "lo:9090", 80)
        found = containers.get(id)
        assert found is not None
        arguments = found["container"]["arguments"]
        assert [nic["state"] for nic in arguments["nics"]] == ["configured", "destroyed"]
        assert arguments["port"] == {"8080": 80}
        containers.terminate(id)
        bridge.delete("lan")
        client.close()


def test_disk(client: Client, tmp_path: Path) -> None:
    disk = client.disk
    with Loops(tmp_path) as loops:
        device = loops.make(64)
        disk.mktable(device, "gpt")
        disk.mkpart(device, "0%", "50%", "primary")
        row = next(row for row in disk.list() if row["path"] == device)
        has(row, {"start": int, "end": int, "size": int, "blocksize": int, "table": str, "free": list})
        assert [child["path"] for child in row["children"]] == [f"{device}p1"]
        assert disk.getinfo(device, f"{device}p1")["size"] > 0
        client.bash(f"mkfs.ext4 -q -F {device}p1").get().checked()
        target = str(tmp_path / "on")
        os.mkdir(target)
        disk.mount(f"{device}p1", target, ["noatime"])
        (mount,) = disk.mounts()[f"{device}p1"]
        has(mount, {"mountpoint": str, "filesystem": str, "options": dict})
        disk.umount(f"{device}p1")
        disk.rmpart(device, 1)
        has(disk.seektime(device), {"device": str, "elapsed": int, "type": str})
        assert disk.protect("00000000-01") is None
        not_there_yet(  # loop devices have none of these
            lambda: disk.smartctl_info(device),
            lambda: disk.smartctl_health(device),
            lambda: disk.spindown(device, 1),
            lambda: disk.isstandby(device),
        )


def test_btrfs(client: Client, tmp_path: Path) -> None:
    btrfs, path = client.btrfs, str(tmp_path / "pool")
    os.mkdir(path)
    with Loops(tmp_path) as loops:
        one, two = loops.make(300), loops.make(300)
        btrfs.create("pool", [one], "single", "single")
        row = next(row for row in btrfs.list() if row["label"] == "pool")
        has(row, {"uuid": str, "total_devices": int, "used": int, "devices": list})
        client.disk.mount(one, path)
        try:
            btrfs.device_add(path, two)
            btrfs.device_remove(path, two)
            has(btrfs.info(path), {"data": dict, "system": dict, "metadata": dict, "globalreserve": dict})
            btrfs.subvol_create(f"{path}/sub")
            btrfs.subvol_quota(f"{path}/sub", "50M")
            btrfs.subvol_snapshot(f"{path}/sub", f"{path}/snap", True)
            rows = {row["Path"]: row for row in btrfs.subvol_list(path)}
            has(rows["sub"], {"ID": int, "Gen": int, "TopLevel": int, "Quota": int})
            btrfs.subvol_delete(f"{path}/snap")
        finally:
            client.disk.umount(path)


def test_logs_settings_and_statistics(client: Client) -> None:
    key = client.logger.subscribe("surface", 3)
    assert key == "logger:surface"
    client.bash("echo 3::heard", id="speaker").get()
    records = client.logger.records(key, timeout=60)
    record = next(each for each in records if each.job == "speaker" and each.message.text)
    assert (record.core, record.message.level, record.message.text) == (0, 3, "heard\n")
    assert client.logger.unsubscribe(key) is None
    assert client.logger.set_level("info") is None
    assert client.logger.reopen() is None
    assert client.logger.subscribe().startswith("logger:")
    settings = client.config.get()
    has(settings, dict.fromkeys(("main", "globals", "extension", "logger", "containers", "stats"), dict))
    client.sync("monitor", {"domain": "memory"})
    found = client.aggregator.query("machine.memory.ram.available", type="phys")
    has(found["machine.memory.ram.available"], {"op": str, "current": dict, "history": dict, "tags": list})
    assert client.aggregator.query("no.such") == {}


def test_volumes(client: Client) -> None:
    volume = client.volume
    row = {"name": str, "size": int, "created": int, "containers": list}
    has(volume.create("kept"), row)
    assert [each["name"] for each in volume.list()] == ["kept"]
    has(volume.get("kept"), row | {"used": int, "path": str})
    refused(409, lambda: volume.create("kept"))
    volume.remove("kept")
    refused(404, lambda: volume.remove("kept"))


def test_groups_of_processes(client: Client) -> None:
    """Where version 2 of control groups is not to be had, each says 503; tests/qemu has the values."""
    group = client.cgroup
    for work in (
        group.list,
        lambda: group.ensure("memory", "g"),
        lambda: group.memory("g", 64 << 20),
        lambda: group.cpuset("g"),
        lambda: group.task_add("memory", "g", os.getpid()),
        lambda: group.tasks("memory", "g"),
        lambda: group.task_remove("memory", "g", os.getpid()),
        lambda: group.reset("memory", "g"),
        lambda: group.remove("memory", "g"),
    ):
        assert code_of(work) in (0, 404, 503)


def test_local_table_of_stores(client: Client) -> None:
    before = Path("/var/cache/router.yaml")
    kept = before.read_bytes() if before.exists() else None
    try:
        client.zfs.purge()
        assert client.zfs.config == {"pools": {}, "lookup": [], "cache": []}
        table = {"pools": {"p": {"00:FF": "zdb://h:1"}}, "lookup": ["p"], "cache": []}
        client.zfs.config = table
        assert client.zfs.get_config() == table
        client.zfs.set_config(table)
        client.zfs.set_cache("zdb://c:1")
        assert client.zfs.config["cache"] == ["cache"]
        assert client.zfs.config["lookup"] == ["cache", "p"]
    finally:
        client.zfs.purge()
        if kept is not None:
            before.write_bytes(kept)


def test_web_and_services(client: Client, tmp_path: Path) -> None:
    with hub(tmp_path) as images:
        assert client.web.download(images.url, f"{tmp_path}/page") == f"{tmp_path}/page"
    assert (tmp_path / "page").stat().st_size
    assert client.service.list() == []
    for work in (client.service.start, client.service.stop, client.service.restart):
        refused(404, lambda work=work: work("none"))  # type: ignore[misc]


def test_what_other_parts_of_the_node_answer(client: Client) -> None:
    zerotier, kvm = client.zerotier, client.kvm
    not_there_yet(
        lambda: zerotier.join("0" * 16),
        lambda: zerotier.leave("0" * 16),
        zerotier.list,
        zerotier.info,
        lambda: client.rtinfo.start("localhost", 1),
        client.rtinfo.list,
        lambda: client.rtinfo.stop("localhost", 1),
    )
    media, uuid = {"url": "/nowhere"}, "00000000-0000-0000-0000-000000000000"
    not_there_yet(
        lambda: kvm.create("surface", [media]),
        lambda: kvm.prepare_migration_target(uuid),
        *(
            lambda work=work: work(uuid)  # type: ignore[misc]
            for work in (
                kvm.shutdown, kvm.reboot, kvm.reset, kvm.pause, kvm.resume, kvm.info, kvm.infops, kvm.destroy,
            )
        ),
        lambda: kvm.attach_disk(uuid, media),
        lambda: kvm.detach_disk(uuid, media),
        lambda: kvm.add_nic(uuid, "default"),
        lambda: kvm.remove_nic(uuid, "default"),
        lambda: kvm.limit_disk_io(uuid, media, totaliopssec=1, totaliopssecset=True),
        lambda: kvm.migrate(uuid, "qemu+tcp://none/system"),
        kvm.list,
        lambda: kvm.get(uuid=uuid),
        lambda: kvm.add_portfoward(uuid, 1, 2),
        lambda: kvm.remove_portfoward(uuid, 1, 2),
        lambda: kvm.create_image("/nowhere/x", "qcow2", "1G"),
        lambda: kvm.convert_image("/nowhere/x", "/nowhere/y", "raw"),
    )  # fmt: skip


def test_container(client: Client, tmp_path: Path) -> None:
    containers = client.container
    with hub(tmp_path) as images:
        root = publish(images, busybox_tree(tmp_path / "root"), "busybox")
        id = containers.create(root, host_network=True, name="surface", tags=["s", "t"], env={"A": "b"}).get(
            60
        )
        assert isinstance(id, int)
        row = containers.list()[str(id)]
        has(row, {"cpu": NUMBER, "rss": int, "vms": int, "swap": int, "container": dict})
        has(row["container"], {"arguments": dict, "root": str, "pid": int})
        assert str(id) in containers.find("t", "s")
        assert containers.find("none") == {}
        found = containers.get("surface")
        assert found is not None
        assert found["id"] == id
        assert containers.get(65534) is None
        assert containers.stats(id)["processes"] > 0
        assert containers.logs(id, tail=1) == []
        with contextlib.suppress(ResultError):  # 503 where there are no control groups of version 2
            assert containers.limits(id, {"pids": 50})["pids"] == 50
        _inside(containers.client(id), id)
        _mounted_flists(client, root)
        not_there_yet(
            lambda: containers.layer(id, root),
            lambda: containers.backup(id, f"file:{tmp_path}/none").get(),
            lambda: containers.restore(f"file:{tmp_path}/none#1").get(),
        )
        containers.terminate(id)
        assert str(id) not in containers.list()
        refused(500, lambda: containers.terminate(id))
        # It is written when the container has ended.
        eventually(lambda: code_of(lambda: client.g8ufs.profile(root)) == 0)
        has(client.g8ufs.profile(root), {"digest": str, "chunks": int, "profile": str})


def test_events_of_stores(client: Client, tmp_path: Path) -> None:
    server, tree = ChunkServer(), busybox_tree(tmp_path / "root")
    server.fault = "error"
    try:
        asyncio.run(pack(str(tree), f"{tmp_path}/x.flist", LocalStore(f"{tmp_path}/chunks")))
        done = client.g8ufs.prefetch(f"{tmp_path}/x.flist", storage=server.url)
        assert done["failed"] > 0
        (event,) = (each for each in _told_by("g8ufs.events", client) if each["store"] == server.url)
        has(event, {"error": str, "time": float})
        assert (event["event"], event["state"], bool(event["error"])) == ("store", "down", True)
    finally:
        server.down()


def _told_by(voice: str, client: Client) -> list[dict[str, Any]]:
    subscription = client.subscribe(voice, follow=False)
    got: list[str] = []
    subscription.stream(lambda _level, text, _meta: got.append(text))
    return [json.loads(text) for text in got if text]


def _mounted_flists(client: Client, root: str) -> None:
    """The container's root among them."""
    flists = client.g8ufs
    (row,) = (row for row in flists.list() if row["flist"] == root)
    has(row, {"target": str, "digest": str, "storage": str, "chunks": int, "reads": dict})
    shown = {"mounts": int, "images": int, "reads": dict, "fetches": dict, "cache": dict, "stores": dict}
    has(flists.stats(), shown)
    done = flists.prefetch(root, paths=["/data"])
    has(done, {"chunks": int, "size_bytes": int, "cached": int, "failed": int, "error": str})
    assert (done["failed"], done["error"]) == (0, "")
    assert flists.pin(root)["digest"] == row["digest"]
    assert [flists.unpin(row["digest"]), flists.unpin(root)] == [True, False]
    assert flists.drop() > 0


def _inside(inside: ContainerClient[Any], id: int) -> None:
    """The same calls in the container; what is not there yet says so."""
    assert inside.container == id
    assert inside.ping().startswith("PONG")
    response = inside.raw("bash", {"script": "echo $A; exit 5"}, stream=True)
    assert response.stream(lambda *_: None) == 2
    result = response.get()
    assert (result.stdout, result.code, result.container) == ("b\n", 1005, id)
    assert inside.system("cat /data/0").get().stdout.startswith("AAA")
    assert inside.bash("cat", "stdin").get().stdout == "stdin"
    assert inside.sync("core.ping", {}).state == "SUCCESS"
    assert inside.json("core.ping", {}).startswith("PONG")
    sleeper = inside.system("sleep 600")
    assert sleeper.id in [row["cmd"]["id"] for row in inside.job.list()]
    assert inside.subscribe(sleeper.id, follow=False).get().state == "SUCCESS"
    (row,) = eventually(lambda: [row for row in inside.process.list() if row["cmdline"] == "sleep 600"])
    assert inside.process.kill(row["pid"], 9) is True
    assert sleeper.get().code == 999
    assert refused(0, lambda: inside.json("btrfs.list", {})).message
    not_there_yet(
        lambda: inside.info.os(),
        lambda: inside.filesystem.exists("/data/0"),
        lambda: inside.ip.link.list(),
        lambda: inside.zerotier.info(),
        lambda: inside.zerotier.list(),
        lambda: inside.flist.create("/data", "/x.flist", "localhost:1").get(),
    )


def test_every_method_was_called_except_those_that_end_the_node(client: Client) -> None:
    wanted = {("Core", "reboot"), ("Core", "poweroff")}
    missing = set()
    for kind in (*_families(client), HostClient, ContainerClient):
        for base in kind.__mro__:
            for attribute in vars(base).values():
                if isinstance(attribute, flow.call | flow.value | flow.each):
                    owner = "Client" if kind is HostClient else kind.__name__
                    missing.add((owner, attribute._make.__name__))
    missing -= called
    assert {each for each in missing if each[0] != "ContainerClient" or each[1] != "direct"} == wanted


def _families(client: Client) -> list[type]:
    managers = [each for each in vars(client).values() if isinstance(each, Manager)]
    inner = [each for manager in managers for each in vars(manager).values() if isinstance(each, Manager)]
    return [type(each) for each in (*managers, *inner)]


def test_many_threads_share_a_client(client: Client) -> None:
    def work(number: int) -> list[str]:
        return [client.bash(f"echo {number}.{turn}").get().stdout for turn in range(5)]

    with ThreadPoolExecutor(8) as pool:
        for number, texts in enumerate(pool.map(work, range(8))):
            assert texts == [f"{number}.{turn}\n" for turn in range(5)]


def test_wrong_types_are_refused_before_anything_is_sent(client: Client) -> None:
    client.close()  # nothing can be sent any more
    for work in (
        lambda: client.job.kill(1),  # type: ignore[arg-type]
        lambda: client.process.kill("1"),  # type: ignore[arg-type]
        lambda: client.disk.mktable("sda", "fat"),  # type: ignore[arg-type]
        lambda: client.container.create("x", env={"A": 1}),  # type: ignore[dict-item]
        lambda: client.btrfs.create("x", "sda", metadata_profile="raid7"),  # type: ignore[arg-type]
        lambda: client.raw("x", []),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r": Expected|: Invalid"):
            work()
