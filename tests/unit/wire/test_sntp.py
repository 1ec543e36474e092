"""SNTP messages: what an answer means, and every answer that must not be believed."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.wire import sntp

COOKIE = 0x0123456789ABCDEF
NOW = 1_795_000_000.0


def answer(**changes: Any) -> bytes:
    """A server's packet whose clock is 10 s ahead; it took 0.25 s to answer."""
    fields = {
        "flags": 0x24,
        "stratum": 2,
        "reference": b"GPS\0",
        "origin": COOKIE,
        "arrived": sntp.stamp(NOW + 10.125),
        "left": sntp.stamp(NOW + 10.375),
    } | changes
    head = struct.pack(">BBbbII4sQ", fields["flags"], fields["stratum"], 0, 0, 0, 0, fields["reference"], 0)
    return head + struct.pack(">QQQ", fields["origin"], fields["arrived"], fields["left"])


def test_request_is_a_clients_packet_with_nothing_but_the_cookie() -> None:
    assert sntp.request(COOKIE) == b"\x23" + bytes(39) + COOKIE.to_bytes(8, "big")


def test_sample_has_offset_and_delay() -> None:
    found = sntp.sample(answer(), COOKIE, sent=NOW, received=NOW + 0.5)
    assert (found.offset_s, found.delay_s, found.stratum) == (pytest.approx(10.0), pytest.approx(0.25), 2)


def test_timestamps_after_2036_are_of_the_next_era() -> None:
    later = 2_100_000_000.0
    data = answer(arrived=sntp.stamp(later + 1), left=sntp.stamp(later + 1))
    assert sntp.sample(data, COOKIE, sent=later, received=later).offset_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": 1}, "no answer to our request"),
        ({"flags": 0x23}, "no answer to our request"),
        ({"stratum": 0, "reference": b"RATE"}, "refuses: 'RATE'"),
        ({"stratum": 16}, "not synchronized"),
        ({"flags": 0xE4}, "not synchronized"),
        ({"left": 0}, "not synchronized"),
    ],
)
def test_answer_that_must_not_be_believed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        sntp.sample(answer(**changes), COOKIE, sent=NOW, received=NOW)


@given(st.binary(max_size=60))
def test_any_other_data_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        sntp.sample(data, COOKIE, sent=NOW, received=NOW)


def test_a_lying_server_of_three_is_outvoted() -> None:
    samples = [sntp.Sample(offset, 0.1, 2) for offset in (0.2, 9000.0, 0.1)]
    assert sntp.best(samples).offset_s == 0.2


def test_of_two_servers_the_nearer_counts() -> None:
    assert sntp.best([sntp.Sample(1.0, 0.5, 2), sntp.Sample(2.0, 0.1, 2)]).offset_s == 2.0
