"""An agent is killed; the next one in its network namespace takes over containers with links of all kinds."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.busybox import Containers, busybox_flist
from tests.support.daemon import eventually
from tests.support.dns import asked
from tests.support.netns import Inside, daemon_inside, inside, network_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]

DEFAULT = {"type": "default"}
CONFIG = '[network]\nvxlan_underlay = "v0"\nvxlan_peers = ["10.99.0.2"]\n'
LINKS = """
ip link set lo up; ip link add v0 type veth peer name v1; ip link add p0 type veth peer name p1
ip address add 10.99.0.1/24 dev v0; ip link set v0 up; ip link set v1 up
echo there; exec sleep 100000
"""
PAGE = {"config": {"/index.html": "hello"}}


@pytest.fixture(scope="module")
def flist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return busybox_flist(tmp_path_factory.mktemp("flist"))


@contextmanager
def namespace() -> Iterator[list[str]]:
    """A network namespace that outlives agents: how commands in it begin."""
    argv = ["unshare", "--net", "sh", "-ec", LINKS]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"there\n"
            yield inside(holder.pid)
        finally:
            holder.kill()


@pytest.fixture
def place() -> Iterator[list[str]]:
    with namespace() as entered:
        yield entered


def output(place: list[str], *argv: str) -> str:
    return subprocess.run([*place, *argv], check=True, capture_output=True, text=True, timeout=60).stdout


def ours(place: list[str]) -> list[str]:
    """Links that the node made, by name."""
    names = [line.split(": ")[1].partition("@")[0] for line in output(place, "ip", "-o", "link").splitlines()]
    return sorted(set(names) - {"lo", "v0", "v1", "p0", "p1"})


def fetched(node: Inside, port: int) -> bool:
    """Whether a client on the node reaches the web server by a forward."""
    try:
        with network_of(node.pid), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.makefile("r").read().endswith("hello")
    except OSError:
        return False


def made(boxes: Containers) -> tuple[int, int, int]:
    """A web server with forwards, a container with links of many types, and one without any."""
    node = boxes.node
    settings = {"cidr": "10.3.0.1/24", "start": "10.3.0.10", "end": "10.3.0.99"}
    node.direct("bridge.create", name="lan0", network={"mode": "dnsmasq", "settings": settings})
    node.direct("bridge.host-add", bridge="lan0", ip="10.3.0.50", mac="02:00:00:00:00:50")
    web = boxes.create(
        DEFAULT,
        name="web",
        port={"8080": 80},
        restart={"policy": "always"},
        command=["sleep", "100000"],
        **PAGE,
    )
    for port in ("8081", "8082"):
        node.direct("corex.portforward-add", container=web, host_port=port, container_port=80)
    node.direct("corex.portforward-remove", container=web, host_port="8082", container_port=80)
    lan = {"type": "bridge", "id": "lan0", "hwaddr": "02:00:00:00:00:50", "config": {"dhcp": True}}
    many = boxes.create(
        {**lan, "rate": {"send_bits_s": 10_000_000}},
        {"type": "macvlan", "id": "p1", "config": {"cidr": "10.7.0.1/24"}},
        {"type": "vxlan", "id": 8, "config": {"cidr": "10.8.0.1/24"}},
        {"type": "passthrough", "id": "p0"},
        name="many",
    )
    node.direct("corex.nic-add", container=many, nic=DEFAULT)
    eventually(lambda: boxes.links(many)["eth0"])
    served(boxes, web, 8080)
    return web, many, boxes.create(name="bare")


def served(boxes: Containers, id: int, port: int) -> None:
    """By a server that is started now.

    One that ran when the node was killed may lack pages of its program, which die with the old mount.
    """
    start = "until httpd -p 80 -h / 2>/dev/null; do sleep 0.1; done"
    boxes.sh(id, f"kill -9 $(pidof httpd) 2>/dev/null; {start}")
    eventually(lambda: fetched(boxes.node, port))


def test_links_forwards_and_names_go_on_and_are_given_back(
    tmp_path: Path, flist: dict[str, str], place: list[str]
) -> None:
    with daemon_inside(tmp_path, config=CONFIG, prefix=place) as node:
        boxes = Containers(node, flist)
        web, many, bare = made(boxes)
        before, links, listed = shown(node), boxes.links(many), ours(place)
        node.kill()
    with daemon_inside(tmp_path, config=CONFIG, prefix=place) as node:
        boxes = Containers(node, flist)
        assert shown(node) == before
        assert (boxes.links(many), ours(place)) == (links, listed)
        served(boxes, web, 8080)
        assert fetched(node, 8081)
        assert asked(node, "172.18.0.1", "web") == [address(boxes, web)]
        assert asked(node, "10.3.0.1", "many") == ["10.3.0.50"]
        assert node.direct("core.gc", dry_run=True) == []
        assert node.refused("corex.create", **flist, nics=[DEFAULT], port={"8080": 80})[0] == 500
        boxes.reaches(many, "172.18.0.1")
        changed(boxes, web, many, bare)
        boxes.end(web, many, bare)
        assert ours(place) == ["core0", "lan0"]
        assert "container" not in output(place, "nft", "list", "ruleset")
        assert "p0" in output(place, "ip", "link")
        node.direct("bridge.delete", name="lan0")
        assert node.stop() == 0
    assert ours(place) == []
    assert "g8node" not in output(place, "nft", "list", "tables")
    assert os.listdir(tmp_path / "root/run/bridges") == []
    assert not (tmp_path / "root/run/networks.claim").exists()


def changed(boxes: Containers, web: int, many: int, bare: int) -> None:
    """What was taken over can be changed, and run again, as what is new."""
    node, pid = boxes.node, boxes.node.direct("corex.get", query=web)["container"]["pid"]
    other = boxes.create(DEFAULT, {"type": "vxlan", "id": 8, "config": {"cidr": "10.8.0.2/24"}})
    boxes.reaches(other, "10.8.0.1", "web")
    node.direct("corex.nic-add", container=bare, nic=DEFAULT)
    node.direct("corex.nic-remove", container=many, index=1)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: node.direct("corex.get", query=web)["container"]["pid"] not in (0, pid))
    served(boxes, web, 8080)
    boxes.end(other)


def shown(node: Inside) -> dict[str, Any]:
    return {id: row["container"] for id, row in node.direct("corex.list").items()}


def address(boxes: Containers, id: int) -> str:
    return boxes.links(id)["eth0"][0].partition("/")[0]


def kill_in_the_middle(folder: Path, flist: dict[str, str], place: list[str], count: int, after: int) -> None:
    """Kill the node when `after` of `count` containers with a link and a forward are there."""
    lan = {"type": "bridge", "id": "lan0"}
    with daemon_inside(folder, prefix=place) as node:
        node.direct(
            "bridge.create", name="lan0", network={"mode": "static", "settings": {"cidr": "10.3.0.1/16"}}
        )
        for n in range(count):
            nics = [DEFAULT, {**lan, "config": {"cidr": f"10.3.1.{n + 1}/16"}}]
            fields = {"name": f"web{n}", "nics": nics, "port": {str(20000 + n): 80}}
            node.push("corex.create", {**flist, **PAGE, **fields})
        eventually(lambda: len(journals(folder)) >= after)
        node.kill()
    with daemon_inside(folder, prefix=place) as node:
        boxes = Containers(node, flist)
        assert node.direct("core.gc", dry_run=True) == []
        listed = node.direct("corex.list")
        assert set(journals(folder)) == set(listed)
        hosts = {f"cont{id}-{n}" for id in listed for n in (0, 1)}
        assert set(ours(place)) == hosts | {"core0", "lan0"}
        assert len(listed) >= after
        for id, row in listed.items():
            arguments = row["container"]["arguments"]
            ((port, _),) = arguments["port"].items()
            served(boxes, int(id), int(port))
            own = boxes.links(int(id))
            assert own["eth1"] == [arguments["nics"][1]["config"]["cidr"]]
            assert asked(node, "172.18.0.1", arguments["name"]) == [own["eth0"][0].partition("/")[0]]
        ends = [node.push("corex.terminate", {"container": int(id)}) for id in listed]
        assert {node.result(end, 60)["state"] for end in ends} <= {"SUCCESS"}
        assert ours(place) == ["core0", "lan0"]
        assert "container" not in output(place, "nft", "list", "ruleset")
        assert node.stop() == 0
    assert ours(place) == []


def journals(folder: Path) -> list[str]:
    """The containers that run, as the node has written it down."""
    return [path.parent.name for path in (folder / "root/run/containers").glob("*/journal.json")]


def test_node_killed_in_the_middle_of_creates_with_links(
    tmp_path: Path, flist: dict[str, str], place: list[str]
) -> None:
    kill_in_the_middle(tmp_path, flist, place, count=12, after=4)


@pytest.mark.soak
def test_node_killed_twenty_times_in_the_middle_of_creates_with_links(
    tmp_path: Path, flist: dict[str, str], place: list[str]
) -> None:
    for round in range(20):
        kill_in_the_middle(tmp_path, flist, place, count=50, after=1 + round * 2)


def test_links_of_another_network_namespace_end_with_their_containers(
    tmp_path: Path, flist: dict[str, str], place: list[str]
) -> None:
    with daemon_inside(tmp_path, prefix=place) as node:
        boxes = Containers(node, flist)
        id, bare = boxes.create(DEFAULT), boxes.create()
        node.kill()
    with namespace() as other, daemon_inside(tmp_path, prefix=other) as node:
        assert list(node.direct("corex.list")) == [str(bare)]
        assert not (tmp_path / f"root/run/containers/{id}").exists()
        assert node.direct("core.gc", dry_run=True) == []
        assert ours(other) == []
        Containers(node, flist).end(bare)
    eventually(lambda: ours(place) == ["core0"])  # whose node could not come here again
