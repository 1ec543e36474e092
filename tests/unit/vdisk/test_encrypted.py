"""Encryption at rest."""

import random
import threading
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, Unavailable
from g8node.vdisk.encrypted import EncryptedFile
from g8node.vdisk.folder import Folder
from g8node.vdisk.record import Record
from g8node.vdisk.seal import Seal, new_seal, read_master_key, vdisk_key
from tests.support.powerloss import MemoryDisk

SIZE = 64 << 10
KEY = bytes(range(64))
MASTER = b"m" * 32


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.open("/data", create=True).truncate(SIZE)
    return disk


def read(file: EncryptedFile, offset: int = 0, length: int = SIZE, *, now: bool = False) -> bytes:
    data = memoryview(bytearray(length))
    if now:
        assert file.read_now(offset, data)
    else:
        file.read(offset, data)
    return bytes(data)


@pytest.mark.parametrize("seed", range(5))
def test_random_work_equals_a_plain_file(disk: MemoryDisk, seed: int) -> None:
    dice = random.Random(seed)
    file, plain = EncryptedFile(disk.open("/data"), KEY), bytearray(SIZE)
    for _ in range(150):
        offset = dice.randrange(SIZE)
        length = min(dice.choice((1, 511, 512, 4096, 4097, 20_000)), SIZE - offset)
        data = dice.randbytes(length)
        what = dice.randrange(4)
        if what == 0:
            file.punch(offset, length)
            data = bytes(length)
        elif what == 1:
            file.zero(offset, length, fast=False)
            data = bytes(length)
        else:
            file.write(offset, data)
        plain[offset : offset + length] = data
        at = dice.randrange(SIZE)
        count = min(dice.randrange(1, 10_000), SIZE - at)
        assert read(file, at, count, now=dice.random() < 0.5) == plain[at : at + count]
    assert read(file) == plain
    assert read(EncryptedFile(disk.open("/data"), KEY)) == plain


def test_nothing_of_the_plain_text_is_on_the_disk(disk: MemoryDisk) -> None:
    EncryptedFile(disk.open("/data"), KEY).write(100, b"secret words " * 1000)
    raw = memoryview(bytearray(SIZE))
    disk.open("/data").read(0, raw)
    assert b"secret" not in bytes(raw)
    assert bytes(raw[:4096]) != bytes(raw[4096:8192])


def test_equal_blocks_differ_on_the_disk(disk: MemoryDisk) -> None:
    EncryptedFile(disk.open("/data"), KEY).write(0, b"a" * 8192)
    raw = memoryview(bytearray(8192))
    disk.open("/data").read(0, raw)
    assert len({bytes(raw[at : at + 16]) for at in range(0, 8192, 16)}) == 512


def test_another_key_reads_nothing(disk: MemoryDisk) -> None:
    EncryptedFile(disk.open("/data"), KEY).write(0, b"a" * 4096)
    assert read(EncryptedFile(disk.open("/data"), KEY[::-1]), 0, 4096) != b"a" * 4096


def test_file_of_half_a_unit_grows(disk: MemoryDisk) -> None:
    inner = disk.open("/small", create=True)
    inner.truncate(1536)
    file = EncryptedFile(inner, KEY)
    file.write(0, b"x" * 1536)
    assert inner.size() == 1536
    disk.open("/small").truncate(8192)
    assert read(file, 0, 8192) == b"x" * 1536 + bytes(8192 - 1536)
    file.write(1000, b"y" * 3000)
    assert read(file, 0, 8192) == b"x" * 1000 + b"y" * 3000 + bytes(8192 - 4000)


def test_neighbours_in_one_unit_do_not_lose_each_other(disk: MemoryDisk) -> None:
    file = EncryptedFile(disk.open("/data"), KEY)

    def work(part: int) -> None:
        for number in range(50):
            file.write(part * 512, bytes([number]) * 512)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(file, 0, 4096) == bytes([49]) * 4096


def test_key_of_a_vdisk_needs_the_master_key() -> None:
    seal = new_seal(MASTER)
    assert len(vdisk_key(MASTER, seal, "vd")) == 64
    assert vdisk_key(MASTER, seal, "vd") != vdisk_key(MASTER, new_seal(MASTER), "vd")
    with pytest.raises(Unavailable, match="another key"):
        vdisk_key(b"n" * 32, seal, "vd")
    with pytest.raises(Unavailable, match="no key"):
        vdisk_key(b"", seal, "vd")


def test_seal_without_a_master_key_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no key"):
        Folder(MemoryDisk(), "/").sealed(Record(id="vd", type="db", size=4096))


def test_key_is_not_in_the_record() -> None:
    seal = new_seal(MASTER)
    assert isinstance(seal, Seal)
    assert MASTER.hex() not in repr(seal)
    assert vdisk_key(MASTER, seal, "vd").hex()[:16] not in repr(seal)


@pytest.mark.parametrize("text", ["", "xyz", "00" * 31, "00" * 65, "é" * 64])
def test_bad_key_file_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as refused:
        read_master_key(str(path))
    assert not text or text not in str(refused.value)


def test_key_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ab" * 32 + "\n# comment\n")
    assert read_master_key(str(tmp_path / "key")) == b"\xab" * 32
