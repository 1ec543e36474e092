"""Many writes in one call."""

import errno
import os
import random
from pathlib import Path

import pytest

from g8node.linux._batch import pwrite_many


def test_all_are_written_in_order(tmp_path: Path) -> None:
    dice = random.Random(3)
    expected = bytearray(1 << 16)
    writes = []
    for _ in range(200):
        data = dice.randbytes(dice.randrange(1, 3000))
        at = dice.randrange(len(expected) - len(data))
        expected[at : at + len(data)] = data
        writes.append((at, memoryview(data)))
    with open(tmp_path / "file", "w+b") as file:
        file.truncate(len(expected))
        assert pwrite_many(file.fileno(), writes) == [0] * len(writes)
        assert file.read() == expected


def test_each_has_its_own_error(tmp_path: Path) -> None:
    data = memoryview(b"x")
    with open(tmp_path / "file", "w+b") as file:
        assert pwrite_many(file.fileno(), [(0, data), (-1, data), (1, data)]) == [0, errno.EINVAL, 0]
        assert os.fstat(file.fileno()).st_size == 2
    assert pwrite_many(-1, [(0, data)]) == [errno.EBADF]
    assert pwrite_many(-1, []) == []


@pytest.mark.parametrize(
    "wrong", [[(0,)], [0], [("0", b"x")], [(0, "x")], [(1 << 70, b"x")], [(0, b"x"), None]]
)
def test_wrong_arguments_write_nothing(tmp_path: Path, wrong: list[object]) -> None:
    with open(tmp_path / "file", "w+b") as file:
        with pytest.raises((TypeError, OverflowError)):
            pwrite_many(file.fileno(), wrong)  # type: ignore[arg-type]
        assert os.fstat(file.fileno()).st_size == 0
    with pytest.raises(TypeError):
        pwrite_many(0, ())  # type: ignore[arg-type]
