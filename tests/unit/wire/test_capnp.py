"""The Cap'n Proto codec against the reference implementation, and against malice."""

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.wire.capnp import Builder, Message
from tests.support import golden

relaxed = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return golden.load(golden.schema_text(), tmp_path_factory.mktemp("schema"))


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@relaxed
@given(st.lists(st.tuples(names, st.integers(0, 2**64 - 1), st.binary(max_size=30)), max_size=8))
def test_reads_what_the_reference_writes(schema: Any, rows: list[tuple[str, int, bytes]]) -> None:
    message = schema.Dir.new_message(location="here", size=2**63, modificationTime=7)
    contents = message.init("contents", len(rows))
    for item, (name, size, data) in zip(contents, rows, strict=True):
        item.name, item.size = name, size
        item.init("extra").rawName = data
    root = Message(message.to_bytes()).root()
    assert (root.text(1), root.u64(0), root.u32(8)) == (b"here", 2**63, 7)
    got = [(item.text(0).decode(), item.u64(0), item.struct(3).data(0)) for item in root.structs(2)]
    assert got == rows


@relaxed
@given(st.lists(st.tuples(names, st.integers(0, 2**64 - 1), st.binary(max_size=30)), max_size=8))
def test_reference_reads_what_we_write(schema: Any, rows: list[tuple[str, int, bytes]]) -> None:
    builder = Builder()
    slot = builder.struct(0, struct.pack("<QII", 5, 6, 7), 6)
    if rows:
        at = builder.structs(slot + 16, len(rows), 3, 4)
        for name, size, data in rows:
            builder.put(at, struct.pack("<Q", size))
            builder.text(at + 24, name)
            builder.data(builder.struct(at + 48, bytes(16), 3), data)
            at += 56
    with schema.Dir.from_bytes(builder.finish()) as read:
        got = [(item.name, item.size, item.extra.rawName) for item in read.contents]
        assert (read.size, read.modificationTime, read.creationTime) == (5, 6, 7)
    assert got == rows


def many_segments(schema: Any) -> bytes:
    """A message whose objects lie in other segments than their pointers."""
    message = schema.Dir.new_message(location="l" * 3000, parent="p" * 5000, aclkey="a" * 9000)
    contents = message.init("contents", 2000)
    for number, item in enumerate(contents):
        item.name = f"name {number}"
        item.aclkey = "k" * 40
    data: bytes = message.to_bytes()
    return data


def test_follows_far_pointers(schema: Any) -> None:
    data = many_segments(schema)
    assert struct.unpack_from("<I", data)[0] > 0, "the reference put everything into one segment"
    root = Message(data).root()
    assert root.text(3) == b"p" * 5000
    assert [item.text(0) for item in root.structs(2)] == [b"name %d" % n for n in range(2000)]


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def framed(*segments: bytes) -> bytes:
    table = struct.pack(f"<{len(segments) + 1}I", len(segments) - 1, *(len(s) // 8 for s in segments))
    return table + bytes(-len(table) % 8) + b"".join(segments)


def far(segment: int, word: int, double: int = 0) -> int:
    return 2 | double << 2 | word << 3 | segment << 32


def test_follows_a_double_far_pointer() -> None:
    struct_tag = 1 << 32  # one data word, offset 0
    data = framed(words(far(1, 0, 1)), words(far(2, 1), struct_tag), words(0, 42))
    assert Message(data).root().u64(0) == 42


def test_null_root_is_a_struct_without_fields() -> None:
    root = Message(framed(words(0))).root()
    assert (root.u16(0), root.u32(0), root.u64(0), root.i64(0), root.size) == (0, 0, 0, 0, 0)
    assert (root.text(0), root.structs(0), root.has(0), root.struct(0).size) == (b"", [], False, 0)


LIST = 1
hostile = {
    "empty": b"",
    "short": b"\0\0\0\0",
    "segment table is cut": struct.pack("<II", 4000, 0),
    "too many segments": struct.pack("<II", 0xFFFFFFFF, 0),
    "segment longer than the message": struct.pack("<II", 0, 1000) + words(0),
    "no words at all": struct.pack("<II", 0, 0),
    "struct beyond the end": framed(words(5 << 2 | 1 << 32)),
    "struct before the start": framed(words((-5 & 0x3FFFFFFF) << 2 | 1 << 32)),
    "list as root": framed(words(LIST | 2 << 32)),
    "capability": framed(words(3)),
    "far out of range": framed(words(far(9, 0))),
    "far beyond its segment": framed(words(far(0, 900))),
    "far to itself": framed(words(far(0, 0))),
    "double far without pad": framed(words(far(0, 1, 1)), words(0, 0)),
}


@pytest.mark.parametrize("name", hostile)
def test_malformed_message_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        Message(hostile[name]).root()


def with_pointer(word: int, *rest: int) -> Message:
    """A root struct of one pointer, this one."""
    return Message(framed(words(1 << 48, word, *rest)))


@pytest.mark.parametrize(
    "word",
    [
        LIST | 2 << 32 | 999 << 35,  # bytes beyond the end
        LIST | 5 << 32 | 1 << 35,  # a list of 8-byte values
        1 << 32,  # a struct
        LIST | (-9 & 0x3FFFFFFF) << 2 | 2 << 32 | 8 << 35,  # before the start
    ],
)
def test_bad_text_is_refused(word: int) -> None:
    with pytest.raises(InvalidArgument):
        with_pointer(word, 0).root().text(0)


def test_text_without_nul_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        with_pointer(LIST | 2 << 32 | 3 << 35, 0x616161).root().text(0)


@pytest.mark.parametrize(
    ("word", "tag"),
    [
        (LIST | 7 << 32 | 1 << 35, 100 << 2 | 1 << 32),  # 100 elements in one word
        (LIST | 7 << 32 | 900 << 35, 0),  # words beyond the end
        (LIST | 7 << 32 | 1 << 35, 1),  # tag is no struct
        (LIST | 7 << 32 | 0 << 35, 0x3FFFFFFF << 2),  # a billion elements of no size
        (LIST | 2 << 32 | 8 << 35, 0),  # bytes instead of structs
    ],
)
def test_bad_list_of_structs_is_refused(word: int, tag: int) -> None:
    with pytest.raises(InvalidArgument):
        with_pointer(word, tag, 0).root().structs(0)


def test_one_object_behind_many_pointers_runs_out_of_budget() -> None:
    # 64 pointers, all to one text of 4000 bytes.
    count = 64
    pointers = [LIST | (count - 1 - i) << 2 | 2 << 32 | 4000 << 35 for i in range(count)]
    root = Message(framed(words(count << 48, *pointers) + bytes(4000))).root()
    with pytest.raises(InvalidArgument, match="again and again"):
        [root.data(index) for index in range(count)]


def test_message_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="limit 16"):
        Message(bytes(24), size_max=16)
