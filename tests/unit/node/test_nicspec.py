"""Nics as a caller gives them: what is refused, and by which name."""

from typing import Any

import msgspec
import pytest

from g8node.errors import InvalidArgument
from g8node.node import nicspec
from g8node.node.nicspec import Config, Nic, Peer, Rate, Wireguard

BRIDGE = Nic(type="bridge", id="br0")
KEY = "A" * 43 + "="


def tunnel(**peer: Any) -> Nic:
    return Nic(type="wireguard", wireguard=Wireguard(private_key=KEY, peers=[Peer(public_key=KEY, **peer)]))


@pytest.mark.parametrize(
    ("nics", "named"),
    [
        ([Nic(type="bridge")], r"nics\[0\].id"),
        ([Nic(type="bridge", id="core0")], "core0"),
        ([BRIDGE, BRIDGE], r"nics\[1\]: nic 0 has type bridge br0 already"),
        ([Nic(type="default"), Nic(type="default")], r"nics\[1\]"),
        ([Nic(type="default", name="lan"), Nic(type="bridge", id="b", name="lan")], "name lan"),
        ([Nic(type="default")] * 65, "at most 64"),
        ([Nic(type="default", config=Config(cidr="10.0.0.1"))], r"nics\[0\].config.cidr"),
        ([Nic(type="default", config=Config(cidr6="10.0.0.1/24"))], "config.cidr6"),
        ([Nic(type="default", config=Config(cidr="10.0.0.1/24", gateway="fe80::1"))], "config.gateway"),
        ([Nic(type="default", config=Config(gateway6="fe80::1"))], "config.gateway6"),
        ([Nic(type="default", config=Config(dns=["one.one"]))], "config.dns"),
        ([Nic(type="default", config=Config(dhcp=True, cidr="10.0.0.1/24"))], "got both"),
        ([Nic(type="default", config=Config(cidr="10.0.0.2/255.255.255.0"))], "config.cidr: .*prefix"),
        ([Nic(type="default", config=Config(cidr6="fe80::2%eth0/64"))], "config.cidr6: .*prefix"),
        ([Nic(type="default", config=Config(cidr6="ff02::1/64"))], "config.cidr6: .*of a host"),
        ([Nic(type="default", config=Config(cidr="0.0.0.0/0"))], "config.cidr: .*of a host"),
        ([Nic(type="default", config=Config(cidr6="::1/128"))], "config.cidr6: .*of a host"),
        (
            [Nic(type="default", config=Config(cidr6="fd00::2/64", gateway6="fe80::1%eth0"))],
            "config.gateway6",
        ),
        ([Nic(type="default", config=Config(dns=["fe80::1%\nsearch x"]))], "config.dns"),
        ([Nic(type="vlan")], "from 0 to 4094"),
        ([Nic(type="vlan", id=4095)], r"nics\[0\].id"),
        ([Nic(type="vxlan", id="-1")], "from 0 to 16777215"),
        ([Nic(type="vxlan", id="٣")], "from 0 to 16777215"),
        ([Nic(type="vlan", id=5), Nic(type="vlan", id="5")], "already"),
        ([Nic(type="macvlan")], "expected a name"),
        ([Nic(type="passthrough", id=3)], "expected a name"),
        ([Nic(type="macvlan", id="p0", rate=Rate(send_bits_s=1))], "rate"),
        ([Nic(type="wireguard")], "private_key"),
        ([Nic(type="wireguard", wireguard=Wireguard(private_key=KEY, cidr="10.0.0.1"))], "wireguard.cidr"),
        ([tunnel(endpoint="-example.org:1")], r"peers\[0\].endpoint"),
        ([tunnel(endpoint="fe80::1:5")], "endpoint"),
        ([tunnel(endpoint="[fe80::1%eth0]:5")], "endpoint"),
        ([tunnel(endpoint="1.2.3.4:65536")], "endpoint"),
        ([tunnel(allowed_ips=["0.0.0.0"])], "allowed_ips"),
        ([tunnel(allowed_ips=["10.0.0.0/255.0.0.0"])], "allowed_ips"),
    ],
)
def test_wrong_nic_is_named(nics: list[Nic], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        nicspec.validate(nics, {})


def test_servers_of_dns_may_be_on_a_link_and_peers_be_everything() -> None:
    nicspec.validate([Nic(type="default", config=Config(dns=["fe80::1%eth0", "::1", "9.9.9.9"]))], {})
    nicspec.validate([tunnel(allowed_ips=["0.0.0.0/0", "::/0", "ff00::/8"])], {})


@pytest.mark.parametrize("port", ["0", "x", "eth0", "80|http"])
def test_wrong_source_of_a_forward_is_named(port: str) -> None:
    with pytest.raises(InvalidArgument, match="port"):
        nicspec.validate([], {port: 80})


def test_nics_of_different_bridges_and_both_families_are_right() -> None:
    both = Config(cidr="10.0.0.2/24", gateway="10.0.0.1", cidr6="fd00::2/64", gateway6="fd00::1", dns=["::1"])
    nics = [Nic(type="default"), BRIDGE, Nic(type="bridge", id="br1", name="lan", config=both)]
    nicspec.validate(nics, {"8080": 80, "eth0:53|udp": 53})
    assert nicspec.cidrs(nics[2]) == ["10.0.0.2/24", "fd00::2/64"]
    assert nicspec.gateways(nics[2]) == ["10.0.0.1", "fd00::1"]
    assert nicspec.cidrs(BRIDGE) == []


@pytest.mark.parametrize("name", ["eth0", "zt1", "default", "lo", "a b", "a/b", "a" * 16, ".."])
def test_name_inside_that_the_node_gives_itself_is_refused(name: str) -> None:
    wrong: dict[str, Any] = {"type": "default", "name": name}
    with pytest.raises(msgspec.ValidationError, match="name"):
        msgspec.convert(wrong, Nic)


def test_only_single_labels_become_names() -> None:
    assert nicspec.labels("Web", None, "web", "a.example.org", "x y", "-a", "") == ["web"]


def test_secret_keys_are_not_shown() -> None:
    nic = Nic(
        type="wireguard",
        wireguard=Wireguard(private_key=KEY, peers=[Peer(public_key="B" * 42 + "A=", preshared_key=KEY)]),
    )
    shown = nicspec.shown(nic)
    assert KEY not in str(shown)
    assert shown["wireguard"]["peers"][0]["public_key"] == "B" * 42 + "A="


def test_endpoints_are_of_both_families() -> None:
    assert nicspec.endpoint(Peer(public_key=KEY, endpoint="1.2.3.4:5")) == ("1.2.3.4", 5)
    assert nicspec.endpoint(Peer(public_key=KEY, endpoint="[fe80::1]:5")) == ("fe80::1", 5)
    assert nicspec.endpoint(Peer(public_key=KEY)) is None


@pytest.mark.parametrize(
    "name", ["peer", "vpn.example.org", "vpn.example.org.", "1.2.3.4a", "xn--bcher-kva.example"]
)
def test_endpoints_may_be_names(name: str) -> None:
    assert nicspec.endpoint(Peer(public_key=KEY, endpoint=f"{name}:51820")) == (name, 51820)


@pytest.mark.parametrize("name", ["", ".", "a..b", "1.2.3", "a_b", "[peer]", f"{'a.' * 130}a", "a b"])
def test_what_is_neither_name_nor_address_is_no_endpoint(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"peer\.endpoint"):
        nicspec.endpoint(Peer(public_key=KEY, endpoint=f"{name}:51820"))


def test_several_tunnels_are_right() -> None:
    nicspec.validate([tunnel(), tunnel(), Nic(type="vlan", id="5"), Nic(type="vlan", id=5, master="e1")], {})
