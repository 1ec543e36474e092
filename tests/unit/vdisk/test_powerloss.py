"""What a power loss leaves of vdisks, by replaying every kind of loss on a recorded disk."""

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from g8node.errors import AlreadyExists, NodeError, NotFound
from g8node.linux.diskfile import KernelDisk
from g8node.runtime import blocking
from g8node.vdisk.folder import Folder
from g8node.vdisk.plain import PlainVdisk
from g8node.vdisk.record import Record, Storage
from tests.support.powerloss import SECTOR, MemoryDisk, Oracle, PowerLost

SIZE = 16 << 10
SECTORS = SIZE // SECTOR
KEY = bytes(range(32))


async def load(disk: MemoryDisk, dice: random.Random, oracle: Oracle, steps: int) -> None:
    """Writes, zeroes, trims, writes in parallel with a flush, flushes, until the power goes."""
    folder = Folder(disk, "/pool", KEY)
    record = folder.record("vd")
    vdisk = PlainVdisk(folder.plain(record, folder.open(record)), record)
    for _ in range(steps):
        offset = dice.randrange(SECTORS) * SECTOR
        length = min(dice.choice((1, 2, 8, 9)) * SECTOR, SIZE - offset)
        data = dice.randbytes(length)
        if record.template and dice.random() < 0.3:
            await vdisk.read(offset, memoryview(bytearray(length)))
        what = dice.randrange(7)
        if what == 6:
            await alone(vdisk, offset, data, dice.random() < 0.5, oracle)
        elif what == 0:
            await vdisk.flush()
            oracle.flushed()
        elif what == 1:
            oracle.wrote(offset, bytes(length))
            await vdisk.zero(offset, length, keep=dice.random() < 0.5, fast=False)
        elif what == 2:
            oracle.wrote(offset, data)
            await asyncio.gather(vdisk.write_many([(offset, memoryview(data))]), vdisk.flush())
        elif what == 3:
            oracle.wrote(offset, data)
            if dice.random() < 0.5:
                errors = await vdisk.write_durably([(offset, memoryview(data))])
            else:
                other = vdisk.write_many([(offset, memoryview(data))])
                errors, _ = await asyncio.gather(vdisk.write_durably([(offset, memoryview(data))]), other)
            assert errors == [None]
            oracle.flushed()
        else:
            oracle.wrote(offset, data)
            errors = await vdisk.write_many([(offset, memoryview(data))])
            assert errors == [None]


async def alone(vdisk: PlainVdisk, offset: int, data: bytes, durable: bool, oracle: Oracle) -> None:
    """As a thread serves a client: a write, not synced unless durable, then a flush of another client."""
    assert vdisk.take()
    try:
        oracle.wrote(offset, data)
        await blocking.run("lone", vdisk.write_here, offset, memoryview(data), durable=durable)
        if durable:
            oracle.flushed()
        await vdisk.flush()
        oracle.flushed()
        oracle.wrote(offset, bytes(len(data)))
        await blocking.run("lone", vdisk.write_here, offset, memoryview(bytes(len(data))), durable=False)
        if durable:
            await blocking.run("lone", vdisk.flush_here)
            oracle.flushed()
    finally:
        vdisk.give_back()
    if not durable:
        await vdisk.flush()
        oracle.flushed()


def content(disk: MemoryDisk) -> bytes:
    folder = Folder(disk, "/pool", KEY)
    folder.sweep()
    record = folder.record("vd")
    data = bytearray(record.size)
    folder.plain(record, folder.open(record)).read(0, memoryview(data))
    return bytes(data)


async def states(
    seed: int, crashes: int, *, syncs: bool = True, encrypted: bool = False, clone: bool = False
) -> Iterator[tuple[Oracle, MemoryDisk]]:
    dice = random.Random(seed)
    disk = MemoryDisk()
    disk.make_folder("/pool")
    disk.sync_folder("/")
    folder = Folder(disk, "/pool", KEY)
    record = Record(id="vd", type="db", size=SIZE)
    oracle = Oracle(SECTORS)
    if clone:
        record = shown(folder, record, oracle, dice)
    folder.create(folder.sealed(record) if encrypted else record)
    disk.syncs = syncs
    disk.operations = dice.randrange(80 if clone else 40)
    with contextlib.suppress(PowerLost, NodeError):
        await load(disk, dice, oracle, 40)
    return ((oracle, disk.crash(dice)) for _ in range(crashes))


def shown(folder: Folder, record: Record, oracle: Oracle, dice: random.Random) -> Record:
    """The record with a template of three quarters of its size."""
    data = dice.randbytes(SIZE // 4) + bytes(SIZE // 4) + dice.randbytes(SIZE // 4)
    template = Record(id="template", type="db", size=len(data))
    folder.create(template)
    file = folder.open(template)
    file.write(0, data)
    file.sync()
    oracle.found(data.ljust(SIZE, b"\0"))
    return msgspec.structs.replace(record, template=template.id, template_size=template.size)


async def wrong_sectors(
    seeds: range, crashes: int, *, syncs: bool = True, encrypted: bool = False, clone: bool = False
) -> int:
    wrong = 0
    for seed in seeds:
        for oracle, disk in await states(seed, crashes, syncs=syncs, encrypted=encrypted, clone=clone):
            wrong += oracle.wrong(content(disk))
    return wrong


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    blocking.close()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_flushed_data_survives_any_power_loss(encrypted: bool) -> None:
    assert await wrong_sectors(range(30), 20, encrypted=encrypted) == 0


@pytest.mark.parametrize("encrypted", [False, True])
async def test_clone_has_what_was_flushed_or_its_template_after_any_power_loss(encrypted: bool) -> None:
    assert await wrong_sectors(range(30), 20, encrypted=encrypted, clone=True) == 0


@pytest.mark.soak
@pytest.mark.parametrize("encrypted", [False, True])
async def test_clone_survives_ten_thousand_power_losses(encrypted: bool) -> None:
    assert await wrong_sectors(range(1000, 1500), 20, encrypted=encrypted, clone=True) == 0


@pytest.mark.soak
@pytest.mark.parametrize("encrypted", [False, True])
async def test_flushed_data_survives_ten_thousand_power_losses(encrypted: bool) -> None:
    assert await wrong_sectors(range(1000, 1500), 20, encrypted=encrypted) == 0


async def test_a_flush_that_does_nothing_would_be_noticed() -> None:
    assert await wrong_sectors(range(20), 5, syncs=False) > 0


def pool() -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_folder("/pool")
    disk.sync_folder("/")
    return disk


RECORD = Record(id="a:b", type="db", size=SIZE)


def test_vdisk_is_made_whole_or_not_at_all() -> None:
    dice = random.Random(1)
    for operations in range(30):
        disk = pool()
        disk.operations = operations
        try:
            Folder(disk, "/pool").create(RECORD)
            done = True
        except PowerLost:
            done = False
        for _ in range(10):
            left = Folder(disk.crash(dice), "/pool")
            left.sweep()
            if done or left.ids():
                assert left.ids() == ["a:b"]
                assert left.record("a:b") == RECORD
                assert left.open(RECORD).size() == SIZE
            else:
                left.create(RECORD)


def test_vdisk_grows_whole_or_not_at_all() -> None:
    dice = random.Random(2)
    for operations in range(20):
        disk = pool()
        folder = Folder(disk, "/pool")
        folder.create(RECORD)
        disk.operations = operations
        try:
            folder.grow(RECORD, 2 * SIZE)
            sizes = {2 * SIZE}
        except PowerLost:
            sizes = {SIZE, 2 * SIZE}
        for _ in range(10):
            left = Folder(disk.crash(dice), "/pool")
            record = left.record("a:b")
            assert record.size in sizes
            assert left.open(record).size() >= record.size


@pytest.mark.parametrize("storage", ["plain", "dedup"])
def test_emptied_vdisk_is_the_old_or_an_empty_one(storage: Storage) -> None:
    dice = random.Random(4)
    made = msgspec.structs.replace(RECORD, storage=storage, number=7 if storage == "dedup" else 0)
    seen = set()
    for operations in range(24):
        disk = pool()
        folder = Folder(disk, "/pool")
        folder.create(made)
        file = folder.open(made)
        file.write(0, b"x" * SIZE)
        file.sync()
        file.close()
        disk.operations = operations
        expected = {b"", b"x"}
        with contextlib.suppress(PowerLost):
            folder.renew(made)
            expected = {b""}
        for _ in range(10):
            crashed = disk.crash(dice)
            left = Folder(crashed, "/pool")
            left.sweep()
            assert left.ids() == ["a:b"]
            assert [name for name in crashed.names("/pool") if name[:4] in (".new", ".old", ".gon")] == []
            record = left.record("a:b")
            assert msgspec.structs.replace(record, number=made.number) == made
            data = memoryview(bytearray(SIZE))
            left.open(record).read(0, data)
            found = {byte for byte in (b"x",) if byte in bytes(data)} or {b""}
            assert bytes(data) in (bytes(SIZE), b"x" * SIZE)
            assert found <= expected
            seen |= found
    assert seen == {b"", b"x"}


def test_deleted_vdisk_does_not_come_back() -> None:
    dice = random.Random(3)
    for operations in range(12):
        disk = pool()
        folder = Folder(disk, "/pool")
        folder.create(RECORD)
        disk.operations = operations
        try:
            folder.delete("a:b")
            done = True
        except PowerLost:
            done = False
        for _ in range(10):
            crashed = disk.crash(dice)
            left = Folder(crashed, "/pool")
            left.sweep()
            assert left.ids() in ([[]] if done else [[], ["a:b"]])
            if left.ids():
                assert left.record("a:b") == RECORD
            assert [name for name in crashed.names("/pool") if name.startswith(".")] == []


def test_existing_vdisk_is_not_replaced() -> None:
    folder = Folder(pool(), "/pool")
    folder.create(RECORD)
    with pytest.raises(AlreadyExists):
        folder.create(RECORD)


def test_missing_vdisk_is_named() -> None:
    folder = Folder(pool(), "/pool")
    with pytest.raises(NotFound, match="nosuch"):
        folder.record("nosuch")
    with pytest.raises(NotFound, match="nosuch"):
        folder.delete("nosuch")


class Watched(KernelDisk):
    """Remembers which folders were synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync_folder(self, path: str) -> None:
        self.synced.append(path)
        super().sync_folder(path)


def test_new_folder_of_vdisks_is_synced_in_all_that_hold_it(tmp_path: Path) -> None:
    disk = Watched()
    os.close(Folder(disk, f"{tmp_path}/a/b").lock())
    assert disk.synced == [str(tmp_path), f"{tmp_path}/a"]
    os.close(Folder(disk, f"{tmp_path}/a/b").lock())
    assert len(disk.synced) == 2
