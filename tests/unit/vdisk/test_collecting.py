"""Collections of whole folders: damaged vdisks, keys that are missing, files of slots that are empty."""

import asyncio
import hashlib
import random
import threading
from collections.abc import Iterator

import pytest

from g8node.errors import Unavailable
from g8node.linux.diskfile import write_whole
from g8node.runtime import blocking
from g8node.vdisk import collect as collect_module
from g8node.vdisk import pool as pool_module
from g8node.vdisk import segments as segments_module
from g8node.vdisk.collecting import collect
from g8node.vdisk.dedup import DedupVdisk
from g8node.vdisk.folder import Folder
from g8node.vdisk.record import Record, encode
from g8node.vdisk.vdisks import Vdisks
from g8node.vdisk.volume import Volume
from tests.support.powerloss import MemoryDisk

BLOCK = 4096
BLOCKS = 64
DATA = random.Random(8).randbytes(BLOCKS * BLOCK)
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pool_module, "_WINDOW_SLOTS", 512)
    for module in (segments_module, collect_module):
        monkeypatch.setattr(module, "SLOTS", 512)
    yield
    blocking.close()


@pytest.fixture
def disk() -> MemoryDisk:
    made = MemoryDisk()
    made.make_folder("/pool")
    return made


def record(name: str, number: int, **more: object) -> Record:
    fields = {"id": name, "type": "boot", "size": BLOCKS * BLOCK, "storage": "dedup", "number": number}
    return Record(**{**fields, **more})  # type: ignore[arg-type]


def opened(folder: Folder, name: str) -> Volume:
    volume = folder.open(folder.record(name))
    assert isinstance(volume, Volume)
    return volume


def write(folder: Folder, name: str, data: bytes, offset: int = 0) -> None:
    volume = opened(folder, name)
    volume.write(offset, data)
    volume.close()


def read(folder: Folder, name: str, length: int = BLOCKS * BLOCK) -> bytes:
    volume = opened(folder, name)
    data = bytearray(length)
    volume.read(0, memoryview(data))
    now = bytearray(BLOCK)
    assert volume.read_now(0, memoryview(now))
    assert now == data[:BLOCK]
    assert list(volume.problems()) == []
    volume.close()
    return bytes(data)


def two(folder: Folder) -> None:
    """`hurt` has four blocks, `well` had four others, two of which were overwritten."""
    for number, name in enumerate(("hurt", "well"), 1):
        folder.create(record(name, number))
    write(folder, "hurt", DATA[: 4 * BLOCK])
    write(folder, "well", DATA[4 * BLOCK : 8 * BLOCK])
    write(folder, "well", DATA[8 * BLOCK : 10 * BLOCK])


async def test_rate_is_kept_by_pauses(disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least what is given back, and the hashes of two vdisks, are paid for."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    folder = Folder(disk, "/pool")
    two(folder)
    found = await collect(folder, "4096", 1000)
    assert found["freed"] == 2 * BLOCK
    assert len(pauses) > 2
    assert sum(pauses) >= 2 * BLOCK / 1000
    pauses.clear()
    await collect(folder, "4096", 0)
    assert sum(pauses) == 0


async def test_damaged_vdisk_keeps_its_content_and_nobody_elses(disk: MemoryDisk) -> None:
    folder = Folder(disk, "/pool")
    two(folder)
    write_whole(disk, "/pool/hurt/vdisk.json", b"{}")
    found = await collect(folder, "4096", 0)
    assert (found["freed"], found["kept"]) == (2 * BLOCK, 8 * BLOCK)
    assert "'hurt' is damaged" in found["problem"]
    write_whole(disk, "/pool/hurt/vdisk.json", encode(record("hurt", 1)))
    assert read(folder, "hurt", 4 * BLOCK) == DATA[: 4 * BLOCK]
    assert (await collect(folder, "4096", 0))["problem"] == ""


async def test_vdisk_that_is_damaged_while_it_is_written_to_keeps_all_it_has(disk: MemoryDisk) -> None:
    folder = Folder(disk, "/pool")
    two(folder)
    hurt = opened(folder, "hurt")
    hurt.write(10 * BLOCK, DATA[20 * BLOCK : 21 * BLOCK])
    write_whole(disk, "/pool/hurt/vdisk.json", b"{}")
    assert (await collect(folder, "4096", 0))["freed"] == 2 * BLOCK
    data = bytearray(BLOCK)
    hurt.read(10 * BLOCK, memoryview(data))
    assert data == DATA[20 * BLOCK : 21 * BLOCK]
    hurt.close()


async def test_damaged_vdisk_without_an_index_keeps_everything(disk: MemoryDisk) -> None:
    folder = Folder(disk, "/pool")
    two(folder)
    write_whole(disk, "/pool/hurt/vdisk.json", b"{}")
    disk.unlink("/pool/hurt/index")
    found = await collect(folder, "4096", 0)
    assert found["freed"] == 0
    assert "nobody knows" in found["problem"]
    assert read(folder, "well", 2 * BLOCK) == DATA[8 * BLOCK : 10 * BLOCK]


async def test_damaged_plain_vdisk_keeps_nothing(disk: MemoryDisk) -> None:
    folder = Folder(disk, "/pool")
    two(folder)
    folder.create(Record(id="plain", type="db", size=BLOCK))
    write_whole(disk, "/pool/plain/vdisk.json", b"{}")
    found = await collect(folder, "4096", 0)
    assert (found["freed"], found["problem"]) == (2 * BLOCK, "")


async def test_file_in_which_nothing_is_left_is_removed(disk: MemoryDisk) -> None:
    folder = Folder(disk, "/pool")
    folder.create(record("vd", 1))
    dice = random.Random(1)
    write(folder, "vd", DATA)
    for _ in range(30):
        write(folder, "vd", dice.randbytes(BLOCKS * BLOCK // 2))
    before = disk.names("/pool/.content/4096")
    now = read(folder, "vd")
    await collect(folder, "4096", 0)
    files = [name for name in disk.names("/pool/.content/4096") if name.startswith("seg.")]
    assert len([name for name in before if name.startswith("seg.")]) > len(files)
    assert read(folder, "vd") == now
    write(folder, "vd", DATA)
    assert read(folder, "vd") == DATA
    assert (await collect(folder, "4096", 0))["problem"] == ""
    assert read(Folder(disk, "/pool"), "vd") == DATA


# Encrypted ones


@pytest.fixture
def sealed(disk: MemoryDisk) -> Folder:
    folder = Folder(disk, "/pool", KEY)
    for number, name in enumerate(("one", "two"), 1):
        folder.create(folder.sealed(record(name, number)))
    return folder


def pool_of(folder: Folder, name: str = "one") -> str:
    return folder.record(name).pool


def test_equal_content_of_one_key_is_kept_once(sealed: Folder) -> None:
    one, other = opened(sealed, "one"), opened(sealed, "two")
    one.write(0, DATA)
    other.write(0, DATA)
    assert list(other._mapping.range(0, BLOCKS)) == list(one._mapping.range(0, BLOCKS))
    for volume in (one, other):
        volume.close()
    assert read(sealed, "two") == DATA


def test_nothing_of_the_content_or_its_hash_is_on_the_disk(disk: MemoryDisk, sealed: Folder) -> None:
    write(sealed, "one", DATA)
    text = b""
    for name in disk.names(f"/pool/.content/{pool_of(sealed)}"):
        file = disk.open(f"/pool/.content/{pool_of(sealed)}/{name}")
        data = bytearray(file.size())
        file.read(0, memoryview(data))
        text += data
    assert len(text) > len(DATA)
    for at in range(0, len(DATA), BLOCK):
        assert DATA[at : at + 64] not in text
        assert hashlib.blake2b(DATA[at : at + BLOCK], digest_size=32).digest()[:8] not in text
    assert KEY not in text


def test_same_content_of_two_keys_has_nothing_in_common(disk: MemoryDisk, sealed: Folder) -> None:
    write(sealed, "one", DATA)
    other = Folder(disk, "/pool", OTHER)
    other.create(other.sealed(record("stranger", 3)))
    write(other, "stranger", DATA)
    assert pool_of(other, "stranger") != pool_of(sealed)
    assert read(other, "stranger") == DATA
    with pytest.raises(Unavailable, match="another key"):
        opened(other, "one")
    with pytest.raises(Unavailable, match="no key"):
        opened(Folder(disk, "/pool"), "one")


async def test_content_without_its_key_is_left_alone_and_told(disk: MemoryDisk, sealed: Folder) -> None:
    write(sealed, "one", DATA)
    sealed.delete("one")
    found = await collect(Folder(disk, "/pool"), f"4096-{pool_of(sealed, 'two')[5:]}", 0)
    assert found == {
        "block_size": BLOCK,
        "encrypted": True,
        "freed": 0,
        "kept": 0,
        "problem": "the content is encrypted, and there is no key",
    }
    assert (await collect(sealed, pool_of(sealed, "two"), 0))["freed"] == len(DATA)


def test_clone_of_an_encrypted_template_shares_its_content(disk: MemoryDisk, sealed: Folder) -> None:
    write(sealed, "one", DATA)
    sealed.create(sealed.sealed(record("clone", 3, template="one", template_size=BLOCKS * BLOCK)))
    assert read(sealed, "clone") == DATA
    clone, one = opened(sealed, "clone"), opened(sealed, "one")
    assert list(clone._mapping.range(0, BLOCKS)) == list(one._mapping.range(0, BLOCKS))


@pytest.mark.parametrize("block_size", [512, 4096, 16384])
def test_random_work_equals_plain_bytes(disk: MemoryDisk, block_size: int) -> None:
    folder = Folder(disk, "/pool", KEY)
    size = 16 * block_size
    folder.create(folder.sealed(record("vd", 1, size=size, block_size=block_size)))
    dice = random.Random(block_size)
    expected = bytearray(size)
    volume = opened(folder, "vd")
    for step in range(120):
        offset = dice.randrange(size)
        length = min(dice.choice((1, 500, block_size, 3 * block_size)), size - offset)
        data = bytes(length) if step % 5 == 0 else dice.randbytes(length)
        expected[offset : offset + length] = data
        volume.write(offset, data)
        at = dice.randrange(size)
        some = bytearray(min(dice.choice((1, 700, 2 * block_size)), size - at))
        volume.read(at, memoryview(some))
        assert some == expected[at : at + len(some)]
        if volume.read_now(at, memoryview(some)):
            assert some == expected[at : at + len(some)]
    volume.close()
    assert read(folder, "vd", size) == expected


async def test_unencrypted_clone_of_an_encrypted_template_is_refused(disk: MemoryDisk) -> None:
    vdisks = Vdisks("/pool", disk, key=KEY)
    await vdisks.create(record("one", 0), encrypted=True)
    with pytest.raises(Exception, match="template"):
        await vdisks.create(record("clone", 0, template="one"))
    made = await vdisks.create(record("clone", 0, template="one"), encrypted=True)
    assert made.seal is not None


# Checkpoints


async def test_batch_does_not_wait_for_a_checkpoint(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(disk, "/pool")
    folder.create(record("vd", 1, size=1024 * BLOCK))
    volume = opened(folder, "vd")
    begun, go_on = threading.Event(), threading.Event()
    add = volume._pool.hints.add

    def slow(items: object) -> None:
        begun.set()
        assert go_on.wait(60)
        add(items)  # type: ignore[arg-type]

    monkeypatch.setattr(volume._pool.hints, "add", slow)
    vdisk = DedupVdisk(volume, folder.record("vd"))
    dice = random.Random(2)
    written = b""
    while len(written) < 400 * BLOCK:
        data = dice.randbytes(16 * BLOCK)
        assert await vdisk.write_many([(len(written), memoryview(data))]) == [None]
        written += data
    assert await asyncio.to_thread(begun.wait, 60)
    assert volume._pool._start == 256  # the checkpoint has not ended, and all the writes have
    go_on.set()
    await vdisk.close()
    assert read(folder, "vd", len(written)) == written
