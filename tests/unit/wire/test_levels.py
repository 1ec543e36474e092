"""The level multiplexer: the vectors of spec core0-protocol 2.7, and the corrections."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g8node.wire.levels import LevelParser


def parsed(*reads: bytes, default: int = 1, max_bytes: int = 1 << 20) -> list[tuple[int, str]]:
    parser = LevelParser(default, max_bytes=max_bytes)
    messages = [message for read in reads for message in parser.feed(read)]
    return [(level, text) for level, text in messages + parser.close()]


def merged(messages: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Plain text comes in as many messages as there are reads; what it says is the same."""
    return [
        (level, "".join(text for _, text in group))
        for level, group in groupby(messages, lambda each: each[0])
    ]


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([b"hello\n2::x"], [(1, "hello\n"), (2, "x")]),
        ([b"2::a\n3::b\n4::c"], [(2, "a\n"), (3, "b\n"), (4, "c")]),
        ([b"a\n3:::m\nn\n:::\nb"], [(1, "a\n"), (3, "m\nn"), (1, "b")]),
        ([b"30:::\nx", b"\n:::\n"], [(30, "\nx")]),
        ([b"20:::\n", b'{"a": 1}\n', b":::\n"], [(20, '\n{"a": 1}')]),
    ],
)
def test_levels_vectors_of_the_spec(reads: list[bytes], expected: list[tuple[int, str]]) -> None:
    assert parsed(*reads) == expected


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([b"3:::a\n:::\n20::x"], [(3, "a"), (20, "x")]),  # a header directly after a terminator
        ([b"20:::abc"], [(20, "abc")]),  # a block that is never closed
        ([b"20:::abc\n:::"], [(20, "abc")]),  # closed by the end of output
        ([b"20:::\n:::\n"], [(20, "")]),
        ([b"2", b":", b":", b"x", b"y\n"], [(2, "xy\n")]),  # a header and its line in pieces
        ([b"a\n20:", b"::x\n::", b":\nb"], [(1, "a\n"), (20, "x"), (1, "b")]),
        ([b"12"], [(1, "12")]),
        ([b"12:"], [(1, "12:")]),
        ([b"12::"], [(12, "")]),
        ([b"12:::"], [(12, "")]),
        ([b"no header: 2::x\n"], [(1, "no header: 2::x\n")]),
        ([b"half", b"2::x\n"], [(1, "half"), (1, "2::x\n")]),  # not at the beginning of a line
        ([b"3:::x\n ::: \n:::y\n:::\n"], [(3, "x\n ::: \n:::y")]),
        ([b"123456::x\n"], [(1, "123456::x\n")]),
    ],
)
def test_levels_corrections(reads: list[bytes], expected: list[tuple[int, str]]) -> None:
    assert parsed(*reads) == expected


def test_levels_invalid_utf8_is_replaced_and_split_characters_are_not() -> None:
    assert parsed(b"\xe2\x82", b"\xac") == [(1, "€")]
    assert parsed(b"\xff\n2::\xc3\n") == [(1, "\ufffd\n"), (2, "\ufffd\n")]
    assert parsed(b"a\xe2") == [(1, "a"), (1, "\ufffd")]


def test_levels_prompt_is_passed_on_without_its_newline() -> None:
    assert LevelParser(1).feed(b"Password: ") == [(1, "Password: ")]


def test_levels_long_block_is_passed_on_in_parts() -> None:
    text = "ä€x" * 400
    messages = parsed(*(b"3:::" + text.encode() + b"\n:::\nb",), max_bytes=64)
    assert messages == [(3, text), (1, "b")]
    data = b"3:::" + text.encode() + b"\n:::\nb"
    pieces = parsed(*(data[n : n + 50] for n in range(0, len(data), 50)), max_bytes=64)
    assert len(pieces) > 10
    assert merged(pieces) == [(3, text), (1, "b")]


PIECES = st.sampled_from(
    [
        b"2::",
        b"20:::",
        b":::",
        b":",
        b"\n",
        b"x",
        b"1",
        b"12",
        "€".encode(),
        b"\xff",
        b"\xe2",
        b"\n:::\n",
        b"ab",
    ]
)


@given(st.lists(PIECES, max_size=30), st.data())
def test_levels_do_not_depend_on_read_boundaries(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reads = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert merged(parsed(*reads)) == merged(parsed(stream))


@given(st.binary(max_size=200))
def test_levels_plain_bytes_lose_nothing(stream: bytes) -> None:
    plain = stream.replace(b":", b";")
    assert merged(parsed(plain)) == ([(1, plain.decode("utf-8", "replace"))] if plain else [])
