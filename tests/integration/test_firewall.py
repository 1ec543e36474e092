"""nft.* and socat.*, by an agent in a network namespace of its own."""

from collections.abc import Iterator

import pytest

from tests.support.netns import Inside, daemon_inside

pytestmark = [pytest.mark.root]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with daemon_inside(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


def test_port_is_opened_once_listed_and_dropped(node: Inside) -> None:
    node.direct("nft.open_port", port=22)
    assert "tcp dport 22 accept" in node.direct("nft.list")
    assert node.direct("nft.rule_exists", port=22) is True
    code, text = node.refused("nft.open_port", port=22, interface="lo")
    assert code == 500
    assert "22" in text
    node.direct("nft.drop_port", port=22)
    node.direct("nft.drop_port", port=22)
    assert "tcp dport 22 accept" not in node.direct("nft.list")
    assert node.direct("nft.rule_exists", port=22) is False


def test_port_out_of_range_is_refused_and_does_not_exist(node: Inside) -> None:
    code, text = node.refused("nft.open_port", port=65536)
    assert code == 400
    assert "port" in text
    assert node.direct("nft.rule_exists", port=65536) is False


def test_port_is_opened_for_a_subnet_and_a_link(node: Inside) -> None:
    node.direct("nft.open_port", port=80, interface="eth*", subnet="10.0.0.0/8")
    assert 'iifname "eth*" ip saddr 10.0.0.0/8 tcp dport 80 accept' in node.direct("nft.list")
    node.direct("nft.drop_port", port=80)
    assert "subnet" in node.refused("nft.open_port", port=80, subnet="10.0.0.1/8")[1]


def test_foreign_rules_never_break_a_listing_nor_a_drop(node: Inside) -> None:
    node.direct("nft.open_port", port=23)
    node.there("nft", "add", "rule", "inet", "g8node", "input", "counter", "log", "prefix", "x")
    node.there("nft", "add table ip other; add chain ip other c { type nat hook prerouting priority 0; }")
    assert any("counter" in rule for rule in node.direct("nft.list"))
    assert node.direct("socat.list") is None
    # Somebody deletes ours by hand.
    node.there("nft", "flush", "chain", "inet", "g8node", "input")
    node.direct("nft.drop_port", port=23)
    assert "table ip other" in node.there("nft", "list", "ruleset")
    node.direct("nft.open_port", port=23)
    node.direct("nft.drop_port", port=23)


def test_reserved_ports_are_free_and_given_once(node: Inside) -> None:
    first = node.direct("socat.reserve", number=3)
    second = node.direct("socat.reserve", number=2)
    assert len(set(first + second)) == 5
    assert first[0] >= 1024
    assert node.port not in first + second
    assert node.refused("socat.reserve", number=0)[0] == 400


def test_stopping_removes_our_table_and_nothing_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    script = "nft add table ip other"
    with daemon_inside(tmp_path_factory.mktemp("node"), script) as running:
        running.direct("nft.open_port", port=22)
        ruleset = running.there("nft", "list", "tables")
        assert "table inet g8node" in ruleset
        assert "table ip other" in ruleset
