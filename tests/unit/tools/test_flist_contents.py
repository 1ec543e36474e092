"""What an flist holds, as text that is safe to print."""

from array import array

from g8node.flist.tree import Flist, Node
from g8node.wire.flist import Blocks
from g8tools.flist.contents import ids_of, lines, long_format


def tree() -> Flist:
    file = Node(
        0o100640, uid=1, gid=2, mtime_s=86400, size=3, blocks=Blocks(b"a" * 32 + bytes(32) + b"b" * 32)
    )
    file.blocks.sizes = array("I", [1, 1, 1])
    same = Node(0o100644, size=1, blocks=Blocks(b"b" * 32, sizes=array("I", [1])))
    link = Node(0o120777, target=b"fi\x1b[31mle")
    return Flist(Node(0o40755, children={b"file": file, b"same": same, b"li\xffnk": link}))


def test_chunks_are_distinct_and_without_holes() -> None:
    assert ids_of(tree()) == [b"a" * 32, b"b" * 32]


def test_lines_read_like_ls() -> None:
    shown = [long_format(line) for line in lines(tree().root)]
    assert shown[1] == "-rw-r-----     1     2          3 1970-01-02 00:00 /file"


def test_names_cannot_reach_the_terminal_raw() -> None:
    shown = [long_format(line) for line in lines(tree().root)]
    assert shown[2].endswith("/li\\xffnk -> fi\\x1b[31mle")
