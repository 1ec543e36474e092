"""What a DHCP server tells a container's client comes to us as text."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from g8node.node import dhcp

WORDS = st.sampled_from(
    [
        "bound",
        "renew",
        "deconfig",
        "ip=10.0.0.5",
        "mask=24",
        "router=10.0.0.1",
        "lease=600",
        "dns=9.9.9.9",
        "=",
        "\n",
    ]
)


@given(st.lists(st.one_of(WORDS, st.text(max_size=20)), max_size=40))
def test_every_answer_is_a_lease_that_makes_sense_or_none(words: list[str]) -> None:
    lease = dhcp.parse(" ".join(words))
    if lease is not None:
        ipaddress.IPv4Interface(lease.cidr)
        assert 30 <= lease.seconds <= 86400
        for address in (*lease.dns, *filter(None, [lease.gateway])):
            ipaddress.IPv4Address(address)
