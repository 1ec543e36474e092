"""What a DHCP server answers is taken only when it makes sense."""

import pytest

from g8node.node.dhcp import Lease, parse

GOOD = "bound ip=10.0.0.5 mask=24 router=10.0.0.1 lease=600 dns=10.0.0.1 9.9.9.9"


def test_lease_is_read_from_the_scripts_line() -> None:
    said = f"deconfig ip= mask= router= lease= dns=\n{GOOD}\n"
    assert parse(said) == Lease("10.0.0.5/24", "10.0.0.1", ("10.0.0.1", "9.9.9.9"), 600)


def test_lease_without_options_lasts_an_hour() -> None:
    assert parse("renew ip=10.0.0.5 mask=24 router= lease= dns=") == Lease("10.0.0.5/24", "", (), 3600)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "leasefail ip=10.0.0.5 mask=24 router= lease= dns=",
        GOOD.replace("10.0.0.5", "x"),
        GOOD.replace("mask=24", "mask=99"),
        GOOD.replace("router=10.0.0.1", "router=$(reboot)"),
        GOOD.replace("lease=600", "lease=soon"),
        GOOD + " evil",
    ],
)
def test_answer_that_makes_no_sense_is_no_lease(said: str) -> None:
    assert parse(said) is None


def test_time_of_a_lease_is_bounded() -> None:
    for told, kept in (("1", 30), ("99999999", 86400)):
        lease = parse(GOOD.replace("lease=600", f"lease={told}"))
        assert lease is not None
        assert lease.seconds == kept
