"""Network links of containers by real packets, on an agent in a network namespace of its own."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.agent import public_folder
from tests.support.busybox import Containers, busybox_flist
from tests.support.daemon import eventually
from tests.support.dns import asked
from tests.support.netns import Inside, daemon_inside, inside, network_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]

DEFAULT = {"type": "default"}
WEB: dict[str, Any] = {
    "command": ["httpd", "-f", "-p", "80", "-h", "/www"],
    "config": {"/www/index.html": "hello"},
}


@pytest.fixture(scope="module")
def flist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return busybox_flist(tmp_path_factory.mktemp("flist"))


@pytest.fixture(scope="module")
def boxes(flist: dict[str, str]) -> Iterator[Containers]:
    with public_folder() as folder, daemon_inside(folder) as node:
        yield Containers(node, flist)
        assert "Traceback" not in node.log()


def traces(node: Inside) -> dict[str, Any]:
    """What containers could leave behind; the default bridge and the rules of bridges stay."""
    ruleset = node.there("nft", "list", "ruleset")
    return {
        "links": [line for line in node.there("ip", "-o", "link").splitlines() if "cont" in line],
        "rules": [line for line in ruleset.splitlines() if "container" in line],
        "names": list((node.folder / "root/run/dnsmasq").glob("*/hosts/*")),
        "spaces": [fd for fd in os.listdir(f"/proc/{node.pid}/fd") if _is_space(node.pid, fd)],
    }


def _is_space(pid: int, fd: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}").startswith("net:")
    except FileNotFoundError:
        return False


NOTHING: dict[str, Any] = {"links": [], "rules": [], "names": [], "spaces": []}


def gone(node: Inside) -> None:
    eventually(lambda: traces(node) == NOTHING)


def bridge(node: Inside, name: str, cidr: str, *leases: str) -> None:
    settings = {"cidr": cidr, **dict(zip(("start", "end"), leases, strict=False))}
    mode = "dnsmasq" if leases else "static"
    node.direct("bridge.create", name=name, network={"mode": mode, "settings": settings})


def test_default_nics_reach_each_other_by_name_and_the_node(boxes: Containers) -> None:
    first, second = boxes.create(DEFAULT, name="web"), boxes.create(DEFAULT, hostname="db", name="x.y")
    number = second + 1
    address = f"172.18.{number >> 8}.{number & 255}"
    assert boxes.links(second) == {"lo": [], "eth0": [f"{address}/16"]}
    assert boxes.sh(second, "cat /etc/resolv.conf") == "nameserver 172.18.0.1\n"
    assert f"{address}\tdb\n" in boxes.sh(second, "cat /etc/hosts")
    assert boxes.sh(second, "ip route | head -n 1").startswith("default via 172.18.0.1 ")
    for name in ("web", "172.18.0.1", "127.0.0.1"):
        boxes.reaches(second, name)
    boxes.reaches(first, "db")
    eventually(lambda: asked(boxes.node, "172.18.0.1", "db") == [address])
    assert asked(boxes.node, "172.18.0.1", "x.y") == []
    (nic,) = boxes.arguments(second)["nics"]
    assert (nic["state"], nic["addresses"]) == ("configured", [f"{address}/16"])
    boxes.end(second)
    eventually(lambda: asked(boxes.node, "172.18.0.1", "db") == [])
    boxes.end(first)
    gone(boxes.node)


def test_nics_of_a_container_with_ids_of_its_own(boxes: Containers) -> None:
    id = boxes.create(DEFAULT, name="nobody", port={"8081": 80}, userns=True, **WEB)
    for address in ("172.18.0.1", "127.0.0.1"):
        boxes.reaches(id, address)
    boxes.sh(id, "ls /sys/class/net/eth0")
    assert boxes.sh(id, "stat -c '%u %g' /etc/resolv.conf") == "0 0\n"
    eventually(lambda: "hello" in boxes.node.there("sh", "-c", "curl -s http://127.0.0.1:8081/ || true"))
    bridge(boxes.node, "more", "10.19.0.1/24")
    nic = {"type": "bridge", "id": "more", "config": {"cidr": "10.19.0.2/24"}}
    boxes.node.direct("corex.nic-add", container=id, nic=nic)
    boxes.reaches(id, "10.19.0.1")
    boxes.end(id)
    boxes.node.direct("bridge.delete", name="more")
    gone(boxes.node)


def test_container_without_nics_has_its_loopback_only_and_may_get_links_later(boxes: Containers) -> None:
    id = boxes.create()
    assert boxes.links(id) == {"lo": []}
    boxes.reaches(id, "127.0.0.1")
    bridge(boxes.node, "late", "10.11.0.1/24")
    nic = {"type": "bridge", "id": "late", "name": "lan", "hwaddr": "02:00:00:00:11:02"}
    nic["config"] = {"cidr": "10.11.0.2/24", "gateway": "10.11.0.1", "dns": ["10.11.0.1", "9.9.9.9"]}  # type: ignore[assignment]
    boxes.node.direct("corex.nic-add", container=id, nic=nic)
    assert boxes.links(id)["lan"] == ["10.11.0.2/24"]
    assert "02:00:00:00:11:02" in boxes.there(id, "ip", "link", "show", "lan")
    assert boxes.sh(id, "cat /etc/resolv.conf") == "nameserver 10.11.0.1\nnameserver 9.9.9.9\n"
    boxes.reaches(id, "10.11.0.1")
    boxes.node.direct("corex.nic-remove", container=id, index=0)
    assert boxes.links(id) == {"lo": []}
    assert boxes.arguments(id)["nics"][0]["state"] == "destroyed"
    assert boxes.node.refused("corex.nic-remove", container=id, index=0)[0] == 412
    assert boxes.node.refused("corex.nic-remove", container=id, index=1)[0] == 400
    boxes.node.direct("corex.nic-add", container=id, nic=nic)
    assert boxes.arguments(id)["nics"][1]["state"] == "configured"
    boxes.end(id)
    boxes.node.direct("bridge.delete", name="late")
    gone(boxes.node)


def test_dhcp_gives_addresses_on_a_bridge_and_names_to_its_dns(boxes: Containers) -> None:
    bridge(boxes.node, "lan0", "10.12.0.1/24", "10.12.0.10", "10.12.0.99")
    nic = {"type": "bridge", "id": "lan0", "config": {"dhcp": True}}
    first, second = boxes.create(nic, name="one"), boxes.create(nic, name="two")
    for id in (first, second):
        (address,) = eventually(lambda id=id: boxes.links(id)["eth0"])
        assert address.startswith("10.12.0.")
        assert eventually(lambda id=id: boxes.sh(id, "cat /etc/resolv.conf 2>/dev/null || true"))
        assert boxes.sh(id, "cat /etc/resolv.conf") == "nameserver 10.12.0.1\n"
    boxes.reaches(first, "two")
    boxes.end(first, second)
    # The network can be used again.
    boxes.node.direct("bridge.delete", name="lan0")
    bridge(boxes.node, "lan1", "10.12.0.1/24", "10.12.0.10", "10.12.0.99")
    third = boxes.create(nic | {"id": "lan1"})
    eventually(lambda: boxes.links(third)["eth0"])
    boxes.end(third)
    boxes.node.direct("bridge.delete", name="lan1")
    gone(boxes.node)


def test_lease_comes_beside_an_address_of_ipv6(boxes: Containers) -> None:
    settings = {"cidr": "10.17.0.1/24", "cidr6": "fd00:17::1/64", "start": "10.17.0.10", "end": "10.17.0.99"}
    boxes.node.direct("bridge.create", name="two0", network={"mode": "dnsmasq", "settings": settings})
    config = {"dhcp": True, "cidr6": "fd00:17::5/64", "gateway6": "fd00:17::1"}
    id = boxes.create({"type": "bridge", "id": "two0", "config": config}, name="two")
    eventually(lambda: len(boxes.links(id)["eth0"]) == 2)
    eventually(lambda: len(asked(boxes.node, "10.17.0.1", "two")) == 1)
    assert asked(boxes.node, "10.17.0.1", "two", 6) == ["fd00:17::5"]
    address, static = boxes.links(id)["eth0"]
    assert (address.startswith("10.17.0."), static) == (True, "fd00:17::5/64")
    eventually(lambda: boxes.arguments(id)["nics"][0]["addresses"] == [address, static])
    boxes.reaches(id, "-6 fd00:17::1")
    boxes.reaches(id, "10.17.0.1")
    assert "default via fd00:17::1" in boxes.there(id, "ip", "-6", "route")
    boxes.end(id)
    boxes.node.direct("bridge.delete", name="two0")
    gone(boxes.node)


def test_leases_of_two_networks_with_gateways_are_both_kept(boxes: Containers) -> None:
    nics = []
    for n in (18, 20):
        bridge(boxes.node, f"gate{n}", f"10.{n}.0.1/24", f"10.{n}.0.10", f"10.{n}.0.99")
        nics.append({"type": "bridge", "id": f"gate{n}", "config": {"dhcp": True}})
    id = boxes.create(*nics)
    eventually(lambda: all(nic["addresses"] for nic in boxes.arguments(id)["nics"]))
    routes = boxes.there(id, "ip", "route", "show", "default")
    assert sorted(line.split()[2] for line in routes.splitlines()) == ["10.18.0.1", "10.20.0.1"]
    boxes.end(id)
    for n in (18, 20):
        boxes.node.direct("bridge.delete", name=f"gate{n}")
    gone(boxes.node)


def test_network_behind_nat_is_left_but_not_entered(boxes: Containers) -> None:
    bridge(boxes.node, "open0", "10.14.0.1/24")
    config = {"cidr": "10.14.0.2/24", "gateway": "10.14.0.1"}
    outside = boxes.create({"type": "bridge", "id": "open0", "config": config}, **WEB)
    behind = boxes.create(DEFAULT, port={"8084": 80}, **WEB)
    address = boxes.links(behind)["eth0"][0].partition("/")[0]
    boxes.reaches(behind, "10.14.0.2")
    assert boxes.fails(outside, f"ping -c 1 -W 2 {address}")
    fetch = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 10.14.0.1 8084"
    eventually(lambda: not boxes.fails(outside, f"{fetch} | grep -q hello"))
    boxes.end(outside, behind)
    boxes.node.direct("bridge.delete", name="open0")


def test_network_of_ipv6_behind_nat_is_left_but_not_entered(boxes: Containers) -> None:
    settings = {"cidr": "10.15.0.1/24", "cidr6": "fd00:15::1/64"}
    boxes.node.direct(
        "bridge.create", name="six0", network={"mode": "static", "nat": True, "settings": settings}
    )
    boxes.node.direct("bridge.create", name="out0", network=static6("10.16.0.1/24", "fd00:16::1/64"))
    inner, outer = (
        boxes.create({"type": "bridge", "id": name, "config": {"cidr6": f"fd00:{n}::2/64", **more}})
        for name, n, more in (("six0", 15, {"gateway6": "fd00:15::1"}), ("out0", 16, {}))
    )
    boxes.reaches(inner, "-6 fd00:16::2")  # who answers knows no way to it
    boxes.there(outer, "ip", "-6", "route", "add", "fd00:15::/64", "via", "fd00:16::1")
    assert boxes.fails(outer, "ping -6 -c 1 -W 2 fd00:15::2")
    boxes.end(inner, outer)
    for name in ("six0", "out0"):
        boxes.node.direct("bridge.delete", name=name)
    gone(boxes.node)


def static6(cidr: str, cidr6: str) -> dict[str, Any]:
    return {"mode": "static", "settings": {"cidr": cidr, "cidr6": cidr6}}


def test_both_families_on_a_bridge(boxes: Containers) -> None:
    settings = {"cidr": "10.13.0.1/24", "cidr6": "fd00:13::1/64"}
    boxes.node.direct("bridge.create", name="both", network={"mode": "static", "settings": settings})
    ids = [
        boxes.create(
            {
                "type": "bridge",
                "id": "both",
                "config": {
                    "cidr": f"10.13.0.{n}/24",
                    "cidr6": f"fd00:13::{n}/64",
                    "gateway6": "fd00:13::1",
                },
            },
            name=f"both{n}",
        )
        for n in (2, 3)
    ]
    boxes.reaches(ids[0], "10.13.0.3")
    boxes.reaches(ids[0], "-6 fd00:13::3")
    boxes.reaches(ids[0], "both3")
    boxes.reaches(ids[0], "-6 both3")
    eventually(lambda: asked(boxes.node, "10.13.0.1", "both2", 6) == ["fd00:13::2"])
    assert asked(boxes.node, "10.13.0.1", "both2") == ["10.13.0.2"]
    assert "default via fd00:13::1" in boxes.there(ids[0], "ip", "-6", "route")
    boxes.end(*ids)
    boxes.node.direct("bridge.delete", name="both")


REQUEST = "GET / HTTP/1.0\r\n\r\n"


def said(node: Inside, host: str, port: int) -> str:
    """The last line that a web server says to a client on the node."""
    with network_of(node.pid), socket.create_connection((host, port), timeout=30) as client:
        client.sendall(REQUEST.encode())
        return client.makefile("r").read().splitlines()[-1]


def test_forward_works_from_the_node_and_goes_with_its_container(boxes: Containers) -> None:
    id = boxes.create(DEFAULT, port={"8080": 80}, **WEB)
    eventually(lambda: not boxes.fails(id, "netstat -ltn | grep -q :80"))
    boxes.reaches(id, "172.18.0.1")
    for host in ("127.0.0.1", "172.18.0.1"):
        assert said(boxes.node, host, 8080) == "hello"
    other = boxes.create(DEFAULT)
    boxes.reaches(other, "172.18.0.1")
    assert boxes.sh(other, "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 172.18.0.1 8080").endswith("hello")
    boxes.node.direct(
        "corex.portforward-add", container=id, host_port="127.0.0.0/8:9090|tcp", container_port=80
    )
    assert said(boxes.node, "127.0.0.1", 9090) == "hello"
    assert boxes.arguments(id)["port"] == {"8080": 80, "127.0.0.0/8:9090": 80}
    assert boxes.node.refused(
        "corex.portforward-add", container=other, host_port="8080", container_port=80
    ) == (
        500,
        "port: port 8080 already in use",
    )
    assert boxes.refused(DEFAULT, port={"8080|udp": 80})[0] == 500
    boxes.node.direct("corex.portforward-remove", container=id, host_port="9090", container_port=1)
    boxes.node.direct("corex.portforward-remove", container=id, host_port="9090", container_port=1)
    assert boxes.arguments(id)["port"] == {"8080": 80}
    boxes.node.direct("corex.nic-remove", container=id, index=0)
    assert boxes.arguments(id)["port"] == {}
    code, text = boxes.node.refused(
        "corex.portforward-add", container=id, host_port="8080", container_port=80
    )
    assert (code, "default" in text) == (500, True)
    boxes.end(id, other)
    gone(boxes.node)


def test_connections_by_a_forward_end_with_it(boxes: Containers) -> None:
    id = boxes.create(DEFAULT, port={"8087": 80, "8088": 80}, **WEB)
    eventually(lambda: not boxes.fails(id, "netstat -ltn | grep -q :80"))
    boxes.reaches(id, "172.18.0.1")
    with network_of(boxes.node.pid):
        ends, stays = (socket.create_connection(("127.0.0.1", port), timeout=30) for port in (8087, 8088))
    with ends, stays:
        boxes.node.direct("corex.portforward-remove", container=id, host_port="8087", container_port=80)
        ends.sendall(REQUEST.encode())
        with pytest.raises(ConnectionError):
            ends.recv(1000)
        stays.sendall(REQUEST.encode())
        assert stays.makefile("r").read().endswith("hello")
    boxes.end(id)
    gone(boxes.node)


def test_restarted_container_keeps_its_links_address_and_forwards(boxes: Containers) -> None:
    id = boxes.create(DEFAULT, port={"8085": 80}, restart={"policy": "always"}, **WEB)
    address = boxes.links(id)["eth0"]
    pid = boxes.node.direct("corex.get", query=id)["container"]["pid"]
    os.kill(pid, signal.SIGKILL)

    def runs_again() -> bool:
        found = boxes.node.direct("corex.get", query=id)
        return found is not None and found["container"]["pid"] not in (0, pid) and answers()

    def answers() -> bool:
        try:
            return said(boxes.node, "127.0.0.1", 8085) == "hello"
        except OSError:
            return False

    eventually(runs_again)
    assert boxes.links(id)["eth0"] == address
    boxes.end(id)
    gone(boxes.node)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_port_of_a_server_of_the_node_is_not_forwarded(boxes: Containers, address: str) -> None:
    with network_of(boxes.node.pid):
        server = socket.create_server((address, 7777))
    with server:
        code, text = boxes.refused(DEFAULT, port={"7777": 80})
        assert (code, "7777" in text) == (500, True)
    gone(boxes.node)


def test_host_network_ignores_nics_and_takes_no_more(boxes: Containers) -> None:
    id = boxes.create(DEFAULT, host_network=True, port={"8081": 80})
    assert boxes.node.refused("corex.nic-add", container=id, nic=DEFAULT)[0] == 400
    assert traces(boxes.node) == NOTHING
    boxes.end(id)
    for name, more in (
        ("corex.nic-add", {"nic": DEFAULT}),
        ("corex.nic-remove", {"index": 0}),
        ("corex.portforward-add", {"host_port": "80", "container_port": 80}),
    ):
        assert boxes.node.refused(name, container=id, **more)[0] == 404


@pytest.mark.parametrize(
    ("nics", "code", "told"),
    [
        ([{"type": "bridge", "id": "none0"}], 404, "none0"),
        ([DEFAULT, {"type": "bridge", "id": "none0"}], 404, "none0"),
        ([{"type": "bridge", "id": "lo"}], 400, "bridge"),
        ([{"type": "bridge"}], 400, "nics[0].id"),
        ([{"type": "bridge", "id": "core0"}], 400, "core0"),
        ([DEFAULT, DEFAULT], 400, "nics[1]"),
        ([DEFAULT | {"name": "eth5"}], 400, "name"),
        ([DEFAULT | {"hwaddr": "x"}], 400, "hwaddr"),
        ([DEFAULT | {"config": {"cidr": "10.0.0.1"}}], 400, "nics[0].config.cidr"),
        ([DEFAULT | {"config": {"cidr": "10.0.0.1/255.0.0.0"}}], 400, "nics[0].config.cidr"),
        ([DEFAULT | {"config": {"gateway": "10.0.0.1"}}], 400, "gateway"),
        ([DEFAULT | {"config": {"dns": ["x"]}}], 400, "dns"),
        ([{"type": "warp"}], 400, "type"),
    ],
)
def test_nic_that_cannot_be_made_fails_the_create_and_leaves_nothing(
    boxes: Containers, nics: list[dict[str, Any]], code: int, told: str
) -> None:
    answer = boxes.refused(*nics, port={"8090": 80} if nics[0] is DEFAULT else {})
    assert answer[0] == code, answer
    assert told in answer[1]
    gone(boxes.node)
    assert boxes.node.direct("corex.list") == {}


@contextmanager
def planted(node: Inside, bridge: str) -> Iterator[subprocess.Popen[bytes]]:
    """A DNS server as a node that was killed leaves one; its bridge is gone."""
    folder = node.folder / "root/run/dnsmasq" / bridge
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=", "--port=0", "--user=root"]
    server = subprocess.Popen([*inside(node.pid), *argv, f"--pid-file={folder}/pid"])
    try:
        eventually(lambda: (folder / "pid").exists())
        yield server
    finally:
        server.kill()
        server.wait()


def test_what_nobody_owns_is_told_and_removed(boxes: Containers) -> None:
    node = boxes.node
    id = boxes.create(DEFAULT, port={"8086": 80})
    assert node.direct("core.gc") == []
    links = {(id, f"cont{id}-7"), (id, f"conti{id}-0"), (9999, "contm9999-0"), (0, "g8x77")}
    for _, name in links:
        node.there("ip", "link", "add", name, "type", "bridge")
    node.there("ip", "link", "add", "mine", "type", "bridge")
    rule = ["nft", "add", "rule", "inet", "g8node", "input", "tcp", "dport", "99", "accept"]
    node.there(*rule, "comment", '"g8 container 9999"')
    node.there(*rule, "comment", '"by hand"')
    longest = ["sleep", "60", *(["0" * 100_000] * 2)]  # whose words are more than anybody reads
    with planted(node, "gone0") as server, subprocess.Popen(longest) as long:
        told = node.direct("core.gc", dry_run=True)
        assert {(row["container"], row["name"]) for row in told if row["kind"] == "link"} == links
        (strange,) = (row["name"] for row in told if row["kind"] == "rule")
        assert strange.endswith(": g8 container 9999")
        assert [row["name"] for row in told if row["kind"] == "server"] == [f"dnsmasq-gone0 ({server.pid})"]
        assert server.poll() is None
        assert node.direct("core.gc") == told
        assert server.wait(60) == -signal.SIGKILL
        long.kill()
    assert node.direct("core.gc") == []
    assert "by hand" in node.there("nft", "list", "ruleset")
    assert "9999" not in node.there("nft", "list", "ruleset")
    left = node.there("ip", "-o", "link")
    assert not any(f" {name}:" in left for _, name in links)
    assert "mine" in left
    assert boxes.arguments(id)["port"] == {"8086": 80}
    boxes.reaches(id, "172.18.0.1")
    boxes.end(id)
    node.there("ip", "link", "del", "mine")
    gone(node)


def test_many_containers_at_once_leave_nothing(boxes: Containers) -> None:
    jobs = [
        boxes.node.push("corex.create", {**boxes.flist, "nics": [DEFAULT], "port": {str(9000 + n): 80}})
        for n in range(12)
    ]
    ids = [int(boxes.node.result(job, 60)["data"]) for job in jobs]
    assert len({boxes.links(id)["eth0"][0] for id in ids}) == len(ids)
    boxes.reaches(ids[0], f"172.18.{(ids[-1] + 1) >> 8}.{(ids[-1] + 1) & 255}")
    ends = [boxes.node.push("corex.terminate", {"container": id}) for id in ids]
    assert {boxes.node.result(end, 60)["state"] for end in ends} == {"SUCCESS"}
    gone(boxes.node)


def test_default_network_is_where_the_settings_say(
    tmp_path_factory: pytest.TempPathFactory, flist: dict[str, str]
) -> None:
    config = '[network]\ndefault = "10.200.0.1/30"\n'
    with daemon_inside(tmp_path_factory.mktemp("node"), config=config) as node:
        boxes = Containers(node, flist)
        id = boxes.create(DEFAULT)
        assert boxes.links(id)["eth0"] == ["10.200.0.2/30"]
        boxes.reaches(id, "10.200.0.1")
        code, text = boxes.refused(DEFAULT)
        assert (code, "network.default" in text) == (503, True)
        boxes.end(id)
        again = boxes.create(DEFAULT)
        assert boxes.links(again)["eth0"] == ["10.200.0.2/30"]
        boxes.end(again)
        gone(node)


def test_killed_node_leaves_no_link_in_the_way_of_the_next(
    tmp_path_factory: pytest.TempPathFactory, flist: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("node")
    with daemon_inside(folder) as node:
        boxes = Containers(node, flist)
        first = boxes.create(DEFAULT, port={"8080": 80})
        pid = node.direct("corex.list")[str(first)]["container"]["pid"]
        stay = ["sh", "-c", "echo there; exec sleep 1000"]
        keeper = subprocess.Popen([*inside(node.pid), *stay], stdout=subprocess.PIPE)
        try:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == b"there\n"
            node.process.kill()
            node.process.wait()
            os.kill(pid, signal.SIGKILL)  # else the container would be taken over
            eventually(lambda: not os.path.exists(f"/proc/{pid}"))
            with daemon_inside(folder, prefix=inside(keeper.pid)) as later:
                again = Containers(later, flist)
                id = again.create(DEFAULT, port={"8080": 80})
                assert again.links(id)["eth0"] == ["172.18.0.2/16"]
                again.end(id)
                gone(later)
        finally:
            keeper.kill()
            keeper.communicate()
