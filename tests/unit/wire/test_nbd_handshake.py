"""NBD's fixed newstyle handshake."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.wire import nbd_handshake as hs
from g8node.wire.nbd import BASE_ALLOCATION, FLAG_SEND_DF, ProtocolError
from g8node.wire.nbd_handshake import (
    AskExport,
    AskExports,
    Begin,
    Description,
    End,
    Event,
    Handshake,
    StartTls,
)
from tests.support.nbd import CLIENT_FLAGS, contexts, go, named, option, option_replies

EXPORT = Description(size=1 << 30, flags=0b1101101, preferred_block=4096, text="db vdisk")
STRUCTURED = option(hs.OPT_STRUCTURED_REPLY)
EXTENDED = option(hs.OPT_EXTENDED_HEADERS)


def converse(machine: Handshake, *reads: bytes) -> list[Event]:
    """Feed the reads; exports are `vd` only."""
    events: list[Event] = []
    for read in reads:
        machine.feed(read)
        while (event := machine.next()) is not None:
            events.append(event)
            if isinstance(event, AskExports):
                machine.answer_exports([("vd", "db vdisk"), ("ubuntu:latest", "")])
            elif isinstance(event, AskExport):
                machine.answer_export(EXPORT if event.name == "vd" else None)
    return events


def talk(*reads: bytes, **options: Any) -> tuple[list[Event], list[tuple[int, int, bytes]]]:
    machine = Handshake(**options)
    events = converse(machine, CLIENT_FLAGS, *reads)
    return events, option_replies(bytes(machine.output))


def test_greeting_is_fixed_newstyle_without_zeroes() -> None:
    assert bytes(Handshake().output) == b"NBDMAGICIHAVEOPT\x00\x03"


def test_go_describes_the_export_and_begins() -> None:
    events, replies = talk(go("vd", hs.INFO_NAME, hs.INFO_DESCRIPTION))
    assert [kind for _, kind, _ in replies] == [hs.REP_INFO] * 4 + [hs.REP_ACK]
    assert [body for _, _, body in replies][:4] == [
        struct.pack(">HQH", hs.INFO_EXPORT, 1 << 30, EXPORT.flags),
        struct.pack(">H", hs.INFO_NAME) + b"vd",
        struct.pack(">H", hs.INFO_DESCRIPTION) + b"db vdisk",
        struct.pack(">HIII", hs.INFO_BLOCK_SIZE, 1, 4096, 32 << 20),
    ]
    assert events[-1] == Begin("vd", EXPORT, structured=False, extended=False, block_status=False)


def test_info_does_not_begin() -> None:
    events, replies = talk(go("vd", kind=hs.OPT_INFO))
    assert replies[-1][1] == hs.REP_ACK
    assert not [event for event in events if isinstance(event, Begin)]


def test_unknown_export_is_told_and_the_client_may_go_on() -> None:
    events, replies = talk(go("nosuch"), go("vd"))
    assert replies[0][:2] == (hs.OPT_GO, hs.REP_ERR_UNKNOWN)
    assert isinstance(events[-1], Begin)


def test_everything_modern_is_negotiated() -> None:
    events, _ = talk(STRUCTURED, EXTENDED, contexts("vd", BASE_ALLOCATION), go("vd"))
    assert events[-1] == Begin("vd", EXPORT, structured=True, extended=True, block_status=True)


def test_df_is_offered_only_with_structured_replies() -> None:
    _, replies = talk(STRUCTURED, go("vd"))
    assert struct.unpack_from(">HQH", replies[1][2])[2] == EXPORT.flags | FLAG_SEND_DF


def test_context_of_another_export_does_not_count() -> None:
    machine = Handshake()
    machine.feed(CLIENT_FLAGS + STRUCTURED + contexts("other", BASE_ALLOCATION) + go("vd"))
    begin = None
    while (event := machine.next()) is not None:
        if isinstance(event, AskExport):
            machine.answer_export(EXPORT)
        begin = event
    assert isinstance(begin, Begin)
    assert not begin.block_status


@pytest.mark.parametrize(
    "again", [contexts("vd"), contexts("vd", "qemu:dirty"), contexts("nosuch", "x"), EXTENDED]
)
def test_context_is_forgotten_by_the_next_choice(again: bytes) -> None:
    events, _ = talk(STRUCTURED, contexts("vd", BASE_ALLOCATION), again, go("vd"))
    assert isinstance(events[-1], Begin)
    assert not events[-1].block_status


@pytest.mark.parametrize(
    ("queries", "found"),
    [((), True), (("base:",), True), ((BASE_ALLOCATION,), True), (("qemu:",), False), (("",), False)],
)
def test_contexts_are_listed(queries: tuple[str, ...], found: bool) -> None:
    _, replies = talk(STRUCTURED, contexts("vd", *queries, kind=hs.OPT_LIST_META_CONTEXT))
    assert [kind for _, kind, _ in replies[1:]] == [hs.REP_META_CONTEXT] * found + [hs.REP_ACK]


def test_list_names_the_exports() -> None:
    _, replies = talk(option(hs.OPT_LIST))
    assert replies == [
        (hs.OPT_LIST, hs.REP_SERVER, named("vd", b"db vdisk")),
        (hs.OPT_LIST, hs.REP_SERVER, named("ubuntu:latest")),
        (hs.OPT_LIST, hs.REP_ACK, b""),
    ]


@pytest.mark.parametrize("padded", [True, False])
def test_export_name_begins_without_a_reply(padded: bool) -> None:
    machine = Handshake()
    greeting = len(machine.output)
    flags = hs.FLAG_FIXED_NEWSTYLE | (0 if padded else hs.FLAG_NO_ZEROES)
    events = converse(machine, struct.pack(">I", flags), option(hs.OPT_EXPORT_NAME, b"vd"))
    assert isinstance(events[-1], Begin)
    zeroes = bytes(124) if padded else b""
    assert bytes(machine.output[greeting:]) == struct.pack(">QH", EXPORT.size, EXPORT.flags) + zeroes


def test_requests_behind_go_are_the_rest() -> None:
    machine = Handshake()
    converse(machine, CLIENT_FLAGS + go("vd") + b"request")
    assert machine.rest == b"request"


def test_abort_is_acknowledged() -> None:
    events, replies = talk(option(hs.OPT_ABORT))
    assert replies == [(hs.OPT_ABORT, hs.REP_ACK, b"")]
    assert isinstance(events[-1], End)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (option(99), hs.REP_ERR_UNSUP),
        (option(99, bytes(1000)), hs.REP_ERR_UNSUP),
        (option(hs.OPT_LIST, b"x"), hs.REP_ERR_INVALID),
        (option(hs.OPT_STRUCTURED_REPLY, b"x"), hs.REP_ERR_INVALID),
        (option(hs.OPT_EXTENDED_HEADERS, b"x"), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO, b"\0\0"), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO, struct.pack(">I", 1 << 31)), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO, named("vd")), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO, named("vd", b"\0\2\0\1")), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO, struct.pack(">I", 2) + b"\xff\xfe\0\0"), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO, named("x" * 5000, b"\0\0")), hs.REP_ERR_INVALID),
        (option(hs.OPT_GO, bytes(70000)), hs.REP_ERR_TOO_BIG),
        (contexts("vd", BASE_ALLOCATION), hs.REP_ERR_INVALID),
        (option(hs.OPT_STARTTLS), hs.REP_ERR_POLICY),
    ],
)
def test_bad_option_is_refused_and_the_next_one_heard(sent: bytes, error: int) -> None:
    events, replies = talk(sent + option(hs.OPT_LIST))
    assert replies[0][1] == error
    assert replies[-1][:2] == (hs.OPT_LIST, hs.REP_ACK)
    assert events == [AskExports()]


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack(">I", 1),
        struct.pack(">II", 1, 5000),
        struct.pack(">I", 1 << 31),
        struct.pack(">I", 0) + b"x",
        b"",
    ],
)
def test_bad_query_is_invalid(rest: bytes) -> None:
    _, replies = talk(STRUCTURED, option(hs.OPT_SET_META_CONTEXT, named("vd", rest)))
    assert replies[-1][1] == hs.REP_ERR_INVALID


def test_modes_cannot_be_chosen_twice_or_downgraded() -> None:
    _, replies = talk(STRUCTURED, STRUCTURED, EXTENDED, EXTENDED, STRUCTURED)
    assert [kind for _, kind, _ in replies] == [
        hs.REP_ACK,
        hs.REP_ERR_INVALID,
        hs.REP_ACK,
        hs.REP_ERR_INVALID,
        hs.REP_ERR_EXT_HEADER_REQD,
    ]


@pytest.mark.parametrize(
    "sent",
    [
        b"IHAVEOPX" + bytes(8),
        option(hs.OPT_EXPORT_NAME, b"nosuch"),
        option(hs.OPT_EXPORT_NAME, b"\xff"),
        option(hs.OPT_EXPORT_NAME, b"x" * 5000),
        option(hs.OPT_EXPORT_NAME, length=1 << 17),
        option(hs.OPT_GO, length=1 << 31),
        option(hs.OPT_LIST) * 1001,
    ],
)
def test_handshake_that_cannot_go_on_is_a_protocol_error(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        talk(sent)


@pytest.mark.parametrize("flags", [0, 2, 5, 1 << 31])
def test_client_flags_must_be_fixed_newstyle(flags: int) -> None:
    with pytest.raises(ProtocolError):
        converse(Handshake(), struct.pack(">I", flags))


def test_start_tls_forgets_what_was_said_before() -> None:
    machine = Handshake(tls="optional")
    events = converse(machine, CLIENT_FLAGS, STRUCTURED, option(hs.OPT_STARTTLS))
    assert events == [StartTls()]
    inner = Handshake(tls="done", greet=False, zeroes=machine.zeroes)
    begin = converse(inner, go("vd"))[-1]
    assert isinstance(begin, Begin)
    assert not begin.structured
    assert option_replies(bytes(inner.output))[0][1] == hs.REP_INFO


def test_data_behind_start_tls_ends_the_connection() -> None:
    with pytest.raises(ProtocolError):
        talk(option(hs.OPT_STARTTLS) + STRUCTURED, tls="optional")


@pytest.mark.parametrize("sent", [go("vd"), option(hs.OPT_LIST), STRUCTURED, option(99)])
def test_required_tls_hears_nothing_before_it(sent: bytes) -> None:
    events, replies = talk(sent, tls="required")
    assert events == []
    assert [kind for _, kind, _ in replies] == [hs.REP_ERR_TLS_REQD]


def test_required_tls_refuses_export_name_by_closing() -> None:
    with pytest.raises(ProtocolError):
        talk(option(hs.OPT_EXPORT_NAME, b"vd"), tls="required")


def test_tls_cannot_be_started_twice() -> None:
    machine = Handshake(tls="done", greet=False)
    converse(machine, option(hs.OPT_STARTTLS))
    assert option_replies(bytes(machine.output))[0][1] == hs.REP_ERR_INVALID


STREAM = (
    CLIENT_FLAGS
    + STRUCTURED
    + EXTENDED
    + contexts("vd", BASE_ALLOCATION)
    + option(99, bytes(40))
    + go("nosuch")
    + go("vd", hs.INFO_DESCRIPTION)
)


@pytest.mark.parametrize("cut", range(0, len(STREAM) + 1, 3))
def test_handshake_does_not_depend_on_packet_boundaries(cut: int) -> None:
    whole, split = Handshake(), Handshake()
    assert converse(whole, STREAM) == converse(split, STREAM[:cut], STREAM[cut:])
    assert whole.output == split.output


SEEDS = [
    STREAM,
    CLIENT_FLAGS + option(hs.OPT_LIST) + option(hs.OPT_ABORT),
    CLIENT_FLAGS + option(hs.OPT_STARTTLS),
]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=8),
    st.sampled_from(["off", "optional", "required", "done"]),
)
def test_mangled_handshake_is_answered_or_a_protocol_error(
    seed: bytes, changes: list[tuple[int, int]], tls: Any
) -> None:
    stream = bytearray(seed)
    for where, value in changes:
        stream[where % len(stream)] = value
    machine = Handshake(tls=tls)
    try:
        converse(machine, bytes(stream))
    except ProtocolError:
        return
    assert len(machine.output) < 1 << 16
