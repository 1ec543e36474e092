"""Plain vdisks: zeros that clients write take no space."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from g8node.linux.diskfile import KernelDisk
from g8node.runtime import blocking
from g8node.vdisk.plain import PlainVdisk
from g8node.vdisk.record import Record

SIZE = 1 << 20
DATA = random.Random(1).randbytes(SIZE)


@pytest.fixture
async def vdisk(tmp_path: Path) -> AsyncIterator[PlainVdisk]:
    file = await blocking.run("vdisk", KernelDisk().open, f"{tmp_path}/data", create=True)
    await blocking.run("vdisk", file.truncate, SIZE)
    made = PlainVdisk(file, Record(id="vd", type="db", size=SIZE))
    yield made
    await made.close()
    blocking.close()


async def write(vdisk: PlainVdisk, offset: int, data: bytes) -> None:
    assert await vdisk.write_many([(offset, memoryview(data))]) == [None]


async def read(vdisk: PlainVdisk) -> bytes:
    data = bytearray(SIZE)
    await vdisk.read(0, memoryview(data))
    return bytes(data)


async def holes(vdisk: PlainVdisk) -> int:
    return sum(size for size, state in await vdisk.extents(0, SIZE, 1000) if state)


async def test_zeros_over_a_hole_leave_it_one(vdisk: PlainVdisk) -> None:
    await write(vdisk, 8192, bytes(4096))
    assert await holes(vdisk) == SIZE


async def test_zeros_over_data_are_there(vdisk: PlainVdisk) -> None:
    await write(vdisk, 0, DATA)
    await write(vdisk, 4096, bytes(4096))
    await write(vdisk, 100, bytes(100))
    await write(vdisk, 65536, bytes(131072))
    expected = bytearray(DATA)
    expected[4096:8192] = bytes(4096)
    expected[100:200] = bytes(100)
    expected[65536 : 65536 + 131072] = bytes(131072)
    assert await read(vdisk) == bytes(expected)
    assert await holes(vdisk) == 131072


async def test_data_between_zeros_is_kept(vdisk: PlainVdisk) -> None:
    piece = bytes(100_000) + b"x" + bytes(SIZE - 100_001)
    await write(vdisk, 0, piece)
    assert await read(vdisk) == piece
