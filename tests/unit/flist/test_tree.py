"""The tree of an flist in memory."""

from g8node.flist.tree import Node, copied, walk


def test_copy_has_inodes_of_its_own_and_its_own_hard_links() -> None:
    file = Node(0o100644, size=3)
    top = Node(0o40755, children={b"a": file, b"b": file, b"d": Node(0o40700, children={b"c": file})})
    twin = copied(top)
    assert [(path, node.mode) for path, node in walk(twin)] == [(path, node.mode) for path, node in walk(top)]
    assert not {id(node) for _, node in walk(twin)} & {id(node) for _, node in walk(top)}
    names = dict(walk(twin))
    assert names[b"a"] is names[b"b"] is names[b"d/c"]


def test_copy_of_a_deep_tree_does_not_recurse() -> None:
    top = Node(0o40755, children={})
    for _ in range(5000):
        top = Node(0o40755, children={b"x": top})
    assert sum(1 for _ in walk(copied(top))) == 5001
