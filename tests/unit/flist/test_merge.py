"""Uniting flists: who wins, and what differs."""

import stat

import pytest

from g8node.errors import InvalidArgument
from g8node.flist.merge import diff, layer, merge
from g8node.flist.tree import Flist, Node, walk
from g8node.wire.router import EVERY, Router, Rule


def file(uid: int) -> Node:
    return Node(stat.S_IFREG | 0o644, uid)


def folder(uid: int, **children: Node) -> Node:
    return Node(stat.S_IFDIR | 0o755, uid, children={name.encode(): node for name, node in children.items()})


def router(name: str) -> Router:
    return Router({name: (Rule(EVERY, f"zdb://{name}"),)}, (name,))


ONE = Flist(
    folder(1, both=file(1), only=file(1), d=folder(1, x=file(1), y=file(1)), clash=folder(1, z=file(1))),
    {"a": "1"},
    router("one"),
)
TWO = Flist(
    folder(2, both=file(2), d=folder(2, x=file(2), w=file(2)), clash=file(2)), {"b": "2"}, router("two")
)


def owners(flist: Flist) -> dict[str, int]:
    return {path.decode(): node.uid for path, node in walk(flist.root)}


def test_merge_lets_the_first_win() -> None:
    got = merge([ONE, TWO])
    assert owners(got) == {
        "": 1, "both": 1, "clash": 1, "clash/z": 1, "d": 1, "d/w": 2, "d/x": 1, "d/y": 1, "only": 1,
    }  # fmt: skip
    assert got.info == {"a": "1"}
    assert got.router is not None
    assert got.router.lookup == ("0.one", "1.two")


def test_layer_lets_the_last_win() -> None:
    got = layer([ONE, TWO])
    assert owners(got) == {"": 2, "both": 2, "clash": 2, "d": 2, "d/w": 2, "d/x": 2, "d/y": 1, "only": 1}
    assert got.info == {"b": "2"}
    assert got.router is not None
    assert got.router.lookup == ("0.two", "1.one")


def test_uniting_changes_no_source() -> None:
    before = owners(ONE), owners(TWO)
    merge([ONE, TWO])
    layer([ONE, TWO])
    assert (owners(ONE), owners(TWO)) == before


def test_routers_that_are_equal_stay_one() -> None:
    assert merge([ONE, Flist(TWO.root, {}, router("one"))]).router == router("one")
    assert merge([Flist(TWO.root), Flist(TWO.root)]).router is None


def test_nothing_cannot_be_united() -> None:
    with pytest.raises(InvalidArgument):
        merge([])


def test_diff_names_paths_and_fields() -> None:
    found = {(change.path.decode(), change.what) for change in diff(ONE, TWO)}
    assert found == {
        ("", ("metadata a",)), ("", ("metadata b",)), ("", ("owner",)), ("both", ("owner",)),
        ("clash", ("kind",)),
        ("clash/z", ("removed",)), ("d", ("owner",)), ("d/w", ("added",)), ("d/x", ("owner",)),
        ("d/y", ("removed",)), ("only", ("removed",)),
    }  # fmt: skip


def test_diff_of_one_flist_is_empty() -> None:
    assert list(diff(ONE, ONE)) == []
