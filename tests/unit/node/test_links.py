"""/proc/net/bonding as sections."""

from g8node.node.links import sections

BOND = """\
Ethernet Channel Bonding Driver: v6.12

Bonding Mode: load balancing (round-robin)
MII Status: up

Slave Interface: d0
MII Status: up
Permanent HW addr: 02:00:00:00:00:01
"""


def test_sections_keep_colons_of_values() -> None:
    head, mode, slave = sections(BOND)
    assert head == {"Ethernet Channel Bonding Driver": "v6.12"}
    assert mode["Bonding Mode"] == "load balancing (round-robin)"
    assert slave["Permanent HW addr"] == "02:00:00:00:00:01"
