"""Whose blocks count when some servers do not answer."""

import pytest

from g8node.errors import Unavailable
from g8node.vdisk.cluster import ledger
from g8node.vdisk.cluster.ledger import Ledger


def test_newest_ledger_counts() -> None:
    one, two = Ledger(id="a", seq=1), Ledger(id="a", seq=2, behind={"p0"})
    assert ledger.newest([one, two, one]) is two
    assert ledger.newest([]) is None


def test_ledgers_of_two_lives_are_refused() -> None:
    with pytest.raises(Unavailable, match="not of one vdisk"):
        ledger.newest([Ledger(id="a"), Ledger(id="b")])


def test_ledger_is_the_same_after_it_was_written_down() -> None:
    one = Ledger(id="a", seq=3, marked={"p0", "s0"}, behind={"s0"}, gone={1}, members={"p0"})
    assert ledger.decode(one.encode()) == one
    assert ledger.decode(None) is None
    with pytest.raises(Unavailable, match="damaged"):
        ledger.decode(b"{")


@pytest.mark.parametrize(
    ("heard", "behind", "doubt"),
    [
        ({"p0": True, "s0": True}, set(), ""),
        ({"p0": True, "s0": False}, set(), "s0"),
        ({"p0": True, "s0": False}, {"s0"}, ""),
        ({"p0": False, "s0": True}, set(), "p0"),
        ({"p0": False, "s0": False}, set(), ""),  # nobody is believed wrongly
        ({"p0": True, "s0": False, "p1": True, "s1": True}, set(), ""),  # three of four know
        ({"p0": True, "s0": False, "p1": False, "s1": True}, set(), "s0"),
    ],
)
def test_silent_server_is_doubted_unless_more_than_half_know(
    heard: dict[str, bool], behind: set[str], doubt: str
) -> None:
    assert ledger.doubtful(Ledger(id="a", behind=behind), ["p0", "s0"], heard) == doubt
