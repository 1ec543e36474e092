"""The compiled reader and writer make the image that Python makes, or leave it to Python."""

import stat
from array import array
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from g8node.errors import InvalidArgument
from g8node.flist import compiled
from g8node.flist.container import open_flist, write_flist
from g8node.flist.image import NAMES_MAX, build, build_compiled, prepare
from g8node.flist.merkle import MERKLE_KEY
from g8node.flist.records import read_tree, tree_records
from g8node.flist.rocks import Database
from g8node.flist.tree import DEFAULT_LIMITS, Flist, Limits, Node
from g8node.wire.capnp import Builder
from g8node.wire.flist import Blocks, Codec, Entry, Extra, Kind
from tests.unit.flist.test_random_trees import trees
from tests.unit.flist.test_records import ROOT, bad_trees, blocks, chain, entry, folder, record, records

CHUNK = 512 * 1024


def database(made: dict[str, bytes], prefix: bytes = b"") -> Database:
    return Database({prefix + key.encode(): value for key, value in made.items()}, prefix, {"a": "b"})


def answers_alike(made: dict[str, bytes], limits: Limits = DEFAULT_LIMITS) -> bool:
    """Whether the compiled one answers; then Python's answer must be the same."""
    got = build_compiled(database(made), limits, b"u" * 16)
    if got is not None:
        assert got == build(database(made).read(limits), uuid=b"u" * 16)
    return got is not None


def accepts(root: Node) -> bool:
    return answers_alike(dict(tree_records(root)))


def test_it_is_there() -> None:
    assert compiled.COMPILED


@given(trees(Codec.G8))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_gives_the_same_image(flist: Flist) -> None:
    assert accepts(flist.root)


def file(size: int, codec: Codec = Codec.G8, number: int = 0) -> Node:
    count = -(-size // CHUNK)
    ids = b"".join(b"%32d" % (number + n) for n in range(count))
    sizes = array("I", [CHUNK] * (count - 1) + [size - (count - 1) * CHUNK])
    return Node(stat.S_IFREG | 0o644, size=size, blocks=Blocks(ids, ids, sizes, codec))


def whole(*sizes: int) -> Node:
    ids = b"".join(b"%16d%16d" % (n, size) for n, size in enumerate(sizes))
    return Node(stat.S_IFREG, size=sum(sizes), blocks=Blocks(ids, ids, array("I", sizes), block_size=0))


def holed() -> Node:
    one = file(3 * CHUNK)
    ids = bytes(32) + bytes(one.blocks.ids[32:64]) + bytes(32)
    one.blocks = Blocks(ids, ids, one.blocks.sizes, Codec.V3)
    return one


def link(target: bytes) -> Node:
    return Node(stat.S_IFLNK | 0o777, target=target, size=len(target))


capable = Node(
    stat.S_IFREG, xattrs={b"security.capability": b"c" * 20, b"user.a": b"", b"user.b": b"x" * 4000}
)
shared = file(5)
full: dict[str, Node] = {
    "empty": folder(),
    "many names": folder(**{f"name {n} " + "n" * (n % 200): Node(stat.S_IFIFO) for n in range(700)}),
    "names around the dots": Node(
        stat.S_IFDIR, children={name: folder() for name in (b"!", b"-", b".!", b".-", b"...", b"0", b"\xff")}
    ),
    "long folder not inline": folder(**{f"{n:0250}": folder() for n in range(20)}),
    "xattrs": folder(capable=capable),
    "one inode": folder(a=shared, b=folder(c=shared, d=shared), e=capable, f=folder(g=capable)),
    "equal chunks": folder(a=file(CHUNK + 1), b=file(CHUNK + 1)),
    "keyed and old": folder(a=file(7, Codec.G8_KEYED, 1), b=file(9, Codec.V3, 2)),
    "whole": folder(a=whole(1, 5000, 3), b=whole(4096), c=file(12), d=whole(1, 5000, 3)),
    "holes": folder(a=holed(), b=file(1, number=9)),
    "links": folder(a=link(b"x"), b=link(b"y" * 4095), c=link(b"z" * 3000), d=link(b"z" * 4030)),
    "specials": folder(
        a=Node(stat.S_IFBLK, rdev=(4095, (1 << 20) - 1)),
        b=Node(stat.S_IFCHR, rdev=(1, 300)),
        c=Node(stat.S_IFSOCK),
        d=Node(stat.S_IFIFO),
    ),
    "deep": chain(1000),
}


@pytest.mark.parametrize("name", full)
def test_what_images_are_made_of_gives_the_same_image(name: str) -> None:
    assert accepts(full[name])


differing = folder(a=file(5), b=file(5))
differing.children[b"b"].blocks.keys = b"k" * 32  # type: ignore[index]
left: dict[str, Node] = {
    "a chunk with two keys": differing,
    "device too big": folder(a=Node(stat.S_IFCHR, rdev=(4096, 0))),
    "long target": folder(a=link(b"t" * 4096)),
    "xattr of no kind": folder(a=Node(stat.S_IFREG, xattrs={b"odd": b""})),
    "xattr too long": folder(a=Node(stat.S_IFREG, xattrs={b"user.a": bytes(65536)})),
    "xattrs too long": folder(a=Node(stat.S_IFREG, xattrs={b"user.%d" % n: bytes(60000) for n in range(5)})),
    "too deep": chain(1100),
}


@pytest.mark.parametrize("name", left)
def test_what_python_refuses_is_left_to_it(name: str) -> None:
    made = dict(tree_records(left[name]))
    assert not answers_alike(made)
    with pytest.raises(InvalidArgument):
        build(Flist(read_tree(made.get)))


@pytest.mark.parametrize("name", bad_trees)
def test_trees_that_lie_are_left_to_python(name: str) -> None:
    assert not answers_alike(bad_trees[name][0])


def test_limits_are_those_of_python() -> None:
    made = dict(tree_records(folder(a=folder(), b=file(CHUNK + 1), c=folder(d=folder()))))
    for limits in (Limits(entries=4), Limits(chunks=2), Limits(depth=2)):
        assert answers_alike(made, limits)
    for limits in (Limits(entries=3), Limits(chunks=1), Limits(depth=1)):
        assert not answers_alike(made, limits)


def test_chunks_of_the_original_are_left_to_python() -> None:
    old = Blocks(b"i" * 16 + bytes(16), b"k" * 16 + bytes(16), array("I", [5]), Codec.V2)
    made = dict(tree_records(folder(a=Node(stat.S_IFREG, size=5, blocks=old))))
    assert not answers_alike(made)
    assert build(database(made).read(DEFAULT_LIMITS))


def test_hard_link_of_other_extent_is_left_to_python() -> None:
    """Equal in all that Python compares, but not in how their chunks lie: which one counts is its affair."""
    one, other = blocks(5), blocks(5)
    other.block_size = 0
    entries = [
        Entry(name, Kind.FILE, entry(b"x").acl, Extra(link_group=3), 5, blocks=each)
        for name, each in ((b"a", one), (b"b", other))
    ]
    assert not answers_alike(records(record(*entries)))


def test_records_of_several_segments_are_left_to_python() -> None:
    made = dict(tree_records(folder(a=file(5))))
    data = made[ROOT]
    words = int.from_bytes(data[4:8], "little")
    table = b"\1\0\0\0" + words.to_bytes(4, "little") + bytes(8)
    made[ROOT] = table + data[8:]
    assert not answers_alike(made)
    assert read_tree(made.get)


def test_message_that_points_at_one_place_often_is_left_to_python() -> None:
    builder = Builder()
    slot = builder.struct(0, bytes(24), 6)
    at = builder.structs(slot + 16, 1 << 12, 0, 0)
    assert at
    assert not answers_alike(records(builder.finish()))


def test_names_of_a_namespace_are_found() -> None:
    made = dict(tree_records(folder(a=file(5))))
    with_prefix = database(made, b"app:")
    with_prefix.records[b"other"] = b"not a record"
    assert build_compiled(with_prefix) == build(database(made).read(DEFAULT_LIMITS))


def test_paths_take_a_bounded_space() -> None:
    deep = folder(**{"n" * 200: folder(**{f"{n}": file(1, number=n) for n in range(50)})})
    made = database(dict(tree_records(deep)))
    size = 50 * (200 + 2) + 10 + 2 * 40
    for room, fits in ((size, True), (size - 1, False)):
        got = compiled.compiled_image(made.records, b"", DEFAULT_LIMITS, room)
        assert (got is not None) == fits
    assert size < NAMES_MAX


def test_changed_tree_is_refused_in_the_same_words(tmp_path: Path) -> None:
    path = tmp_path / "x.flist"
    write_flist(Flist(folder(a=file(5)), {MERKLE_KEY: "0" * 64}), str(path))
    assert isinstance(open_flist(str(path)), Database)
    with pytest.raises(InvalidArgument, match="the flist was changed: its entries have the root"):
        prepare(str(path), str(tmp_path / "cache"))


def test_what_is_no_bytes_is_a_bug() -> None:
    with pytest.raises(TypeError):
        compiled.compiled_image({"text": b""}, b"", DEFAULT_LIMITS, 1)  # type: ignore[dict-item]
