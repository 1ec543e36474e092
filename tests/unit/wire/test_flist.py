"""flist records: golden bytes of the document, old readers, hostile fields."""

import struct
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.wire import flist
from g8node.wire.capnp import Builder
from g8node.wire.flist import Acl, Blocks, Codec, Directory, Entry, Extra, Kind, Special
from tests.support import golden


def acl(mode: int) -> str:
    return flist.acl_key(Acl(mode, 0, 0))


def golden_directory() -> Directory:
    vectors = golden.vectors()
    blocks = Blocks(vectors["chunk.raw.id"], vectors["chunk.raw.key"], array("I", [5]))
    extra = Extra(3, 4, xattrs={b"user.k": b"v"})
    file = Entry(b"a", Kind.FILE, acl(0o644), extra, 5, blocks=blocks)
    return Directory(b"", flist.directory_key(b""), acl(0o755), Extra(1, 2), [file])


def test_records_are_the_golden_bytes() -> None:
    vectors = golden.vectors()
    assert flist.encode_directory(golden_directory()) == vectors["record.dir"]
    assert flist.encode_acl(Acl(0o755, 0, 0)) == vectors["record.acl"]
    assert flist.directory_key(b"") == vectors["key.root"].hex()
    assert flist.directory_key(b"var/log") == vectors["key.var.log"].hex()
    assert acl(0o755) == vectors["key.acl"].hex()


def test_golden_directory_decodes() -> None:
    got = flist.decode_directory(golden.vectors()["record.dir"], "/")
    (entry,) = got.entries
    assert (got.location, got.extra.mtime_s, got.extra.mtime_ns) == (b"", 1, 2)
    assert (entry.name, entry.size, entry.extra.mtime_s, entry.extra.mtime_ns) == (b"a", 5, 3, 4)
    assert entry.extra.xattrs == {b"user.k": b"v"}
    assert bytes(entry.blocks.ids) == golden.vectors()["chunk.raw.id"]
    assert entry.blocks.codec == Codec.G8


every_kind = [
    Entry(b"plain", Kind.FILE, acl(0o644), Extra(5, 6)),
    Entry(b"\xffraw", Kind.FILE, acl(0o644), Extra(-5, 999_999_999, 77)),
    Entry(b"late", Kind.LINK, acl(0o777), Extra(1 << 40), 3, target=b"\xfe/x"),
    Entry("größe".encode(), Kind.DIRECTORY, acl(0o755), Extra(1), 4096, directory="d" * 64),
    Entry(b"c", Kind.SPECIAL, acl(0o666), Extra(1), special=Special.CHARACTER, device=(4000, 1_000_000)),
    Entry(b"b", Kind.SPECIAL, acl(0o666), Extra(1), special=Special.BLOCK, device=(8, 1)),
    Entry(b"f", Kind.SPECIAL, acl(0o666), Extra(1), special=Special.FIFO),
    Entry(b"s", Kind.SPECIAL, acl(0o666), Extra(1), special=Special.SOCKET),
]


def test_every_kind_of_entry_survives() -> None:
    directory = Directory(b"x/y", "p" * 64, acl(0o755), Extra(9, xattrs={b"user.a": b""}), every_kind)
    got = flist.decode_directory(flist.encode_directory(directory), "/x/y/")
    assert got.extra == directory.extra
    assert [entry.name for entry in got.entries] == [entry.name for entry in every_kind]
    for entry, expected in zip(got.entries, every_kind, strict=True):
        entry.blocks = expected.blocks
        assert entry == expected


def test_holes_and_sizes_survive() -> None:
    blocks = Blocks(bytes(32) + b"i" * 32, bytes(32) + b"k" * 32, array("I", [524288, 7]), Codec.G8_KEYED)
    entry = Entry(b"f", Kind.FILE, acl(0o644), Extra(1), 524295, blocks=blocks)
    data = flist.encode_directory(Directory(b"", "", acl(0o755), Extra(), [entry]))
    got = flist.decode_directory(data, "/").entries[0].blocks
    assert (got.ids, got.keys, got.sizes) == (blocks.ids, blocks.keys, blocks.sizes)
    assert (got.codec, got.block_size) == (Codec.G8_KEYED, 524288)


def test_old_readers_decode_what_they_know(tmp_path: Path) -> None:
    schema = golden.load(golden.original_schema_text(), tmp_path)
    directory = golden_directory()
    directory.entries = [*directory.entries, *every_kind]
    with schema.Dir.from_bytes(flist.encode_directory(directory)) as old:
        file, plain, raw, late, folder, char, *_ = old.contents
        assert (file.name, file.size, file.modificationTime, file.aclkey) == ("a", 5, 3, acl(0o644))
        assert file.attributes.file.blockSize == 128
        assert file.attributes.file.blocks[0].hash == golden.vectors()["chunk.raw.id"]
        assert plain.attributes.which() == "file"
        assert (raw.name, raw.modificationTime) == ("\ufffdraw", 0)
        assert (late.modificationTime, late.attributes.link.target) == (0xFFFFFFFF, "\ufffd/x")
        assert (folder.name, folder.attributes.dir.key) == ("größe", "d" * 64)
        assert (str(char.attributes.special.type), char.attributes.special.data) == (
            "chardev",
            b"4000,1000000",
        )
        assert old.parent == flist.directory_key(b"")


def test_records_of_old_writers_decode(tmp_path: Path) -> None:
    schema = golden.load(golden.original_schema_text(), tmp_path)
    old = schema.Dir.new_message(location="etc", parent="p", aclkey="k", modificationTime=11)
    link, empty = old.init("contents", 2)
    link.name, link.aclkey, link.modificationTime = "l", "k", 12
    link.attributes.init("link").target = "target"
    empty.name = "e"
    empty.attributes.init("file").blockSize = 128
    got = flist.decode_directory(old.to_bytes(), "/etc/")
    assert (got.location, got.extra) == (b"etc", Extra(11))
    assert [(e.name, e.kind, e.target, e.extra.mtime_s) for e in got.entries] == [
        (b"l", Kind.LINK, b"target", 12),
        (b"e", Kind.FILE, b"", 0),
    ]


@given(st.integers(0, 0o7777), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_access_records_survive(mode: int, uid: int, gid: int) -> None:
    assert flist.decode_acl(flist.encode_acl(Acl(mode, uid, gid))) == Acl(mode, uid, gid)


@pytest.mark.parametrize(("name", "uid"), [("root", 0), ("1234", 1234), ("alice", 1000), ("", 1000)])
def test_access_record_without_uid_goes_by_name(tmp_path: Path, name: str, uid: int) -> None:
    schema = golden.load(golden.original_schema_text(), tmp_path)
    assert flist.decode_acl(schema.ACI.new_message(uname=name, mode=0o4755).to_bytes()) == Acl(
        0o4755, uid, 1000
    )


def test_access_record_with_a_huge_owner_is_refused(tmp_path: Path) -> None:
    schema = golden.load(golden.original_schema_text(), tmp_path)
    with pytest.raises(InvalidArgument, match="32-bit id"):
        flist.decode_acl(schema.ACI.new_message(uid=1 << 40).to_bytes())


def one_entry(entry: Entry) -> bytes:
    return flist.encode_directory(Directory(b"", "", "", Extra(), [entry]))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"nul\0", b"n" * 256])
def test_bad_name_is_refused(name: bytes) -> None:
    data = one_entry(Entry(name, Kind.FILE, "", Extra()))
    with pytest.raises(InvalidArgument, match="name"):
        flist.decode_directory(data, "/etc/")


def test_bad_raw_name_is_refused() -> None:
    data = one_entry(Entry(b"fine", Kind.FILE, "", Extra(raw_name=b"../up")))
    with pytest.raises(InvalidArgument, match="not allowed"):
        flist.decode_directory(data, "/etc/")


def test_nanoseconds_over_a_second_are_refused() -> None:
    data = one_entry(Entry(b"f", Kind.FILE, "", Extra(mtime_ns=10**9)))
    with pytest.raises(InvalidArgument, match="nanoseconds"):
        flist.decode_directory(data, "/")


def raw_entry(kind: int, build: "object" = None) -> bytes:
    """A directory of one entry `x` whose body is written by `build(builder, slot)`."""
    builder = Builder()
    slot = builder.struct(0, bytes(16), 6)
    at = builder.structs(slot + 16, 1, 3, 4)
    builder.put(at, struct.pack("<QHHIII", 0, kind, 0, 0, 0, 0))
    builder.text(at + 24, "x")
    if callable(build):
        build(builder, at + 32)
    return builder.finish()


def special(number: int, data: bytes) -> bytes:
    def build(builder: Builder, slot: int) -> None:
        builder.data(builder.struct(slot, struct.pack("<H6x", number), 1), data)

    return raw_entry(Kind.SPECIAL, build)


def file_of(codec: int, chunk: bytes, key: bytes) -> bytes:
    def build(builder: Builder, slot: int) -> None:
        pointer = builder.struct(slot, struct.pack("<HH4x", 128, codec), 1)
        at = builder.structs(pointer, 1, 1, 2)
        builder.data(at + 8, chunk)
        builder.data(at + 16, key)

    return raw_entry(Kind.FILE, build)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (raw_entry(4), "unknown kind of entry 4"),
        (special(5, b"1,2"), "unknown special type 5"),
        (special(9, b""), "unknown special type 9"),
        (special(1, b"8"), "expected major,minor"),
        (special(2, b"-1,5"), "expected major,minor"),
        (special(2, b"1," + b"9" * 40), "expected major,minor"),
        (file_of(0, b"i" * 16, b"k" * 16), "size 0 does not go with 1 chunks"),
        (file_of(0, b"i" * 17, b"k" * 16), "expected 16, or 64 hex digits"),
        (file_of(0, b"i" * 16, b"k" * 64), "expected 16, or 64 hex digits"),
        (file_of(0, b"I" * 64, b"k" * 64), "expected 16, or 64 hex digits"),
        (file_of(9, b"i" * 32, b"k" * 32), "chunk codec 9"),
        (file_of(1, b"i" * 31, b"k" * 32), "not of 32 bytes"),
        (file_of(1, b"i" * 32, b""), "not of 32 bytes"),
    ],
)
def test_bad_entry_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        flist.decode_directory(data, "/etc/")
    assert "/etc/" in str(caught.value)


def test_key_that_is_not_ascii_is_refused() -> None:
    builder = Builder()
    builder.text(builder.struct(0, bytes(16), 6) + 32, "schlüssel")
    with pytest.raises(InvalidArgument, match="not ASCII"):
        flist.decode_directory(builder.finish(), "/")
