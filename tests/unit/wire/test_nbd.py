"""NBD's transmission phase: requests in, replies out."""

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.wire import nbd
from g8node.wire.nbd import ProtocolError, Replies, Request, RequestParser, Rules
from tests.support.nbd import Reply, ReplyReader, request

WRITE = request(nbd.CMD_WRITE, 512, payload=b"abc" * 100, cookie=7)
READ = request(nbd.CMD_READ, 4096, 8192, cookie=8)
FLUSH = request(nbd.CMD_FLUSH, cookie=9)


def parsed(*reads: bytes, extended: bool = False, payload_max: int = 1 << 20) -> list[Request]:
    """The requests, payloads as bytes; received in place."""
    parser = RequestParser(extended=extended, payload_max=payload_max)
    found = []
    for read in reads:
        found += parser.feed(read)
    return [
        one._replace(payload=one.payload if one.payload is None else bytes(one.payload))  # type: ignore[arg-type]
        for one in found
    ]


@pytest.mark.parametrize("cut", range(len(WRITE + READ + FLUSH) + 1))
def test_requests_do_not_depend_on_packet_boundaries(cut: int) -> None:
    stream = WRITE + READ + FLUSH
    assert parsed(stream[:cut], stream[cut:]) == [
        Request(nbd.CMD_WRITE, 0, 7, 512, 300, b"abc" * 100),  # type: ignore[arg-type]
        Request(nbd.CMD_READ, 0, 8, 4096, 8192),
        Request(nbd.CMD_FLUSH, 0, 9, 0, 0),
    ]


payloads = st.one_of(
    st.none(), st.integers(1, 600).map(lambda n: bytes([n % 251]) * n), st.just(b"z" * 300_000)
)


@given(st.lists(payloads, max_size=6), st.booleans(), st.data())
def test_requests_of_any_sizes_survive_any_cuts(
    bodies: list[bytes | None], extended: bool, data: st.DataObject
) -> None:
    kinds = [nbd.CMD_READ if body is None else nbd.CMD_WRITE for body in bodies]
    stream = b"".join(
        request(
            kind, number, 77 if body is None else 0, cookie=number, payload=body or b"", extended=extended
        )
        for number, (kind, body) in enumerate(zip(kinds, bodies, strict=True))
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reads = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = parsed(*reads, extended=extended)
    assert [one.payload for one in found] == bodies
    assert [one.cookie for one in found] == list(range(len(bodies)))


def test_payload_stays_valid_while_more_is_received() -> None:
    parser = RequestParser()
    (first,) = parser.feed(WRITE)
    parser.feed(request(nbd.CMD_WRITE, 0, payload=b"x" * 300) * 300)
    assert first.payload == b"abc" * 100


def test_large_payload_is_received_in_memory_of_its_own() -> None:
    parser = RequestParser()
    stream = request(nbd.CMD_WRITE, 0, payload=b"y" * 1_000_000)
    assert parser.feed(stream[:100]) == []
    assert len(parser.buffer()) == 1_000_000 - (100 - 28)
    (whole,) = parser.feed(stream[100:])
    assert whole.payload == b"y" * 1_000_000
    assert parser.idle


def test_recycled_memory_serves_the_next_large_payload() -> None:
    parser = RequestParser()
    (first,) = parser.feed(request(nbd.CMD_WRITE, 0, payload=b"a" * 300_000))
    assert first.payload is not None
    kept = first.payload.obj
    parser.recycle(first.payload)
    (second,) = parser.feed(request(nbd.CMD_WRITE, 0, payload=b"b" * 299_000))
    assert second.payload is not None
    assert second.payload.obj is kept
    assert second.payload == b"b" * 299_000
    (third,) = parser.feed(request(nbd.CMD_WRITE, 0, payload=b"c" * 300_000))
    assert third.payload is not None
    assert third.payload.obj is not kept


def test_payload_above_the_limit_is_skipped_and_the_next_request_is_found() -> None:
    big = request(nbd.CMD_WRITE, 0, payload=b"q" * 5000, cookie=3)
    assert parsed(big[:1000], big[1000:] + FLUSH, payload_max=4096) == [
        Request(nbd.CMD_WRITE, 0, 3, 0, 5000),
        Request(nbd.CMD_FLUSH, 0, 9, 0, 0),
    ]


def test_payload_of_a_command_that_takes_none_is_skipped() -> None:
    odd = request(nbd.CMD_TRIM, 0, flags=nbd.CMD_FLAG_PAYLOAD_LEN, payload=b"q" * 50, cookie=3, extended=True)
    following = request(nbd.CMD_FLUSH, cookie=4, extended=True)
    assert [one.cookie for one in parsed(odd + following, extended=True)] == [3, 4]


@pytest.mark.parametrize(
    ("stream", "extended"),
    [
        (request(nbd.CMD_READ, magic=0x25609514), False),
        (request(nbd.CMD_READ, extended=True), False),
        (request(nbd.CMD_READ) + bytes(4), True),
        (request(nbd.CMD_WRITE, 0, 1 << 40, extended=True), True),
        (bytes(28), False),
        (b"\xff" * 40, True),
    ],
)
def test_stream_that_cannot_go_on_is_a_protocol_error(stream: bytes, extended: bool) -> None:
    with pytest.raises(ProtocolError):
        parsed(stream, extended=extended)


@given(st.binary(max_size=200), st.booleans())
def test_noise_gives_requests_or_a_protocol_error(noise: bytes, extended: bool) -> None:
    head = struct.pack(">I", nbd.EXTENDED_REQUEST_MAGIC if extended else nbd.REQUEST_MAGIC)
    with contextlib.suppress(ProtocolError):
        parsed(head + noise, extended=extended)


RULES = Rules(size=1 << 20, structured=True, extended=True, block_status=True, payload_max=1 << 16)
PLAIN = Rules(size=1 << 20)


@pytest.mark.parametrize(
    ("rules", "asked", "error"),
    [
        (RULES, Request(nbd.CMD_READ, 0, 0, 0, 4096), 0),
        (RULES, Request(nbd.CMD_READ, nbd.CMD_FLAG_DF, 0, 0, 4096), 0),
        (PLAIN, Request(nbd.CMD_READ, nbd.CMD_FLAG_DF, 0, 0, 4096), nbd.EINVAL),
        (RULES, Request(nbd.CMD_READ, 0, 0, 0, 0), nbd.EINVAL),
        (RULES, Request(nbd.CMD_READ, 0, 0, 0, (1 << 16) + 1), nbd.EINVAL),
        (RULES, Request(nbd.CMD_READ, 0, 0, (1 << 20) - 1, 2), nbd.EINVAL),
        (RULES, Request(nbd.CMD_READ, 0, 0, (1 << 64) - 1, 2), nbd.EINVAL),
        (RULES, Request(nbd.CMD_READ, nbd.CMD_FLAG_NO_HOLE, 0, 0, 1), nbd.EINVAL),
        (RULES, Request(nbd.CMD_READ, 1 << 9, 0, 0, 1), nbd.EINVAL),
        (RULES, Request(nbd.CMD_WRITE, nbd.CMD_FLAG_FUA, 0, 0, 1, memoryview(b"a")), 0),
        (RULES, Request(nbd.CMD_WRITE, 0, 0, 1 << 20, 1, memoryview(b"a")), nbd.ENOSPC),
        (RULES, Request(nbd.CMD_WRITE, 0, 0, (1 << 64) - 1, 1, memoryview(b"a")), nbd.ENOSPC),
        (RULES, Request(nbd.CMD_WRITE, 0, 0, 0, 1 << 20), nbd.EINVAL),
        (PLAIN, Request(nbd.CMD_WRITE, nbd.CMD_FLAG_PAYLOAD_LEN, 0, 0, 1, memoryview(b"a")), nbd.EINVAL),
        (RULES._replace(read_only=True), Request(nbd.CMD_WRITE, 0, 0, 0, 1, memoryview(b"a")), nbd.EPERM),
        (RULES._replace(read_only=True), Request(nbd.CMD_TRIM, 0, 0, 0, 1), nbd.EPERM),
        (RULES._replace(read_only=True), Request(nbd.CMD_WRITE_ZEROES, 0, 0, 0, 1), nbd.EPERM),
        (RULES._replace(read_only=True), Request(nbd.CMD_FLUSH, 0, 0, 0, 0), 0),
        (RULES, Request(nbd.CMD_TRIM, 0, 0, 0, 1 << 20), 0),
        (RULES, Request(nbd.CMD_TRIM, 0, 0, 1, 1 << 20), nbd.EINVAL),
        (RULES, Request(nbd.CMD_WRITE_ZEROES, 0, 0, 1, 1 << 20), nbd.ENOSPC),
        (RULES, Request(nbd.CMD_WRITE_ZEROES, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO, 0, 0, 1), 0),
        (RULES, Request(nbd.CMD_BLOCK_STATUS, nbd.CMD_FLAG_REQ_ONE, 0, 0, 1), 0),
        (PLAIN, Request(nbd.CMD_BLOCK_STATUS, 0, 0, 0, 1), nbd.EINVAL),
        (RULES, Request(nbd.CMD_CACHE, 0, 0, 0, 1), 0),
        (RULES, Request(99, 0, 0, 0, 0), nbd.EINVAL),
    ],
)
def test_rules_name_the_error_of_a_bad_request(rules: Rules, asked: Request, error: int) -> None:
    assert rules.refusal(asked) == error


def read_back(data: bytes | bytearray, reads: dict[int, tuple[int, int]]) -> list[Reply]:
    stream = io.BytesIO(data)
    reader = ReplyReader(stream.read, reads)
    found = []
    while stream.tell() < len(data):
        found.append(reader.next())
    return found


@pytest.mark.parametrize(("structured", "extended"), [(False, False), (True, False), (True, True)])
def test_replies_are_read_back(structured: bool, extended: bool) -> None:
    replies = Replies(structured=structured, extended=extended)
    data = bytearray(replies.data_bytes + 5)
    replies.data_header(data, 0, 11, 1 << 40, 5)
    data[replies.data_bytes :] = b"hello"
    data += replies.done(12)
    data += replies.error(Request(nbd.CMD_READ, 0, 13, 5, 6), nbd.EIO, "läst nicht")
    data += replies.error(Request(nbd.CMD_WRITE, 0, 14, 5, 6), 9999)
    got = read_back(data, {11: (1 << 40, 5)})
    assert got[0].data == {1 << 40: b"hello"}
    assert [(one.cookie, one.error) for one in got] == [(11, 0), (12, 0), (13, nbd.EIO), (14, nbd.EIO)]
    assert got[2].text == ("läst nicht" if structured else "")
    assert got[1].structured is extended


def test_hole_answers_a_read() -> None:
    (got,) = read_back(Replies(structured=True).hole(5, 4096, 8192), {})
    assert got.data == {4096: bytes(8192)}


def test_block_status_keeps_long_extents_with_extended_headers() -> None:
    extents = [(1 << 40, 3), (4096, 0)]
    (got,) = read_back(Replies(extended=True).block_status(5, 0, extents), {})
    assert got.extents == extents


def test_block_status_stops_where_32_bits_end() -> None:
    (got,) = read_back(Replies(structured=True).block_status(5, 0, [(4096, 0), (1 << 40, 3), (512, 0)]), {})
    assert got.extents == [(4096, 0), (0xFFFF0000, 3)]


def test_error_text_is_cut_between_characters() -> None:
    (got,) = read_back(Replies(structured=True).error(Request(0, 0, 1, 0, 1), 5, "ä" * 5000), {})
    assert got.text == "ä" * 2048
