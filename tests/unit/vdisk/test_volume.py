"""Deduplicated vdisks: what the original got wrong (block-storage.md 2.4, 2.5), and what they promise."""

import errno
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from g8node.errors import Unavailable
from g8node.linux.diskfile import DiskFile, KernelDisk, read_whole, write_whole
from g8node.vdisk import pool as pool_module
from g8node.vdisk.collect import Collection
from g8node.vdisk.folder import Folder
from g8node.vdisk.mapping import CLEARED
from g8node.vdisk.record import Record
from g8node.vdisk.volume import Volume
from tests.support.powerloss import MemoryDisk, collect

BLOCK = 4096
BLOCKS = 64
DATA = random.Random(5).randbytes(BLOCKS * BLOCK)


def record(name: str, number: int, blocks: int = BLOCKS, **more: object) -> Record:
    fields = {"id": name, "type": "boot", "size": blocks * BLOCK, "storage": "dedup", "number": number}
    return Record(**{**fields, **more})  # type: ignore[arg-type]


def opened(folder: Folder, name: str) -> Volume:
    volume = folder.open(folder.record(name))
    assert isinstance(volume, Volume)
    return volume


def read(volume: Volume, offset: int = 0, length: int = BLOCK) -> bytes:
    data = bytearray(length)
    volume.read(offset, memoryview(data))
    now = bytearray(length)
    if volume.read_now(offset, memoryview(now)):
        assert now == data
    return bytes(data)


@pytest.fixture(autouse=True)
def _small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_WINDOW_SLOTS", 512)


@pytest.fixture
def folder() -> Folder:
    disk = MemoryDisk()
    disk.make_folder("/pool")
    made = Folder(disk, "/pool")
    made.create(record("vd", 1))
    return made


@pytest.fixture
def volume(folder: Folder) -> Iterator[Volume]:
    made = opened(folder, "vd")
    yield made
    made.close()


def slots(volume: Volume) -> int:
    return volume._pool._next


def test_same_content_is_kept_once(volume: Volume) -> None:
    volume.write(0, DATA[:BLOCK] * 8)
    values = volume._mapping.range(0, 8)
    assert len(set(values)) == 1
    assert read(volume, 5 * BLOCK) == DATA[:BLOCK]


def test_same_content_is_found_after_a_reopen_and_by_other_vdisks(folder: Folder) -> None:
    one = opened(folder, "vd")
    one.write(0, DATA)
    one.close()
    folder.create(record("two", 2))
    one, two = opened(folder, "vd"), opened(folder, "two")
    two.write(0, DATA)
    assert list(two._mapping.range(0, BLOCKS)) == list(one._mapping.range(0, BLOCKS))
    assert read(two, 0, len(DATA)) == DATA
    one.close()
    two.close()


def test_zeros_take_no_block(volume: Volume) -> None:
    before = slots(volume)
    volume.write(0, bytes(16 * BLOCK))
    assert slots(volume) == before
    volume.write(0, DATA[:BLOCK])
    volume.write(0, bytes(BLOCK))
    assert read(volume) == bytes(BLOCK)
    assert volume.extents(0, BLOCK, 10) == [(BLOCK, False)]


def test_part_of_a_block_keeps_the_rest(volume: Volume) -> None:
    volume.write(0, DATA[: 2 * BLOCK])
    volume.write(BLOCK - 10, b"x" * 20)
    assert read(volume, 0, 2 * BLOCK) == DATA[: BLOCK - 10] + b"x" * 20 + DATA[BLOCK + 10 : 2 * BLOCK]
    errors = volume.write_many([(8, memoryview(b"a" * 8)), (16, memoryview(b"b" * 8))])
    assert errors == [None, None]
    assert read(volume, 0, 32) == DATA[:8] + b"a" * 8 + b"b" * 8 + DATA[24:32]


@pytest.mark.parametrize(("blocks", "single"), [(3, 16384), (5000, 16384), (5000, 1000)])
def test_punched_range_reads_as_zeros_to_the_byte(
    folder: Folder, blocks: int, single: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g8node.vdisk.volume._SINGLE_CLEARS", single)
    folder.create(record("long", 2, 5100))
    volume = opened(folder, "long")
    content = (DATA * 80)[: 5100 * BLOCK]
    volume.write(0, content)
    volume.punch(100, blocks * BLOCK)
    expected = content[:100] + bytes(blocks * BLOCK) + content[100 + blocks * BLOCK :]
    assert read(volume, 0, len(content)) == expected
    volume.close()
    volume = opened(folder, "long")
    assert read(volume, 0, len(content)) == expected
    volume.close()


@pytest.mark.parametrize("block_size", [512, 2048, 64 << 10, 128 << 10])
def test_blocks_of_every_size_hold_what_was_written(folder: Folder, block_size: int) -> None:
    size = 8 * block_size
    folder.create(Record(id="s", type="boot", size=size, block_size=block_size, storage="dedup", number=9))
    dice = random.Random(block_size)
    expected = bytearray(size)
    volume = opened(folder, "s")
    for step in range(60):
        offset = dice.randrange(size)
        length = min(dice.choice((1, 500, block_size, 3 * block_size)), size - offset)
        data = bytes(length) if step % 4 == 0 else dice.randbytes(length)
        expected[offset : offset + length] = data
        if step % 8 == 0:
            volume.punch(offset, length)
        else:
            volume.write(offset, data)
        if step % 20 == 0:
            collect(volume._pool, (9,))
    assert read(volume, 0, size) == expected
    assert list(volume.problems()) == []
    volume.close()
    assert read(opened(folder, "s"), 0, size) == expected


def test_volume_grows_while_it_is_open(folder: Folder, volume: Volume) -> None:
    volume.write(0, DATA)
    grown = folder.grow(folder.record("vd"), 2 * len(DATA))
    folder.open_more(grown, volume)
    assert volume.size() == 2 * len(DATA)
    volume.write(len(DATA), DATA[::-1])
    assert read(volume, 0, 2 * len(DATA)) == DATA + DATA[::-1]
    assert folder.problems("vd") == []


def test_vdisk_that_grew_while_it_was_closed_can_be_written_to(folder: Folder, volume: Volume) -> None:
    folder.create(record("two", 2))
    opened(folder, "two").close()  # its mapping stays with the pool, which `volume` keeps open
    folder.grow(folder.record("two"), 2 * len(DATA))
    two = opened(folder, "two")
    two.write(len(DATA), DATA)
    volume._pool.checkpoint()
    assert read(two, len(DATA), len(DATA)) == DATA
    two.close()


def test_damaged_vdisk_keeps_others_from_nothing_but_a_replay_of_its_changes(folder: Folder) -> None:
    for number, name in ((2, "other"), (3, "hurt")):
        folder.create(record(name, number))
    disk = folder._disk
    hurt = opened(folder, "hurt")
    hurt.write(0, DATA)
    whole = read_whole(disk, "/pool/hurt/vdisk.json", 4096)
    write_whole(disk, "/pool/hurt/vdisk.json", b"{}")
    crashed = Folder(disk, "/pool")
    with pytest.raises(Unavailable, match="hurt"):
        opened(crashed, "other")
    write_whole(disk, "/pool/hurt/vdisk.json", whole)
    again = opened(crashed, "hurt")
    assert read(again, 0, len(DATA)) == DATA
    again.close()
    write_whole(disk, "/pool/hurt/vdisk.json", b"{}")
    opened(crashed, "other").close()
    numbers, damaged = crashed.numbers("4096")
    assert (sorted(numbers), damaged) == ([1, 2], ["hurt"])


# BUG: content that is missing read as zeros


def lose(volume: Volume, block: int) -> None:
    volume._pool.segments.punch(volume._mapping.get(block), 1)


def test_missing_content_is_an_error_not_zeros(volume: Volume) -> None:
    volume.write(0, DATA[: 4 * BLOCK])
    lose(volume, 1)
    for offset, length in ((BLOCK, BLOCK), (BLOCK + 512, 512), (0, 4 * BLOCK)):
        with pytest.raises(OSError) as error:
            read(volume, offset, length)
        assert error.value.errno == errno.EIO
    assert read(volume, 2 * BLOCK) == DATA[2 * BLOCK : 3 * BLOCK]
    assert list(volume.problems()) == [f"block 1: slot {volume._mapping.get(1)} is damaged"]


def test_zeros_in_a_part_of_a_block_are_no_error(volume: Volume) -> None:
    volume.write(512, b"x" * 100)
    assert read(volume, 1024, 512) == bytes(512)


def test_segment_that_is_gone_is_an_error(folder: Folder) -> None:
    volume = opened(folder, "vd")
    volume.write(0, DATA[:BLOCK])
    volume.close()
    folder._disk.unlink("/pool/.content/4096/seg.000000")
    volume = opened(folder, "vd")
    with pytest.raises(OSError, match="missing"):
        read(volume)
    assert "missing" in next(volume.problems())
    volume.close()


# BUG: the read before a partial write failed, and was ignored


def test_partial_write_over_missing_content_is_an_error(volume: Volume) -> None:
    volume.write(0, DATA[:BLOCK])
    lose(volume, 0)
    bad, good = volume.write_many([(10, memoryview(b"xy")), (BLOCK, memoryview(DATA[:BLOCK]))])
    assert isinstance(bad, OSError)
    assert good is None
    with pytest.raises(OSError):
        read(volume)
    volume.write(0, DATA[BLOCK : 2 * BLOCK])  # a whole block needs nothing of the old one
    assert read(volume) == DATA[BLOCK : 2 * BLOCK]


# CRITICAL: an error of the metadata was taken for empty metadata, and written back as such


class Failing:
    """A `DiskFile` that fails while its disk says so."""

    def __init__(self, inner: DiskFile, disk: "FailingDisk", path: str) -> None:
        self._inner, self._disk, self._path = inner, disk, path

    def __getattr__(self, name: str) -> object:
        if name in self._disk.failing and self._path.endswith(self._disk.suffix):
            raise OSError(self._disk.code, "the disk is broken")
        return getattr(self._inner, name)


class FailingDisk(MemoryDisk):
    failing: tuple[str, ...] = ()
    suffix = "/index"
    code = errno.EIO

    def open(self, path: str, *, create: bool = False) -> DiskFile:  # type: ignore[override]
        return Failing(super().open(path, create=create), self, path)  # type: ignore[return-value]


@pytest.fixture
def failing() -> FailingDisk:
    disk = FailingDisk()
    disk.make_folder("/pool")
    return disk


def test_mapping_that_cannot_be_read_is_an_error_and_loses_nothing(failing: FailingDisk) -> None:
    folder = Folder(failing, "/pool")
    folder.create(record("vd", 1))
    volume = opened(folder, "vd")
    volume.write(0, DATA)
    volume.close()
    volume = opened(folder, "vd")
    failing.failing = ("read", "read_now")
    with pytest.raises(OSError, match="broken"):
        read(volume)
    (error,) = volume.write_many([(10, memoryview(b"xy"))])
    assert isinstance(error, OSError)
    volume.write(BLOCK, DATA[:BLOCK])  # a whole block does not need the old mapping
    failing.failing = ()
    volume.close()
    volume = opened(folder, "vd")
    assert read(volume, 0, len(DATA)) == DATA[:BLOCK] * 2 + DATA[2 * BLOCK :]
    volume.close()


# BUG: a flush that failed emptied the cache of mappings


def test_full_disk_at_a_checkpoint_loses_no_mapping(failing: FailingDisk) -> None:
    folder = Folder(failing, "/pool")
    folder.create(record("vd", 1))
    volume = opened(folder, "vd")
    volume.write(0, DATA)
    failing.failing, failing.code = ("write",), errno.ENOSPC
    with pytest.raises(OSError, match="broken"):
        volume._pool.checkpoint()
    assert read(volume, 0, len(DATA)) == DATA
    volume.write(0, DATA[BLOCK : 2 * BLOCK])
    failing.failing = ()
    volume._pool.checkpoint()
    assert read(volume, 0, len(DATA)) == DATA[BLOCK : 2 * BLOCK] + DATA[BLOCK:]
    volume.close()


def test_failed_sync_is_final_until_the_pool_is_opened_anew(failing: FailingDisk) -> None:
    folder = Folder(failing, "/pool")
    folder.create(record("vd", 1))
    volume = opened(folder, "vd")
    volume.write(0, DATA)
    failing.failing, failing.suffix = ("sync",), "/seg.000000"
    with pytest.raises(OSError, match="broken"):
        volume.sync()
    failing.failing = ()
    with pytest.raises(Unavailable, match="earlier write failed"):
        volume.sync()
    volume.close()
    volume = opened(folder, "vd")
    volume.sync()
    assert read(volume, 0, len(DATA)) == DATA
    volume.close()


def test_full_disk_refuses_the_write_and_keeps_the_old_content(failing: FailingDisk) -> None:
    folder = Folder(failing, "/pool")
    folder.create(record("vd", 1))
    volume = opened(folder, "vd")
    volume.write(0, DATA[:BLOCK])
    failing.failing, failing.suffix, failing.code = ("write",), "/seg.000000", errno.ENOSPC
    (error,) = volume.write_many([(0, memoryview(DATA[BLOCK : 2 * BLOCK]))])
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    failing.failing = ()
    assert read(volume) == DATA[:BLOCK]
    volume.write(BLOCK, DATA[BLOCK : 2 * BLOCK])  # must not be taken for one that the pool has
    volume.close()
    volume = opened(folder, "vd")
    assert read(volume, 0, 2 * BLOCK) == DATA[: 2 * BLOCK]
    volume.close()


# Templates


@pytest.fixture
def clone(folder: Folder) -> Iterator[Volume]:
    template = opened(folder, "vd")
    template.write(0, DATA[: 4 * BLOCK])
    template.close()
    folder.create(record("clone", 2, 2 * BLOCKS, template="vd", template_size=BLOCKS * BLOCK))
    made = opened(folder, "clone")
    yield made
    made.close()


def test_clone_shows_its_template(clone: Volume) -> None:
    assert read(clone, 0, 6 * BLOCK) == DATA[: 4 * BLOCK] + bytes(2 * BLOCK)
    assert read(clone, BLOCKS * BLOCK) == bytes(BLOCK)


def test_block_of_the_template_is_copied_on_its_first_read(clone: Volume) -> None:
    read(clone, 512, 512)
    assert clone._mapping.get(0) > CLEARED
    clone._template = None
    assert read(clone) == DATA[:BLOCK]
    with pytest.raises(OSError, match="template"):
        read(clone, BLOCK)


def test_template_that_is_missing_is_an_error_not_zeros(folder: Folder, clone: Volume) -> None:
    clone.write(BLOCK, DATA[:BLOCK])
    clone.close()
    folder.delete("vd")
    clone = opened(folder, "clone")
    with pytest.raises(OSError, match="template"):
        read(clone)
    (error,) = clone.write_many([(5, memoryview(b"xy"))])
    assert isinstance(error, OSError)
    assert read(clone, BLOCK) == DATA[:BLOCK]
    assert read(clone, BLOCKS * BLOCK) == bytes(BLOCK)
    clone.write(0, DATA[:BLOCK])
    assert read(clone) == DATA[:BLOCK]


@pytest.mark.parametrize("blocks", [1, BLOCKS])
def test_zeroed_block_never_shows_the_template_again(
    folder: Folder, clone: Volume, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g8node.vdisk.volume._SINGLE_CLEARS", 16)
    clone.punch(0, blocks * BLOCK)
    clone.write(2 * BLOCK, bytes(BLOCK))
    expected = bytes(BLOCK) + (DATA[BLOCK : 2 * BLOCK] if blocks == 1 else bytes(BLOCK)) + bytes(BLOCK)
    assert read(clone, 0, 3 * BLOCK) == expected
    clone.close()
    clone = opened(folder, "clone")
    assert read(clone, 0, 3 * BLOCK) == expected


def test_partial_write_keeps_the_templates_rest(clone: Volume) -> None:
    clone.write(100, b"xyz")
    assert read(clone) == DATA[:100] + b"xyz" + DATA[103:BLOCK]


def test_block_status_of_a_clone_is_that_of_what_it_shows(clone: Volume) -> None:
    clone.punch(BLOCK, BLOCK)
    clone.write(10 * BLOCK, DATA[:BLOCK])
    found = clone.extents(512, 2 * BLOCKS * BLOCK - 512, 100)
    assert sum(size for size, _ in found) == 2 * BLOCKS * BLOCK - 512
    assert found[:2] == [(BLOCK - 512, True), (BLOCK, False)]
    assert found[-1] == ((2 * BLOCKS - 11) * BLOCK, False)


def test_write_during_the_copy_of_a_block_wins(clone: Volume) -> None:
    template = clone._template
    assert template is not None

    class Slow:
        def read(self, offset: int, into: memoryview) -> None:
            clone.write(offset, b"n" * BLOCK)
            template.read(offset, into)

    clone._template = Slow()  # type: ignore[assignment]
    clone.read(0, memoryview(bytearray(1)))
    clone._template = template
    assert read(clone) == b"n" * BLOCK


def test_copy_has_the_blocks_that_the_clone_never_read(folder: Folder, clone: Volume) -> None:
    clone.write(BLOCK, DATA[:BLOCK])
    clone.close()
    folder.copy(folder.record("clone"), record("copy", 3, 2 * BLOCKS))
    copy = opened(folder, "copy")
    assert read(copy, 0, 4 * BLOCK) == DATA[:BLOCK] * 2 + DATA[2 * BLOCK : 4 * BLOCK]
    copy.close()
    assert opened(folder, "clone")._mapping.get(0) == 0


def test_plain_vdisk_is_a_template_too(folder: Folder) -> None:
    folder.create(Record(id="plain", type="db", size=BLOCKS * BLOCK))
    file = folder.open(folder.record("plain"))
    file.write(0, DATA[:BLOCK])
    file.close()
    folder.create(record("clone", 2, template="plain", template_size=BLOCKS * BLOCK))
    clone = opened(folder, "clone")
    assert read(clone, 0, 2 * BLOCK) == DATA[:BLOCK] + bytes(BLOCK)
    assert clone._mapping.get(0) > CLEARED
    clone.close()


# Collection


def test_collection_frees_what_nobody_has(folder: Folder, volume: Volume) -> None:
    volume.write(0, DATA[: 8 * BLOCK])
    volume.write(0, DATA[8 * BLOCK : 12 * BLOCK])
    run = collect(volume._pool, (1,))
    assert (run.freed, run.kept) == (4, 8)
    assert read(volume, 0, 8 * BLOCK) == DATA[8 * BLOCK : 12 * BLOCK] + DATA[4 * BLOCK : 8 * BLOCK]
    assert (collect(volume._pool, (1,)).freed, list(volume.problems())) == (0, [])


def test_content_that_was_freed_is_not_found_again(folder: Folder, volume: Volume) -> None:
    volume.write(0, DATA[:BLOCK])
    volume.punch(0, BLOCK)
    collect(volume._pool, (1,))
    volume.write(BLOCK, DATA[:BLOCK])
    assert read(volume, BLOCK) == DATA[:BLOCK]


def test_collection_that_was_killed_is_done_by_the_next_one(volume: Volume) -> None:
    volume.write(0, DATA[:BLOCK])
    volume.punch(0, BLOCK)
    run = Collection(volume._pool)
    run.begin()
    run.settle()
    (first, count), *_ = run.groups()
    for group in range(first, first + count, 256):
        run._condemn(group)
    run.end()
    assert collect(volume._pool, (1,)).freed == 1
    assert volume._pool.segments.entry(256) == bytes(64)


def write_and_read(volume: Volume, seed: int) -> None:
    """Blocks that no other thread has, with contents that others have, too."""
    dice = random.Random(seed)
    first = seed // 2 * 32
    now = [bytes(BLOCK)] * 32
    for _ in range(200):
        at = dice.randrange(32)
        now[at] = dice.choice((DATA[at * 64 :][:BLOCK], DATA[:BLOCK], bytes(BLOCK), dice.randbytes(BLOCK)))
        volume.write((first + at) * BLOCK, now[at])
        at = dice.randrange(32)
        assert read(volume, (first + at) * BLOCK) == now[at]


def test_collection_goes_on_beside_writers(tmp_path: Path) -> None:
    folder = Folder(KernelDisk(), str(tmp_path))
    for number, name in enumerate(("a", "b"), 1):
        folder.create(record(name, number))
    volumes = [opened(folder, name) for name in ("a", "b")]
    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(write_and_read, volumes[seed % 2], seed) for seed in range(4)]
        while not all(writer.done() for writer in writers):
            collect(volumes[0]._pool, (1, 2))
        for writer in writers:
            writer.result()
    assert [problem for volume in volumes for problem in volume.problems()] == []
    for volume in volumes:
        volume.close()


def test_writers_of_parts_of_one_block_lose_nothing(volume: Volume) -> None:
    def write(part: int) -> None:
        for step in range(100):
            volume.write(part * 512, bytes([part + 1, step]) * 256)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(volume) == b"".join(bytes([part + 1, 99]) * 256 for part in range(8))


def test_deleted_vdisk_gives_its_content_back(folder: Folder, volume: Volume) -> None:
    folder.create(record("two", 2))
    two = opened(folder, "two")
    two.write(0, DATA[:BLOCK])
    volume.write(0, DATA[: 2 * BLOCK])
    two.write(BLOCK, DATA[9 * BLOCK : 10 * BLOCK])
    two.close()
    folder.delete("two")
    run = collect(volume._pool, (1,))
    assert (run.freed, run.kept) == (1, 2)
