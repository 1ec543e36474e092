"""Writes by threads that never need the interpreter."""

import asyncio
import errno
import gc
import os
import random
import weakref
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path

import pytest
import uvloop

from g8node.runtime.writes import writes
from tests.support.chunks import scattered


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BufferedRandom]:
    with open(tmp_path / "file", "w+b") as file:
        yield file


async def test_batches_are_written_whole_and_in_order(tmp_path: Path) -> None:
    """Many at once, to files of their own; nobody but the threads holds the data."""
    dice = random.Random(6)
    of = writes(asyncio.get_running_loop())
    expected = [bytearray(1 << 16) for _ in range(20)]
    fds = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(len(expected))]
    answers = []
    for whole, fd in zip(expected, fds, strict=True):
        os.truncate(fd, len(whole))
        answers.append(of.write(fd, scattered(dice, whole, 50)))
    assert await asyncio.gather(*answers) == [[0] * 50] * len(fds)
    for whole, fd in zip(expected, fds, strict=True):
        assert os.pread(fd, len(whole), 0) == whole
        os.close(fd)


async def test_each_write_has_its_own_error(file: BufferedRandom) -> None:
    of = writes(asyncio.get_running_loop())
    data = memoryview(b"x")
    assert await of.write(file.fileno(), [(0, data), (-1, data), (1, data)]) == [0, errno.EINVAL, 0]
    assert file.read() == b"xx"
    for wrong in ([(0,)], [("0", b"x")], [(0, "x")], ((0, b"x"),)):
        with pytest.raises(TypeError):
            of.write(file.fileno(), wrong)  # type: ignore[arg-type]
    assert await of.write(-1, [(0, data)]) == [errno.EBADF]
    assert await of.write(-1, []) == []
    assert of._waiting == {}


async def test_data_is_let_go_of_when_it_is_written_also_when_nobody_waits(file: BufferedRandom) -> None:
    of = writes(asyncio.get_running_loop())
    data = bytearray(b"kept")
    answer = of.write(file.fileno(), [(0, memoryview(data))])
    with pytest.raises(BufferError):
        data.clear()
    answer.cancel()
    assert await of.write(file.fileno(), [(4, memoryview(b"more"))]) == [0]
    while of._waiting:  # noqa: ASYNC110 - the other thread may be the slower one, and tells nobody
        await asyncio.sleep(0)
    data.clear()
    assert file.read() == b"keptmore"


def test_a_loop_that_ends_takes_its_writer_along(file: BufferedRandom) -> None:
    async def scenario() -> "weakref.ref[object]":
        of = writes(asyncio.get_running_loop())
        assert writes(asyncio.get_running_loop()) is of
        assert await of.write(file.fileno(), [(0, memoryview(b"x"))]) == [0]
        return weakref.ref(of)

    gone = uvloop.run(scenario())
    gc.collect()  # also loops of other tests, whose descriptors are not counted then
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        gone = uvloop.run(scenario())
        gc.collect()
        assert gone() is None
    assert len(os.listdir("/proc/self/fd")) <= before
