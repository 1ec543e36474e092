"""bridge.*: bridges and their ports, by an agent in a network namespace of its own; real dnsmasq."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import daemon
from tests.support.dns import asked
from tests.support.netns import Inside, daemon_inside, inside, network_of

pytestmark = [pytest.mark.root]

_IP_FREEBIND = 15


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    script = "ip link add v0 type veth peer name v1; ip link add foreign type bridge"
    with daemon_inside(tmp_path_factory.mktemp("node"), script) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture
def dhcp(node: Inside, tmp_path: Path) -> Callable[[str, str], str]:
    """The address that a client with that MAC address is given on a bridge."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho lease $ip\n")
    script.chmod(0o755)

    def lease(bridge: str, mac: str) -> str:
        node.there("ip", "link", "add", "c0", "type", "veth", "peer", "name", "c1")
        node.there("ip", "link", "set", "c0", "master", bridge, "up")
        node.there("ip", "link", "set", "c1", "address", mac, "up")
        try:
            client = ["busybox", "udhcpc", "-f", "-n", "-q", "-i", "c1", "-t", "50", "-T", "1"]
            told = node.there(*client, "-s", str(script))
        finally:
            node.there("ip", "link", "del", "c0")
        found = re.search(r"^lease (.+)$", told, re.MULTILINE)
        assert found is not None, told
        return found[1]

    return lease


def static(cidr: str) -> dict[str, Any]:
    return {"mode": "static", "settings": {"cidr": cidr}}


def test_bridge_takes_a_port_lists_it_and_lets_it_go(node: Inside) -> None:
    assert node.direct("bridge.list") == ["foreign"]
    node.direct("bridge.nic-add", name="foreign", nic="v0")
    assert node.direct("bridge.nic-list", name="foreign") == ["v0"]
    assert node.refused("bridge.nic-add", name="foreign", nic="v0")[0] == 409
    node.direct("bridge.nic-remove", nic="v0")
    node.direct("bridge.nic-remove", nic="v0")
    assert node.direct("bridge.nic-list", name="foreign") == []


def test_address_of_a_bridge_does_not_change_with_its_ports(node: Inside) -> None:
    def hwaddr() -> str:
        return next(row["hwaddr"] for row in node.direct("ip.link.list") if row["name"] == "same0")

    node.direct("bridge.create", name="same0")
    before = hwaddr()
    node.there("ip", "link", "add", "low0", "address", "00:00:00:00:00:01", "type", "veth")
    node.direct("bridge.nic-add", name="same0", nic="low0")
    assert hwaddr() == before
    node.direct("bridge.delete", name="same0")
    node.there("ip", "link", "del", "low0")


def test_missing_links_and_what_is_no_bridge_are_refused(node: Inside) -> None:
    assert node.refused("bridge.nic-add", name="nope", nic="v0")[0] == 404
    assert node.refused("bridge.nic-add", name="foreign", nic="nope")[0] == 404
    assert node.refused("bridge.nic-add", name="v1", nic="v0")[0] == 400
    assert node.refused("bridge.nic-list", name="nope")[0] == 404
    assert node.refused("bridge.nic-list", name="v1")[0] == 400
    assert node.refused("bridge.nic-remove", nic="nope")[0] == 404


def test_static_bridge_has_its_address_answers_dns_and_goes_with_all_its_parts(node: Inside) -> None:
    node.direct("bridge.create", name="s0", hwaddr="02:00:00:00:00:05", network=static("10.1.0.1/24"))
    row = next(row for row in node.direct("ip.link.list") if row["name"] == "s0")
    assert (row["hwaddr"], row["up"]) == ("02:00:00:00:00:05", True)
    assert node.direct("ip.addr.list", name="s0")[0] == "10.1.0.1/24"
    assert asked(node, "10.1.0.1", "localhost") == []  # it knows its own names only
    assert "dnsmasq-s0" in {row["cmd"]["id"] for row in node.direct("job.list")}
    assert node.refused("bridge.create", name="s0")[0] == 409
    assert node.refused("bridge.create", name="s1", network=static("10.1.0.5/16"))[0] == 409
    node.direct("bridge.delete", name="s0")
    assert "s0" not in node.direct("bridge.list")
    assert "dnsmasq-s0" not in {row["cmd"]["id"] for row in node.direct("job.list")}
    assert "s0" not in node.there("nft", "list", "ruleset")
    assert not (node.folder / "root/run/dnsmasq/s0").exists()
    assert node.refused("bridge.delete", name="s0")[0] == 404
    node.direct("bridge.create", name="s1", network=static("10.1.0.1/24"))
    node.direct("bridge.delete", name="s1")


def test_bridge_gives_leases_the_fixed_one_to_its_mac(node: Inside, dhcp: Callable[[str, str], str]) -> None:
    settings = {"cidr": "10.2.0.1/24", "start": "10.2.0.10", "end": "10.2.0.20", "cidr6": "fd00:2::1/64"}
    node.direct("bridge.create", name="d0", network={"mode": "dnsmasq", "nat": True, "settings": settings})
    assert set(node.direct("ip.addr.list", name="d0")) >= {"10.2.0.1/24", "fd00:2::1/64"}
    assert "masquerade" in node.there("nft", "list", "chain", "inet", "g8node", "postrouting")
    node.direct("bridge.host-add", bridge="d0", ip="10.2.0.99", mac="02:00:00:00:00:99")
    node.direct("bridge.add_host", bridge="d0", ip="10.2.0.98", mac="02:00:00:00:00:98")
    assert dhcp("d0", "02:00:00:00:00:99") == "10.2.0.99"
    assert dhcp("d0", "02:00:00:00:00:98") == "10.2.0.98"
    assert 10 <= int(dhcp("d0", "02:00:00:00:00:01").removeprefix("10.2.0.")) <= 20
    assert node.refused("bridge.host-add", bridge="d0", ip="10.3.0.1", mac="02:00:00:00:00:99")[0] == 400
    node.direct("bridge.delete", name="d0")
    assert node.refused("bridge.host-add", bridge="d0", ip="10.2.0.9", mac="02:00:00:00:00:99")[0] == 404
    assert "masquerade" not in node.there("nft", "list", "chain", "inet", "g8node", "postrouting")


def test_bridge_without_network_only_switches(node: Inside) -> None:
    for mode in ("", "none", None):
        node.direct("bridge.create", name="plain", network={"mode": mode, "settings": {}})
        assert all(address.startswith("fe80") for address in node.direct("ip.addr.list", name="plain"))
        node.direct("bridge.delete", name="plain")


@pytest.mark.parametrize(
    ("network", "field"),
    [
        ({"mode": "static"}, "cidr"),
        ({"mode": "static", "settings": {"cidr": "10.1.0.1"}}, "cidr"),
        ({"mode": "static", "settings": {"cidr": "10.1.0.0/24"}}, "cidr"),
        ({"mode": "static", "settings": {"cidr": "10.1.0.1/24", "cidr6": "10.1.1.1/24"}}, "cidr6"),
        ({"mode": "static", "settings": {"cidr": "10.1.0.1/24", "cidr6": "fe80::5%b/64"}}, "cidr6"),
        ({"mode": "dnsmasq", "settings": {"cidr": "10.1.0.1/24", "start": "10.1.0.2"}}, "end"),
        ({"mode": "dnsmasq", "settings": {"cidr": "10.1.0.1/24", "start": "10.1.1.2"}}, "start"),
        (
            {
                "mode": "dnsmasq",
                "settings": {"cidr": "10.1.0.1/24", "start": "10.1.0.9", "end": "10.1.0.2"},
            },
            "end",
        ),
        ({"mode": "ovs"}, "mode"),
    ],
)
def test_wrong_network_is_refused_and_leaves_no_bridge(
    node: Inside, network: dict[str, Any], field: str
) -> None:
    code, text = node.refused("bridge.create", name="w0", network=network)
    assert (code, field in text) == (400, True), text
    assert "w0" not in node.direct("bridge.list")


def test_bridge_whose_server_cannot_start_is_undone(node: Inside) -> None:
    """The DNS port of its address is taken."""
    with network_of(node.pid), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        taken.bind(("10.5.0.1", 53))
        code, text = node.refused("bridge.create", name="b0", network=static("10.5.0.1/24"))
    assert code == 503
    assert "in use" in text
    assert "b0" not in node.direct("bridge.list")
    assert "b0" not in node.there("nft", "list", "ruleset")
    node.direct("bridge.create", name="b0", network=static("10.5.0.1/24"))
    node.direct("bridge.delete", name="b0")


def g8(node: Inside, *words: str) -> str:
    """What the tool prints, in the node's network namespace."""
    env = ["env", f"G8_NODE=127.0.0.1:{node.port}", f"G8_PASSWORD_FILE={node.folder}/password"]
    return node.there(*env, sys.executable, "-m", "g8tools.g8", *words, "--timeout", "60")


def test_tool_makes_bridges_and_opens_ports(node: Inside) -> None:
    g8(node, "bridge", "create", "t0", "--cidr", "10.8.0.1/24", "--dhcp", "10.8.0.10-10.8.0.20", "--nat")
    g8(node, "bridge", "lease", "t0", "02:00:00:00:00:01", "10.8.0.9")
    g8(node, "bridge", "attach", "t0", "v1")
    assert {"name": "t0", "links": ["v1"]} in json.loads(g8(node, "--json", "bridge", "list"))
    assert "10.8.0.1/24" in node.direct("ip.addr.list", name="t0")
    assert "10.8.0.0/24 " in node.there("nft", "list", "chain", "inet", "g8node", "postrouting")
    g8(node, "bridge", "detach", "v1")
    g8(node, "bridge", "delete", "t0")
    g8(node, "firewall", "open", "2222", "--subnet", "10.0.0.0/8")
    assert "ip saddr 10.0.0.0/8 tcp dport 2222 accept" in g8(node, "firewall", "list")
    g8(node, "firewall", "close", "2222")
    assert "2222" not in g8(node, "firewall", "list")


def test_second_node_in_a_network_is_refused_and_stopping_takes_the_bridges_down(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with daemon_inside(tmp_path_factory.mktemp("node")) as running:
        running.direct("bridge.create", name="s0", network=static("10.1.0.1/24"))
        with daemon(tmp_path_factory.mktemp("other"), prefix=inside(running.pid), kind=Inside) as other:
            assert isinstance(other, Inside)
            code, text = other.refused("bridge.create", name="t0", network=static("10.2.0.1/24"))
            assert code == 409
            assert "another g8node" in text
            running.direct("nft.open_port", port=22)
            for name, arguments in (
                ("nft.open_port", {"port": 23}),
                ("bridge.delete", {"name": "s0"}),
                ("bridge.nic-add", {"name": "s0", "nic": "lo"}),
                ("bridge.nic-remove", {"nic": "lo"}),
            ):
                code, text = other.refused(name, **arguments)
                assert (code, "another g8node" in text) == (409, True), (name, text)
            assert "tcp dport 22 accept" in running.direct("nft.list")
            other.direct("nft.drop_port", port=22)
            assert running.there("ip", "link", "add", "cont9-0", "type", "bridge") == ""
            assert other.direct("core.gc") == []
            assert [row["name"] for row in running.direct("core.gc")] == ["cont9-0"]
            assert other.stop() == 0
            assert "tcp dport 22 accept" in running.there("nft", "list", "ruleset")
        space = os.open(f"/proc/{running.pid}/ns/net", os.O_RDONLY)
        try:
            assert running.stop() == 0
            enter = ["nsenter", f"--net=/proc/self/fd/{space}"]
            left = subprocess.run(
                [*enter, "ip", "-o", "link"], pass_fds=[space], capture_output=True, text=True, check=True
            ).stdout
        finally:
            os.close(space)
    assert "s0" not in left
