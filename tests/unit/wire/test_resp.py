"""RESP as a server speaks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.wire.resp import (
    NULL_ARRAY,
    OK,
    Error,
    Limits,
    ProtocolError,
    Reply,
    RequestParser,
    Simple,
    encode,
)

LIMITS = Limits(args=8, arg_bytes=100, total_bytes=300)


def requests(*reads: bytes, limits: Limits = LIMITS) -> list[list[bytes]]:
    parser = RequestParser(limits)
    found = []
    for read in reads:
        parser.feed(read)
        while (request := parser.next()) is not None:
            found.append(request)
    return found


def array(*args: bytes) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


def test_resp_array_of_bulk_strings_is_a_request() -> None:
    assert requests(array(b"GET", b"a\r\nb", b"")) == [[b"GET", b"a\r\nb", b""]]


def test_resp_inline_command_is_a_request() -> None:
    assert requests(b'ECHO "a b"\r\nPING\n\r\n') == [[b"ECHO", b"a b"], [b"PING"]]


def test_resp_empty_array_is_skipped() -> None:
    assert requests(b"*0\r\n" + array(b"PING")) == [[b"PING"]]


@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=4), st.data())
def test_resp_requests_do_not_depend_on_packet_boundaries(
    expected: list[list[bytes]], data: st.DataObject
) -> None:
    stream = b"".join(array(*request) for request in expected)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reads = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert requests(*reads) == expected


@pytest.mark.parametrize(
    "stream",
    [
        b"*9\r\n",
        b"*-1\r\n",
        b"*x\r\n",
        b"*" + b"1" * 40,
        b"*1\r\n$101\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n+OK\r\n",
        b"*1\r\n$1\r\nab\r\n",
        array(*[b"x" * 100] * 4),
        b"a" * 400,
        b'"open\r\n',
        b"a b c d e f g h i\r\n",
    ],
)
def test_resp_what_breaks_protocol_or_limits_is_an_error(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        requests(stream)


@pytest.mark.parametrize(
    ("reply", "resp2", "resp3"),
    [
        (OK, b"+OK\r\n", b"+OK\r\n"),
        (Simple("a\r\nb"), b"+a b\r\n", b"+a b\r\n"),
        (Error("ERR a\nb"), b"-ERR a b\r\n", b"-ERR a b\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
        (7, b":7\r\n", b":7\r\n"),
        (b"\x00", b"$1\r\n\x00\r\n", b"$1\r\n\x00\r\n"),
        ("é", b"$2\r\n\xc3\xa9\r\n", b"$2\r\n\xc3\xa9\r\n"),
        ([1, b"a"], b"*2\r\n:1\r\n$1\r\na\r\n", b"*2\r\n:1\r\n$1\r\na\r\n"),
        ({"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
    ],
)
def test_resp_replies_in_both_versions(reply: Reply, resp2: bytes, resp3: bytes) -> None:
    assert encode(reply, 2) == resp2
    assert encode(reply, 3) == resp3
