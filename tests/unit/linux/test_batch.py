"""Many reads, or writes, in one call."""

import errno
import os
import random
from pathlib import Path

import pytest

from g8node.linux._batch import pread_many, pwrite_many
from g8node.linux.nowait import in_memory
from tests.support.chunks import scattered


def test_all_are_written_in_order(tmp_path: Path) -> None:
    dice = random.Random(3)
    expected = bytearray(1 << 16)
    writes = scattered(dice, expected, 200)
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


def test_each_read_is_whole_or_says_why_not(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(10_000)
    (tmp_path / "file").write_bytes(data)
    into = memoryview(bytearray(b"-" * 40))
    with open(tmp_path / "file", "rb") as file:
        reads = [(5000, into[:10]), (9995, into[10:20]), (-1, into[20:30]), (7, into[30:])]
        assert pread_many(file.fileno(), reads, 0) == [0, errno.EAGAIN, errno.EINVAL, 0]
        assert into[:10] == data[5000:5010]
        assert into[30:] == data[7:17]
        assert pread_many(file.fileno(), [(0, into)], 1 << 20) == [errno.EOPNOTSUPP]
        for wrong in ([(0, b"constant")], [(0,)], ((0, into),)):
            with pytest.raises((TypeError, BufferError)):
                pread_many(file.fileno(), wrong, 0)  # type: ignore[arg-type]
    assert pread_many(-1, [(0, into)], 0) == [errno.EBADF]


def test_read_without_waiting_takes_what_is_in_memory_and_no_more(tmp_path: Path) -> None:
    """On the file system of the tests' folder, which may be one that is always in memory."""
    into = memoryview(bytearray(2))
    with open(tmp_path / "file", "w+b") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fdatasync(file.fileno())
        fd = file.fileno()
        expected = ([errno.EOPNOTSUPP] * 2, [0, 0]) if in_memory(fd) else ([0, errno.EAGAIN],)
        for _ in range(100):  # the kernel may keep, or drop, a page that it is just looking at
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(fd, 1, 0)
            seen = pread_many(fd, [(0, into[:1]), ((1 << 20) - 1, into[1:])], os.RWF_NOWAIT)
            if seen in expected:
                break
    assert seen in expected
