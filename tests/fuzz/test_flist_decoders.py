"""Mutated records, tables and containers: every decoder answers or refuses, and raises nothing else."""

import gzip
import random
import stat
import struct
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.flist.container import read_flist, write_flist
from g8node.flist.image import build, build_compiled
from g8node.flist.merkle import merkle_root
from g8node.flist.records import read_tree, tree_records
from g8node.flist.rfs import read_fl
from g8node.flist.rocks import Database
from g8node.flist.sqlite import read_database, write_database
from g8node.flist.tree import Flist, Limits, Node
from g8node.wire import codecs
from g8node.wire.flist import Blocks, Codec, decode_acl, decode_directory
from g8node.wire.router import format_router, parse_router
from g8node.wire.sstable import Budget, read_table


def sample() -> Node:
    blocks = Blocks(b"i" * 64, b"k" * 64, array("I", [524288, 7]))
    file = Node(stat.S_IFREG | 0o644, 1, 2, 3, 4, {b"user.a": b"b"}, 524295, blocks)
    link = Node(stat.S_IFLNK | 0o777, target=b"target", size=6)
    below = Node(stat.S_IFDIR | 0o755, children={b"again": file, b"\xff": link})
    return Node(stat.S_IFDIR | 0o755, children={b"file": file, b"below": below, b"l": link})


RECORDS = dict(tree_records(sample()))
mutations = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6)


def mutate(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    bad = bytearray(data)
    for at, value in changes:
        bad[at % len(bad)] = value
    return bytes(bad)


@given(st.sampled_from(sorted(RECORDS)), mutations)
@settings(max_examples=300, deadline=None)
def test_mutated_record_gives_a_valid_tree_or_is_refused(key: str, changes: list[tuple[int, int]]) -> None:
    decoded_alike({**RECORDS, key: mutate(RECORDS[key], changes)})


def decoded_alike(records: dict[str, bytes]) -> None:
    """The compiled decoder gives the image that Python gives, or leaves it to Python."""
    database = Database({key.encode(): value for key, value in records.items()}, b"", {})
    compiled = build_compiled(database)
    try:
        expected = build(Flist(read_tree(records.get)))
    except InvalidArgument:
        assert compiled is None
        return
    assert compiled is None or compiled == expected


@given(st.sampled_from(sorted(RECORDS)), st.integers(0, 40), st.integers(0, 2**64 - 1), st.integers(-9, 0))
@settings(max_examples=300, deadline=None)
def test_words_in_a_record_are_decoded_alike(key: str, at: int, word: int, less: int) -> None:
    data = bytearray(RECORDS[key])
    data[8 * at : 8 * at + 8] = struct.pack("<Q", word)
    decoded_alike({**RECORDS, key: bytes(data[: less or None])})


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12))
@settings(max_examples=200)
def test_words_of_anything_are_decoded_or_refused(words: list[int]) -> None:
    data = struct.pack("<II", 0, len(words)) + struct.pack(f"<{len(words)}Q", *words)
    for decode in (decode_acl, lambda record: decode_directory(record, "/")):
        try:
            decode(data)
        except InvalidArgument:
            continue


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("flist") / "x.flist"
    write_flist(Flist(sample(), {"a": "b"}), str(path))
    return path.read_bytes()


def test_mutated_container_is_read_or_refused(container: bytes, tmp_path: Path) -> None:
    raw, source = gzip.decompress(container), random.Random(7)
    table = raw.index(b".sst")
    path = tmp_path / "x"
    outcomes = set()
    for _ in range(150):
        changes = [
            (source.choice([source.randrange(1024), table + source.randrange(8192)]), source.randrange(256))
            for _ in range(source.choice([1, 2, 8]))
        ]
        path.write_bytes(gzip.compress(mutate(raw, changes), 1))
        try:
            outcomes.add(read_flist(str(path)) is not None)
        except InvalidArgument:
            outcomes.add(False)
    assert outcomes == {True, False}


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A v2 and a v3 database of the sample."""
    folder, root = tmp_path_factory.mktemp("sqlite"), sample()
    file = (root.children or {})[b"file"]
    file.blocks.codec = Codec.V3
    write_flist(Flist(root, {"a": "b"}), str(folder / "v3"), "v3")
    file.blocks.codec = Codec.V2
    return {"v2": write_database(Flist(root, {"a": "b"})), "v3": (folder / "v3").read_bytes()}


@given(st.sampled_from(["v2", "v3"]), mutations)
@settings(max_examples=300, deadline=None)
def test_mutated_database_is_read_or_refused(
    databases: dict[str, bytes], form: str, changes: list[tuple[int, int]]
) -> None:
    data = mutate(databases[form], changes)
    try:
        flist = read_database(data, Limits()) if form == "v2" else read_fl(data, Limits())
        merkle_root(flist)
        build(flist)
    except InvalidArgument:
        return


@given(st.sampled_from([Codec.V1, Codec.V2, Codec.V3, Codec.G8]), mutations, st.integers(1, 2000))
@settings(max_examples=200, deadline=None)
def test_mutated_chunk_is_the_same_or_refused(
    codec: Codec, changes: list[tuple[int, int]], size: int
) -> None:
    plain = b"some text " * 100
    made = codecs.encode(codec, plain)
    try:
        got = codecs.decode(codec, mutate(made.stored, changes), made.id, made.key, size)
    except InvalidArgument:
        return
    assert got == plain


@given(st.text(max_size=300) | st.sampled_from(["pools: {a: {00: 'zdb://x'}}\nlookup: [a]"]), mutations)
@settings(max_examples=200, deadline=None)
def test_router_of_anything_is_read_or_refused(text: str, changes: list[tuple[int, int]]) -> None:
    data = mutate(text.encode("utf-8", "surrogatepass") or b"x", changes)
    try:
        router = parse_router(data)
    except InvalidArgument:
        return
    assert parse_router(format_router(router)) == router


@given(st.binary(max_size=200), st.binary(min_size=45, max_size=45))
def test_table_of_anything_is_read_or_refused(body: bytes, footer: bytes) -> None:
    for version in (2, 5, 6):
        data = body + footer[:41] + version.to_bytes(4, "little") + bytes.fromhex("f7cff485b741e288")
        try:
            list(read_table(data, Budget(1 << 20)))
        except InvalidArgument:
            continue
