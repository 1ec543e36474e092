"""Sources of port forwards and the rules made of them."""

import pytest

from g8node.errors import InvalidArgument
from g8node.wire import nft
from g8node.wire.forward import Source, parse


@pytest.mark.parametrize(
    ("text", "source", "canonical"),
    [
        ("8080", Source(8080), "8080"),
        ("10.20.0.1:80", Source(80, network="10.20.0.1"), "10.20.0.1:80"),
        ("192.168.0.0/16:80", Source(80, network="192.168.0.0/16"), "192.168.0.0/16:80"),
        ("0.0.0.0:80|tcp", Source(80), "80"),
        ("eth0:80", Source(80, link="eth0"), "eth0:80"),
        ("zt*:80|tcp", Source(80, link="zt*"), "zt*:80"),
        ("53|udp", Source(53, ("udp",)), "53|udp"),
        ("80|udp+tcp", Source(80, ("tcp", "udp")), "80|tcp+udp"),
    ],
)
def test_source_is_read_and_written(text: str, source: Source, canonical: str) -> None:
    assert parse(text) == source
    assert str(source) == canonical
    assert parse(canonical) == source


@pytest.mark.parametrize(
    "text",
    [
        *("", "eth0:0", "eth0", "123:http", "80|", "80|sctp", "80|tcp+tcp", ":80", "65536", "-1"),
        *("1.2.3.4.5:80", "a b:80", "fd00::1:80", "300.1.1.1:80", "x" * 70 + ":80", "²:80", "80\n"),
    ],
)
def test_wrong_source_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="port: expected"):
        parse(text)


def test_forward_also_works_from_the_node_unless_it_names_a_link() -> None:
    chains = [rule["add"]["rule"]["chain"] for rule in nft.forwards(parse("80"), "172.18.0.2", 8080, "x")]
    assert chains == ["prerouting", "output"]
    chains = [
        rule["add"]["rule"]["chain"] for rule in nft.forwards(parse("eth0:80"), "172.18.0.2", 8080, "x")
    ]
    assert chains == ["prerouting"]


def test_handles_are_found_among_anything() -> None:
    answer = {
        "nftables": [
            {"metainfo": {}},
            7,
            {"rule": {"chain": "input"}},
            {"add": {"rule": {"chain": "input", "handle": 4, "comment": "g8 port 22"}}},
        ]
    }
    assert nft.handles(answer) == [("input", 4, "g8 port 22")]
    assert nft.handles([]) == []


def test_texts_are_rules_of_any_shape() -> None:
    listing = (
        "table inet g8node {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n"
        '\t\ttcp dport 22 accept comment "g8 port 22"\n\t\tcounter packets 0 bytes 0\n\t}\n}\n'
    )
    assert nft.texts(listing) == [("tcp dport 22 accept", "g8 port 22"), ("counter packets 0 bytes 0", "")]
