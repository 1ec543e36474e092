"""ip.*: links, addresses, routes and bridges, by an agent in a network namespace of its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.netns import agent_inside

pytestmark = [pytest.mark.root]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with agent_inside(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


def refused(node: Daemon, command: str, /, **arguments: Any) -> tuple[int, str]:
    done = node.job(command, arguments)
    assert done["state"] == "ERROR", done
    return done["code"], json.loads(done["data"])


def links(node: Daemon) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in node.direct("ip.link.list")}


def test_link_list_matches_the_kernel(node: Daemon) -> None:
    shell = node.job("bash", {"script": "ip -j link show v0"})["streams"][0]
    (expected,) = json.loads(shell)
    assert links(node)["v0"] == {
        "name": "v0",
        "type": "veth",
        "hwaddr": expected["address"],
        "master": "",
        "up": False,
        "mtu": 1500,
    }
    assert links(node)["lo"]["type"] == "device"


def test_link_goes_up_and_down_and_keeps_its_name_while_up(node: Daemon) -> None:
    node.direct("ip.link.up", name="v0")
    assert links(node)["v0"]["up"]
    code, text = refused(node, "ip.link.name", name="v0", new="w0")
    assert code == 409
    assert "up" in text
    node.direct("ip.link.down", name="v0")
    assert not links(node)["v0"]["up"]
    node.direct("ip.link.name", name="v0", new="w0")
    assert "v0" not in links(node)
    assert refused(node, "ip.link.name", name="w0", new="v1")[0] == 409
    node.direct("ip.link.name", name="w0", new="v0")


def test_link_mtu(node: Daemon) -> None:
    node.direct("ip.link.mtu", name="v0", mtu=1400)
    assert links(node)["v0"]["mtu"] == 1400
    node.direct("ip.link.mtu", name="v0", mtu=1500)
    assert refused(node, "ip.link.mtu", name="nope", mtu=1400)[0] == 404
    assert refused(node, "ip.link.mtu", name="v0", mtu=5)[0] == 400
    for command in ("ip.link.up", "ip.link.down"):
        code, text = refused(node, command, name="nope")
        assert code == 404
        assert "nope" in text


def test_address_is_added_listed_and_deleted_once(node: Daemon) -> None:
    for ip in ("10.55.0.1/24", "fd55::1/64"):
        node.direct("ip.addr.add", name="v0", ip=ip)
        assert refused(node, "ip.addr.add", name="v0", ip=ip)[0] == 409
        assert ip in node.direct("ip.addr.list", name="v0")
        node.direct("ip.addr.del", name="v0", ip=ip)
        assert refused(node, "ip.addr.del", name="v0", ip=ip)[0] == 404
        assert ip not in node.direct("ip.addr.list", name="v0")
    assert refused(node, "ip.addr.add", name="nope", ip="10.55.0.1/24")[0] == 404
    assert refused(node, "ip.addr.list", name="nope")[0] == 404


def test_bridge_takes_ports_and_lets_them_go(node: Daemon) -> None:
    node.direct("ip.bridge.add", name="br5", hwaddr="02:00:00:00:00:55")
    row = links(node)["br5"]
    assert (row["type"], row["hwaddr"], row["up"]) == ("bridge", "02:00:00:00:00:55", False)
    assert refused(node, "ip.bridge.add", name="br5")[0] == 409
    node.direct("ip.bridge.addif", name="br5", inf="v1")
    assert links(node)["v1"]["master"] == "br5"
    assert refused(node, "ip.bridge.addif", name="br5", inf="v1")[0] == 409
    node.direct("ip.bridge.delif", name="br5", inf="v1")
    assert links(node)["v1"]["master"] == ""
    code, text = refused(node, "ip.bridge.delif", name="br5", inf="v1")
    assert code == 400
    assert "not attached" in text
    assert refused(node, "ip.bridge.addif", name="br5", inf="nope")[0] == 404
    assert refused(node, "ip.bridge.addif", name="v0", inf="v1")[0] == 400
    assert refused(node, "ip.bridge.del", name="v0")[0] == 400
    node.direct("ip.bridge.del", name="br5")
    assert refused(node, "ip.bridge.del", name="br5")[0] == 404
    node.direct("ip.bridge.add", name="br5")
    node.direct("ip.bridge.del", name="br5")


@pytest.fixture
def routed(node: Daemon) -> Iterator[Daemon]:
    node.direct("ip.addr.add", name="v0", ip="10.56.0.1/24")
    for name in ("v0", "v1"):
        node.direct("ip.link.up", name=name)
    yield node
    for name in ("v0", "v1"):
        node.direct("ip.link.down", name=name)
    node.direct("ip.addr.del", name="v0", ip="10.56.0.1/24")


def test_route_is_added_listed_and_deleted_once(routed: Daemon) -> None:
    row = {"dev": "v0", "dst": "10.77.0.0/16", "gw": "10.56.0.2"}
    routed.direct("ip.route.add", **row)
    assert row in routed.direct("ip.route.list")
    assert refused(routed, "ip.route.add", **row)[0] == 409
    routed.direct("ip.route.del", **row)
    assert row not in routed.direct("ip.route.list")
    assert refused(routed, "ip.route.del", **row) == (404, "route not found")
    assert refused(routed, "ip.route.add", **{**row, "dev": "nope"})[0] == 404
    assert refused(routed, "ip.route.add", **{**row, "gw": "10.99.0.1"})[0] == 409


def test_default_route_has_an_empty_destination(routed: Daemon) -> None:
    routed.direct("ip.route.add", dev="v0", dst="", gw="10.56.0.2")
    assert {"dev": "v0", "dst": "", "gw": "10.56.0.2"} in routed.direct("ip.route.list")
    shell = routed.job("bash", {"script": "ip route show default"})["streams"][0]
    assert "via 10.56.0.2 dev v0" in shell
    code, text = refused(routed, "ip.route.del", dev="v0")
    assert code == 409
    assert text.startswith("ambiguous")
    routed.direct("ip.route.del", gw="10.56.0.2")
    assert refused(routed, "ip.route.del", dst="default")[0] == 404


def test_route_of_ipv6(routed: Daemon) -> None:
    row = {"dev": "v0", "dst": "fd77::/64", "gw": ""}
    routed.direct("ip.route.add", **row)
    assert row in routed.direct("ip.route.list")
    routed.direct("ip.route.del", dst="fd77::/64")
    assert row not in routed.direct("ip.route.list")


def test_bond_of_missing_links_is_not_found(node: Daemon) -> None:
    code, text = refused(node, "ip.bond.add", bond="bond7", interfaces=["v0", "nope"])
    assert code == 404
    assert "nope" in text
    assert refused(node, "ip.bond.del", bond="bond7")[0] == 404


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("ip.bridge.add", {}, "name"),
    ("ip.bridge.add", {"name": 5}, "name"),
    ("ip.bridge.add", {"name": "a/b"}, "name"),
    ("ip.bridge.add", {"name": "sixteen-letters1"}, "name"),
    ("ip.bridge.add", {"name": ".."}, "name"),
    ("ip.bridge.add", {"name": "br", "hwaddr": "02:00"}, "hwaddr"),
    ("ip.bridge.add", {"name": "br", "hwaddr": 1}, "hwaddr"),
    ("ip.bridge.del", {"name": ""}, "name"),
    ("ip.bridge.addif", {"name": "br"}, "inf"),
    ("ip.bridge.addif", {"name": "br", "inf": "a b"}, "inf"),
    ("ip.bridge.delif", {"inf": "br"}, "name"),
    ("ip.link.up", {"name": "a\nb"}, "name"),
    ("ip.link.down", {"name": None}, "name"),
    ("ip.link.name", {"name": "v0"}, "new"),
    ("ip.link.name", {"name": "v0", "new": "a:b"}, "new"),
    ("ip.link.mtu", {"name": "v0"}, "mtu"),
    ("ip.link.mtu", {"name": "v0", "mtu": "1500"}, "mtu"),
    ("ip.link.mtu", {"name": "v0", "mtu": 1 << 40}, "mtu"),
    ("ip.addr.add", {"name": "v0"}, "ip"),
    ("ip.addr.add", {"name": "v0", "ip": "10.0.0.1"}, "ip"),
    ("ip.addr.add", {"name": "v0", "ip": "10.0.0.1/99"}, "ip"),
    ("ip.addr.add", {"name": "v0", "ip": "fe80::5%v0/64"}, "ip:"),
    ("ip.addr.add", {"name": "v0", "ip": "x" * 100}, "ip"),
    ("ip.addr.del", {"name": "v0", "ip": 7}, "ip"),
    ("ip.addr.list", {}, "name"),
    ("ip.route.add", {"dst": "10.0.0.0/8"}, "dev"),
    ("ip.route.add", {"dev": "v0", "dst": "10.0.0.1/8"}, "dst"),
    ("ip.route.add", {"dev": "v0", "dst": 1}, "dst"),
    ("ip.route.add", {"dev": "v0", "gw": "nonsense"}, "gw"),
    ("ip.route.add", {"dev": "v0", "dst": "fd00::/8", "gw": "fe80::1%v0"}, "gw:"),
    ("ip.route.add", {"dev": "v0", "dst": "10.0.0.0/8", "gw": "fd00::1"}, "gw"),
    ("ip.route.del", {}, "dev"),
    ("ip.route.del", {"dev": "a/b"}, "dev"),
    ("ip.bond.add", {"bond": "b", "interfaces": []}, "interfaces"),
    ("ip.bond.add", {"bond": "b", "interfaces": "v0"}, "interfaces"),
    ("ip.bond.add", {"bond": "b", "interfaces": ["v0", "v0"]}, "interfaces"),
    ("ip.bond.add", {"bond": "b", "interfaces": ["a/b"]}, "interfaces"),
    ("ip.bond.add", {"bond": "b", "interfaces": ["v0"], "mtu": 1}, "mtu"),
    ("ip.bond.add", {"interfaces": ["v0"]}, "bond"),
    ("ip.bond.del", {"bond": []}, "bond"),
]


def test_wrong_arguments_are_refused_with_the_name_of_the_field(node: Daemon) -> None:
    before = links(node)
    for command, arguments, field in WRONG:
        code, text = refused(node, command, **arguments)
        assert code == 400, (command, arguments, code, text)
        assert field in text, (command, arguments, text)
    assert links(node) == before
