"""Ignore patterns, and cuts by content."""

import random

import pytest

from g8node.errors import InvalidArgument
from g8node.wire import cut
from g8node.wire.ignore import Ignore


@pytest.mark.parametrize(
    ("lines", "path", "out"),
    [
        (["*.pyc"], "a/b/c.pyc", True),
        (["*.pyc"], "a.pyc/x", False),
        (["/build"], "build", True),
        (["/build"], "a/build", False),
        (["build"], "a/build", True),
        (["a/*.o"], "a/x.o", True),
        (["a/*.o"], "a/b/x.o", False),
        (["a/*.o"], "c/a/x.o", False),
        (["a/**/x"], "a/x", True),
        (["a/**/x"], "a/b/c/x", True),
        (["**/x"], "b/x", True),
        (["a/**"], "a/b/c", True),
        (["a/**"], "a", False),
        (["tmp/"], "tmp", False),
        (["*", "!keep"], "keep", False),
        (["*", "!keep"], "other", True),
        (["!keep", "*"], "keep", True),
        (["# note", "", "x?z"], "xyz", True),
        (["[ab].c"], "b.c", True),
        (["[!ab].c"], "b.c", False),
        (["\\#x"], "#x", True),
        (["a.c"], "abc", False),
    ],
)
def test_pattern_of_a_file(lines: list[str], path: str, out: bool) -> None:
    assert Ignore(lines).leaves_out(path.encode(), directory=False) is out


def test_slash_at_the_end_means_directories() -> None:
    assert Ignore(["tmp/"]).leaves_out(b"var/tmp", directory=True)


@pytest.mark.parametrize("line", ["/", "!", "!/", "x" * 5000])
def test_pattern_that_names_nothing_is_refused(line: str) -> None:
    with pytest.raises(InvalidArgument, match="names nothing"):
        Ignore([line])


def test_no_pattern_is_false() -> None:
    assert not Ignore(["# only", "\r\n"])


def cuts(data: bytes, step: int = 1 << 30) -> list[bytes]:
    rest = memoryview(data)

    def read(most: int) -> bytes:
        nonlocal rest
        got, rest = bytes(rest[: min(most, step)]), rest[min(most, step) :]
        return got

    return list(cut.pieces(read))


DATA = random.Random(3).randbytes(9 << 20)


def test_pieces_are_the_whole_and_of_bounded_size() -> None:
    got = cuts(DATA)
    assert b"".join(got) == DATA
    assert all(cut.LEAST <= len(piece) <= cut.MOST for piece in got[:-1])
    assert 256 << 10 < len(DATA) / len(got) < 768 << 10


@pytest.mark.parametrize("step", [100_000, 1 << 20])
def test_pieces_do_not_depend_on_how_much_a_read_gives(step: int) -> None:
    assert cuts(DATA, step) == cuts(DATA)


def test_byte_put_in_moves_few_pieces() -> None:
    before, after = set(cuts(DATA)), cuts(DATA[: 1 << 20] + b"!" + DATA[1 << 20 :])
    assert len([piece for piece in after if piece not in before]) <= 3


@pytest.mark.parametrize("data", [b"", b"x", bytes(3 << 20)])
def test_short_or_dull_files(data: bytes) -> None:
    assert b"".join(cuts(data)) == data
