"""Containers beyond their own node: VXLAN between two hosts, macvlan, passthrough, bounded rates."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.busybox import Containers, busybox_flist
from tests.support.netns import Inside, daemon_inside

pytestmark = [pytest.mark.root, pytest.mark.fuse]

PRIVATE = "GC7bQPbyBFo2bgPoyrXFx9kHYwCG/X7h1yrqaA9lC1I="
PEER = "sKMpSbJvvoSq8CEcPmjZJhLvdMDkK9CLTCNVJmhS/Xg="


@pytest.fixture(scope="module")
def flist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return busybox_flist(tmp_path_factory.mktemp("flist"))


@pytest.fixture(scope="module", params=['vxlan_peers = ["{other}"]', 'vxlan_group = "239.7.7.7"'])
def hosts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, flist: dict[str, str]
) -> Iterator[tuple[Containers, Containers]]:
    """Two nodes with a wire, u0, between them."""

    def config(other: str) -> str:
        return f'[network]\nvxlan_underlay = "u0"\n{request.param.format(other=other)}\n'

    make = "ip link add u0 type veth peer name u1; ip address add 10.50.0.1/24 dev u0; ip link set u0 up"
    with (
        daemon_inside(tmp_path_factory.mktemp("one"), make, config("10.50.0.2")) as one,
        daemon_inside(tmp_path_factory.mktemp("two"), "", config("10.50.0.1")) as two,
    ):
        one.there("ip", "link", "set", "u1", "netns", str(two.pid), "name", "u0")
        two.there("ip", "address", "add", "10.50.0.2/24", "dev", "u0")
        two.there("ip", "link", "set", "u0", "up")
        yield Containers(one, flist), Containers(two, flist)
        assert "Traceback" not in one.log() + two.log()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory, flist: dict[str, str]) -> Iterator[Containers]:
    """A node with links p0 and p1, a pair, and a bridge."""
    make = "ip link add p0 type veth peer name p1; ip link set p1 up; ip link add b0 type bridge"
    with daemon_inside(tmp_path_factory.mktemp("node"), make) as node:
        yield Containers(node, flist)
        assert "Traceback" not in node.log()


def vxlan(vni: int | str, address: str) -> dict[str, Any]:
    return {"type": "vxlan", "id": vni, "config": {"cidr": address}}


def links(node: Inside) -> list[str]:
    return [row["name"] for row in node.direct("ip.link.list")]


def settings(node: Inside, name: str) -> dict[str, Any]:
    """What somebody has set; whether it has a carrier is the kernel's business, which takes it a while."""
    (row,) = json.loads(node.there("ip", "-j", "link", "show", name))
    return {key: row[key] for key in ("ifindex", "ifname", "address", "mtu")} | {"up": "UP" in row["flags"]}


def test_vxlan_joins_containers_of_two_hosts_and_keeps_numbers_apart(
    hosts: tuple[Containers, Containers],
) -> None:
    one, two = hosts
    first = one.create(vxlan(100, "10.60.0.1/24"))
    second = two.create(vxlan("100", "10.60.0.2/24"), vxlan(101, "10.61.0.2/24"))
    other = one.create(vxlan(102, "10.61.0.1/24"))
    one.reaches(first, "10.60.0.2")
    assert two.fails(second, "ping -c 1 -W 2 10.61.0.1")
    neighbour = one.create(vxlan(100, "10.60.0.3/24"))
    one.reaches(neighbour, "10.60.0.1")
    assert "mtu 1450" in two.there(second, "ip", "link", "show", "eth0")
    assert {"g8x100", "g8x100u", "g8x102"} <= set(links(one.node))
    one.end(first)
    two.reaches(second, "10.60.0.3")
    one.end(neighbour, other)
    two.end(second)
    assert not [name for node in (one.node, two.node) for name in links(node) if name.startswith("g8")]
    assert "vxlan" not in one.node.there("nft", "list", "table", "inet", "g8node")


def test_nat_makes_the_difference_to_the_world_beyond(hosts: tuple[Containers, Containers]) -> None:
    one, _ = hosts
    for nat, own in ((True, "10.65.0.2/24"), (False, "10.65.0.3/24")):
        config = {"cidr": own, "gateway": "10.65.0.1"}
        network = {"mode": "static", "nat": nat, "settings": {"cidr": "10.65.0.1/24"}}
        one.node.direct("bridge.create", name="out", network=network)
        id = one.create({"type": "bridge", "id": "out", "config": config})
        one.reaches(id, "10.65.0.1")
        if nat:
            one.reaches(id, "10.50.0.2")
        else:
            assert one.fails(id, "ping -c 1 -W 2 10.50.0.2")
        one.end(id)
        one.node.direct("bridge.delete", name="out")


def test_vxlan_and_vlan_need_to_know_where(boxes: Containers) -> None:
    for nic, setting in (
        (vxlan(5, "10.0.0.1/24"), "vxlan_underlay"),
        ({"type": "vlan", "id": 5}, "vlan_uplink"),
    ):
        code, text = boxes.refused(nic)
        assert (code, setting in text) == (412, True)
    for nic in ({"type": "vlan", "id": 4095}, {"type": "vxlan", "id": "x"}, {"type": "vlan"}):
        assert boxes.refused(nic)[0] == 400
    assert boxes.refused({"type": "vlan", "id": 5, "master": "none0"})[0] == 404


def test_two_containers_on_one_macvlan_parent_have_different_macs(boxes: Containers) -> None:
    nic = {"type": "macvlan", "id": "p0"}
    first = boxes.create(nic | {"config": {"cidr": "10.62.0.1/24"}})
    mac = "02:00:00:00:62:02"
    second = boxes.create(nic | {"config": {"cidr": "10.62.0.2/24"}, "hwaddr": mac, "name": "lan"})
    boxes.reaches(first, "10.62.0.2")
    shown = [
        boxes.there(first, "ip", "-d", "link", "show", "eth0"),
        boxes.there(second, "ip", "-d", "link", "show", "lan"),
    ]
    assert all("macvlan mode bridge" in text for text in shown)
    assert mac in shown[1]
    assert mac not in shown[0]
    boxes.node.direct("corex.nic-remove", container=second, index=0)
    assert boxes.links(second) == {"lo": []}
    boxes.end(first, second)
    for nic, code in (({"id": "b0"}, 400), ({"id": "lo"}, 400), ({"id": "none0"}, 404), ({}, 400)):
        assert boxes.refused({"type": "macvlan", **nic})[0] == code


def test_passed_link_leaves_the_node_and_comes_back_as_it_was(boxes: Containers) -> None:
    before = settings(boxes.node, "p1")
    id = boxes.create()
    nic = {
        "type": "passthrough",
        "id": "p1",
        "hwaddr": "02:00:00:00:63:01",
        "config": {"cidr": "10.63.0.1/24"},
    }
    boxes.node.direct("corex.nic-add", container=id, nic=nic)
    assert "p1" not in links(boxes.node)
    assert boxes.links(id)["p1"] == ["10.63.0.1/24"]
    assert "02:00:00:00:63:01" in boxes.there(id, "ip", "link", "show", "p1")
    assert boxes.refused({"type": "passthrough", "id": "p1"})[0] == 404
    boxes.node.direct("corex.nic-remove", container=id, index=0)
    assert settings(boxes.node, "p1") == before
    boxes.node.direct("corex.nic-add", container=id, nic=nic | {"name": "wan"})
    assert "wan" in boxes.links(id)
    boxes.end(id)
    assert settings(boxes.node, "p1") == before


def test_addresses_of_ipv6_are_for_links_of_every_type(boxes: Containers) -> None:
    def static(host: int) -> dict[str, str]:
        return {"cidr6": f"fd00:64::{host}/64", "gateway6": "fd00:64::9"}

    one = boxes.create({"type": "passthrough", "id": "p1", "config": static(1)})
    two = boxes.create({"type": "macvlan", "id": "p0", "config": {**static(2), "dns": ["fd00:64::9"]}})
    boxes.node.there("ip", "link", "set", "p0", "up")
    boxes.reaches(two, "-6 fd00:64::1")
    assert boxes.sh(two, "cat /etc/resolv.conf") == "nameserver fd00:64::9\n"
    for id, link in ((one, "p1"), (two, "eth0")):
        assert f"default via fd00:64::9 dev {link} " in boxes.there(id, "ip", "-6", "route")
    boxes.end(one, two)


@pytest.mark.parametrize("key", ["", "6"])
def test_gateway_that_no_address_leads_to_is_named(boxes: Containers, key: str) -> None:
    cidr, gateway = ("fd00:65::1/64", "fd00:66::1") if key else ("10.65.0.1/24", "10.66.0.1")
    config = {f"cidr{key}": cidr, f"gateway{key}": gateway}
    code, text = boxes.refused({"type": "macvlan", "id": "p0", "config": config})
    assert (code, f"gateway {gateway}: " in text) == (409, True), text


def test_bridge_is_not_passed_and_stays(boxes: Containers) -> None:
    boxes.node.direct("bridge.nic-add", name="b0", nic="p1")
    for name in ("b0", "lo"):
        code, text = boxes.refused({"type": "passthrough", "id": name})
        assert (code, name in text) == (400, True)
    assert boxes.refused({"type": "passthrough", "id": "p1"})[0] == 409
    boxes.node.direct("bridge.nic-remove", nic="p1")
    assert {"b0", "p1"} <= set(links(boxes.node))
    assert boxes.node.direct("corex.list") == {}


def test_rate_is_bounded_both_ways_and_the_bounds_go_with_the_nic(boxes: Containers) -> None:
    rate = {"send_bits_s": 8_000_000, "receive_bits_s": 16_000_000}
    id = boxes.create({"type": "default", "rate": rate})
    shown = boxes.node.there("tc", "qdisc", "show", "dev", f"cont{id}-0")
    assert "tbf" in shown
    assert "rate 16Mbit" in shown
    assert "ingress" in shown
    assert "rate 8Mbit" in boxes.node.there("tc", "qdisc", "show", "dev", f"conti{id}-0")
    boxes.reaches(id, "172.18.0.1")
    assert boxes.arguments(id)["nics"][0]["rate"] == rate
    boxes.end(id)
    assert not [name for name in links(boxes.node) if name.startswith("cont")]
    assert boxes.refused({"type": "macvlan", "id": "p0", "rate": rate})[0] == 400


def test_wireguard_that_the_kernel_does_not_have_fails_and_tells_no_key(boxes: Containers) -> None:
    peers = [{"public_key": PEER, "allowed_ips": ["10.9.0.0/24"], "preshared_key": PRIVATE}]
    nic = {"type": "wireguard", "wireguard": {"private_key": PRIVATE, "listen_port": 5555, "peers": peers}}
    if subprocess.run(["modprobe", "-q", "wireguard"], check=False).returncode:
        code, text = boxes.refused(nic)
        assert code == 503
        assert PRIVATE not in text
        assert "5555" not in boxes.node.there("nft", "list", "ruleset")
    wrong = {**nic["wireguard"], "peers": [{"public_key": PEER, "endpoint": "example.org"}]}  # type: ignore[dict-item]
    assert boxes.refused({"type": "wireguard", "wireguard": wrong})[0] == 400
    code, text = boxes.refused({"type": "zerotier", "id": "0" * 16})
    assert (code, "zerotier-one" in text) == (503, True)
