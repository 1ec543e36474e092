"""Trees to records and back, and trees that lie."""

import dataclasses
import stat
from array import array

import pytest

from g8node.errors import InvalidArgument
from g8node.flist.records import read_tree, tree_records
from g8node.flist.tree import Limits, Node, walk
from g8node.wire.flist import (
    Acl,
    Blocks,
    Codec,
    Directory,
    Entry,
    Extra,
    Kind,
    acl_key,
    directory_key,
    encode_acl,
    encode_directory,
)

ROOT = directory_key(b"")
ACL = acl_key(Acl(0o755, 0, 0))


def blocks(*sizes: int) -> Blocks:
    count = len(sizes)
    return Blocks(b"i" * 32 * count, b"k" * 32 * count, array("I", sizes))


def folder(**children: Node) -> Node:
    return Node(stat.S_IFDIR | 0o755, children={name.encode(): node for name, node in children.items()})


def read(records: dict[str, bytes], limits: Limits | None = None) -> Node:
    return read_tree(records.get, limits or Limits())


def summary(root: Node) -> list[tuple[object, ...]]:
    rows = []
    for path, node in walk(root):
        values = [getattr(node, field.name) for field in dataclasses.fields(Node)]
        content = (bytes(node.blocks.ids), bytes(node.blocks.keys), node.blocks.sizes)
        rows.append((path, *values[:7], content, node.target, node.rdev, node.children is None))
    return rows


def test_tree_survives_records() -> None:
    linked = Node(stat.S_IFREG | 0o4755, 1, 2, 3, 4, {b"user.a": b"b"}, 7, blocks(7))
    root = folder(
        a=linked,
        d=folder(b=linked, e=folder(f=folder())),
        link=Node(stat.S_IFLNK | 0o777, target=b"a", size=1),
        dev=Node(stat.S_IFCHR | 0o600, rdev=(5, 6)),
        pipe=Node(stat.S_IFIFO | 0o600),
        sock=Node(stat.S_IFSOCK | 0o600),
        big=Node(stat.S_IFREG, size=524288 + 1, blocks=blocks(524288, 1)),
    )
    root.uid, root.mtime_ns, root.xattrs = 9, 8, {b"user.r": b""}
    got = read(dict(tree_records(root)))
    assert summary(got) == summary(root)
    assert got.children is not None
    below = got.children[b"d"].children
    assert below is not None
    assert got.children[b"a"] is below[b"b"]


def record(*entries: Entry, acl: str = ACL) -> bytes:
    return encode_directory(Directory(b"", ROOT, acl, Extra(), entries))


def entry(name: bytes, size: int = 0, **fields: object) -> Entry:
    made = Entry(name, Kind.FILE, ACL, Extra(), size)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def below(name: bytes, key: str) -> Entry:
    return entry(name, kind=Kind.DIRECTORY, directory=key)


def records(root: bytes, **others: bytes) -> dict[str, bytes]:
    return {ROOT: root, ACL: encode_acl(Acl(0o755, 0, 0)), **others}


def hard_linked(first: Entry, second: Entry) -> dict[str, bytes]:
    first.extra.link_group = second.extra.link_group = 1
    return records(record(first, second))


HUGE = Blocks(b"i" * 32, b"k" * 32, array("I", [1 << 31]), Codec.G8)
bad_trees: dict[str, tuple[dict[str, bytes], str]] = {
    "no root": ({}, "record .* is missing"),
    "root is garbage": ({ROOT: b"garbage!"}, "directory /: record"),
    "missing directory": (
        records(record(below(b"d", "nowhere"))),
        "directory /d/: record nowhere is missing",
    ),
    "missing acl": (records(record(acl="nobody")), "access record 'nobody' is missing"),
    "directory in itself": (records(record(below(b"d", ROOT))), "reached twice"),
    "cycle": (
        records(record(below(b"a", "A")), A=record(below(b"b", "B")), B=record(below(b"c", "A"))),
        "directory b'a/b/c/' is reached twice",
    ),
    "shared directory": (
        records(record(below(b"a", "A"), below(b"b", "A")), A=record()),
        "reached twice",
    ),
    "name twice": (records(record(entry(b"x"), entry(b"x"))), "name b'x' occurs twice"),
    "directory twice": (
        records(record(below(b"x", "A"), below(b"x", "B")), A=record(), B=record()),
        "name b'x' occurs twice",
    ),
    "size without chunks": (records(record(entry(b"f", 5))), "/b'f': size 5|chunks of|does not go"),
    "chunks without size": (records(record(entry(b"f", 0, blocks=blocks(5)))), "does not go with 1 chunks"),
    "size over the chunks": (records(record(entry(b"f", 1 << 60, blocks=blocks(524288)))), "does not go"),
    "first chunk short": (records(record(entry(b"f", 524289, blocks=blocks(1, 524288)))), "do not add up"),
    "last chunk lies": (records(record(entry(b"f", 524289, blocks=blocks(524288, 2)))), "do not add up"),
    "huge chunk": (records(record(entry(b"f", 1 << 31, blocks=HUGE))), "does not go with"),
    "hard links differ": (
        hard_linked(entry(b"f", 5, blocks=blocks(5)), entry(b"g")),
        "b'g' differs from the file it is a hard link of",
    ),
}


@pytest.mark.parametrize("name", bad_trees)
def test_lying_tree_is_refused_by_name(name: str) -> None:
    bad, message = bad_trees[name]
    with pytest.raises(InvalidArgument, match=message):
        read(bad)


def test_other_chunk_size_is_refused() -> None:
    odd = blocks(5)
    odd.block_size = 4096
    with pytest.raises(InvalidArgument, match="chunks of 4096 bytes"):
        read(records(record(entry(b"f", 5, blocks=odd))))


def test_unreachable_records_are_ignored() -> None:
    got = read(records(record(entry(b"x")), orphan=b"not even a record"))
    assert list(got.children or {}) == [b"x"]


def chain(depth: int) -> Node:
    root = folder()
    at = root
    for _ in range(depth):
        child = folder()
        at.children = {b"d": child}
        at = child
    return root


def test_depth_is_limited() -> None:
    assert read(dict(tree_records(chain(1000))))
    with pytest.raises(InvalidArgument, match="over 1024 levels deep"):
        read(dict(tree_records(chain(1100))))


def test_entries_are_limited() -> None:
    made = dict(tree_records(folder(a=folder(), b=folder(), c=folder())))
    with pytest.raises(InvalidArgument, match="over 2 entries"):
        read(made, Limits(entries=2))


def test_chunks_are_limited() -> None:
    made = dict(tree_records(folder(f=Node(stat.S_IFREG, size=524289, blocks=blocks(524288, 1)))))
    with pytest.raises(InvalidArgument, match="over 1 chunks"):
        read(made, Limits(chunks=1))
