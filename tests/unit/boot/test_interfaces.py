"""network.toml: what it says, and what is wrong with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.boot.interfaces import Link, Static, load
from g8node.boot.network import set_up_script

SHIPPED = """
[network]
auto = true
[interface.lo]
protocol = "static"
[static.lo]
ip = "127.0.0.1/8"
"""


def names(text: str, wired: list[str], noautonic: list[str] | None = None) -> list[tuple[str, str]]:
    return [(link.name, link.protocol) for link in load(text, "f").chosen(wired, noautonic or [])]


def test_shipped_file_is_dhcp_on_every_wired_link() -> None:
    plan = load(SHIPPED, "f")
    assert plan.problems == []
    assert plan.links["lo"] == Link("lo", "static", Static("127.0.0.1/8"))
    assert names(SHIPPED, ["eth0", "eth1"]) == [("eth0", "dhcp"), ("eth1", "dhcp")]


def test_noautonic_leaves_a_link_alone() -> None:
    assert names(SHIPPED, ["eth0", "eth1"], ["eth1"]) == [("eth0", "dhcp")]


def test_without_auto_only_what_is_named_is_configured() -> None:
    text = (
        '[network]\nauto = false\n[interface.eth1]\nprotocol = "dhcp"\n[interface.eth2]\nprotocol = "none"\n'
    )
    assert names(text, ["eth0", "eth1"]) == [("eth1", "dhcp"), ("eth2", "none")]


def test_link_that_is_named_is_not_given_to_dhcp_as_well() -> None:
    text = '[interface.eth0]\nprotocol = "static"\n[static.eth0]\nip = "10.0.0.5/24"\ngateway = "10.0.0.1"\n'
    assert names(text, ["eth0", "eth1"]) == [("eth0", "static"), ("eth1", "dhcp")]


def test_keys_match_in_any_case_and_sections_too() -> None:
    plan = load("[Network]\nAUTO = false\n[Tap.t0]\nUp = false\n[Tap.t1]\n", "f")
    assert (plan.auto, plan.taps, plan.problems) == (False, {"t0": False, "t1": True}, [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[network]\nauto = 'often'", "f: network: Expected `bool`, got `str` - at `$.auto`, dropped"),
        ("[network]\nwrong = 1", "f: network.wrong: unknown key, ignored"),
        ("[wrong]\n", "f: wrong: unknown key, dropped"),
        ("network = 1", "f: network: expected a table, dropped"),
        ("interface = 1", "f: interface: expected a table, dropped"),
        ("[interface]\neth0 = 'dhcp'", "f: interface.eth0: expected a table, dropped"),
        ("[interface.eth0]\nprotocol = 'bootp'", "f: interface.eth0: Invalid enum value 'bootp'"),
        ("[interface.eth0]\n", "f: interface.eth0: Object missing required field `protocol`"),
        ("[interface.'a b']\nprotocol = 'dhcp'", "f: interface.a b: no name of a link, dropped"),
        ("[interface.'abcdefghijklmnop']\nprotocol = 'dhcp'", "no name of a link, dropped"),
        ("[interface.eth0]\nprotocol = 'static'", "f: interface.eth0: there is no static.eth0, dropped"),
        ("not toml", "f: Expected"),
    ],
)
def test_what_is_wrong_is_told_and_dropped(text: str, problem: str) -> None:
    plan = load(text, "f")
    assert len(plan.problems) == 1
    assert problem in plan.problems[0]
    assert plan.links == {}
    assert plan.auto


@pytest.mark.parametrize(
    ("static", "problem"),
    [
        ("ip = '10.0.0.5'", "ip: '10.0.0.5' has no prefix length"),
        ("ip = '10.0.0.5/33'", "ip: expected an address with its prefix"),
        ("ip = '10.0.0.5/24; reboot'", "ip: expected an address with its prefix"),
        ("ip = '10.0.0.5/24'\ngateway = 'router'", "gateway: expected an address, got 'router'"),
        ("ip = '10.0.0.5/24'\ngateway = 'fe80::1'", "gateway: fe80::1 is of another family"),
        ("ip = '10.0.0.5/24'\ndns = ['x']", "dns: expected an address, got 'x'"),
    ],
)
def test_static_address_is_checked(static: str, problem: str) -> None:
    plan = load(f"[interface.e0]\nprotocol = 'static'\n[static.e0]\n{static}\n", "f")
    assert problem in plan.problems[0]
    assert "f: static.e0." in plan.problems[0]
    assert plan.links == {}


def test_static_link_is_configured_by_a_script() -> None:
    link = Link("eth0", "static", Static("10.0.0.5/24", "10.0.0.1", ("10.0.0.2", "10.0.0.3")))
    assert set_up_script(link).splitlines() == [
        "/usr/bin/ip address flush dev eth0 scope global",
        "/usr/bin/ip link set dev eth0 up",
        "/usr/bin/ip address replace 10.0.0.5/24 dev eth0",
        "/usr/bin/ip -4 route replace default via 10.0.0.1 dev eth0 src 10.0.0.5 onlink metric 50",
        "mkdir -p /run/resolv",
        "printf 'nameserver 10.0.0.2\\nnameserver 10.0.0.3\\n' >/run/resolv/eth0.conf",
        "interface=eth0 /usr/share/udhcpc/default.script resolver",
    ]
    assert "-6 route replace default via fd00::1 dev e0 onlink" in set_up_script(
        Link("e0", "static", Static("fd00::5/64", "fd00::1"))
    )
    assert len(set_up_script(Link("eth0", "none")).splitlines()) == 2


def test_name_of_a_link_is_no_shell() -> None:
    assert "dev '$(id)' up" in set_up_script(Link("$(id)", "none"))


@given(st.text(max_size=300))
def test_any_text_is_a_plan(text: str) -> None:
    plan = load(text, "f")
    assert isinstance(plan.chosen(["eth0"], []), list)
