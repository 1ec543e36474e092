"""Plain vdisks over a template (block-storage.md 2.5): what the original got wrong, and what they promise."""

import errno
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from g8node.errors import Unavailable
from g8node.linux.diskfile import DiskFile
from g8node.vdisk import overlay as overlay_module
from g8node.vdisk.folder import Folder
from g8node.vdisk.overlay import Overlay
from g8node.vdisk.owned import Owned, file_size
from g8node.vdisk.record import Record
from tests.support.powerloss import MemoryDisk

BLOCK = 4096
BLOCKS = 16
DATA = random.Random(6).randbytes(4 * BLOCK)
KEY = bytes(range(32))


@pytest.fixture
def folder() -> Folder:
    disk = MemoryDisk()
    disk.make_folder("/pool")
    made = Folder(disk, "/pool", KEY)
    made.create(Record(id="image", type="db", size=BLOCKS * BLOCK))
    file = made.open(made.record("image"))
    file.write(0, DATA)
    file.close()
    made.create(
        Record(id="clone", type="db", size=2 * BLOCKS * BLOCK, template="image", template_size=BLOCKS * BLOCK)
    )
    return made


def opened(folder: Folder, name: str = "clone") -> Overlay:
    record = folder.record(name)
    file = folder.plain(record, folder.open(record))
    assert isinstance(file, Overlay)
    return file


@pytest.fixture
def clone(folder: Folder) -> Iterator[Overlay]:
    made = opened(folder)
    yield made
    made.close()


def read(file: DiskFile, offset: int = 0, length: int = BLOCK) -> bytes:
    data = bytearray(length)
    file.read(offset, memoryview(data))
    now = bytearray(length)
    if file.read_now(offset, memoryview(now)):
        assert now == data
    return bytes(data)


def own(clone: Overlay) -> set[int]:
    found, at = set(), 0
    for blocks, mine in clone._owned.runs(0, BLOCKS):
        found |= set(range(at, at + blocks)) if mine else set()
        at += blocks
    return found


def test_clone_shows_its_template(clone: Overlay) -> None:
    assert read(clone, 100, 6 * BLOCK) == DATA[100:] + bytes(2 * BLOCK + 100)
    assert read(clone, (BLOCKS - 1) * BLOCK, 2 * BLOCK) == bytes(2 * BLOCK)


def test_block_of_the_template_is_copied_on_its_first_read(folder: Folder, clone: Overlay) -> None:
    read(clone, 512, 512)
    clone.sync()
    assert own(clone) == {0}
    clone._template = None
    assert read(clone) == DATA[:BLOCK]
    with pytest.raises(OSError, match="template"):
        read(clone, BLOCK)


def test_what_was_copied_is_kept_at_the_end(folder: Folder, clone: Overlay) -> None:
    read(clone, 0, 4 * BLOCK)
    clone.close()
    assert own(opened(folder)) == {0, 1, 2, 3}


def test_copies_are_bounded(clone: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_module, "_ADOPTED", 2)
    read(clone, 0, 4 * BLOCK)
    assert own(clone) == {0, 1, 2, 3}


def test_read_only_clone_copies_nothing(folder: Folder) -> None:
    folder.create(
        Record(
            id="ro",
            type="db",
            size=BLOCKS * BLOCK,
            template="image",
            template_size=BLOCKS * BLOCK,
            read_only=True,
        )
    )
    clone = opened(folder, "ro")
    assert read(clone) == DATA[:BLOCK]
    clone.sync()
    assert own(clone) == set()


def test_template_that_is_missing_is_an_error_not_zeros(folder: Folder, clone: Overlay) -> None:
    clone.write(BLOCK, b"n" * BLOCK)
    clone.close()
    folder.delete("image")
    clone = opened(folder)
    with pytest.raises(OSError, match="template") as raised:
        read(clone)
    assert raised.value.errno == errno.EIO
    first, second = clone.write_many([(5, memoryview(b"xy")), (2 * BLOCK, memoryview(b"w" * BLOCK))])
    assert isinstance(first, OSError)
    assert second is None
    assert read(clone, BLOCK, 2 * BLOCK) == b"n" * BLOCK + b"w" * BLOCK
    assert read(clone, BLOCKS * BLOCK) == bytes(BLOCK)
    assert clone.extents(0, BLOCK, 10) == [(BLOCK, True)]


@pytest.mark.parametrize("how", ["punch", "zero", "write"])
def test_zeroed_block_never_shows_the_template_again(folder: Folder, clone: Overlay, how: str) -> None:
    for offset, length in ((BLOCK, BLOCK), (2 * BLOCK + 10, 20)):
        if how == "punch":
            clone.punch(offset, length)
        elif how == "zero":
            clone.zero(offset, length, fast=False)
        else:
            clone.write(offset, bytes(length))
    expected = bytearray(DATA)
    expected[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    expected[2 * BLOCK + 10 : 2 * BLOCK + 30] = bytes(20)
    assert read(clone, 0, 4 * BLOCK) == expected
    clone.sync()
    clone.close()
    assert read(opened(folder), 0, 4 * BLOCK) == expected


def test_partial_writes_of_one_batch_keep_the_templates_rest(clone: Overlay) -> None:
    writes = [(100, memoryview(b"abc")), (200, memoryview(b"def")), (2 * BLOCK - 2, memoryview(b"wxyz"))]
    assert clone.write_many(writes) == [None, None, None]
    expected = bytearray(DATA)
    expected[100:103], expected[200:203] = b"abc", b"def"
    expected[2 * BLOCK - 2 : 2 * BLOCK + 2] = b"wxyz"
    assert read(clone, 0, 4 * BLOCK) == expected


def test_first_write_over_zeros_of_the_template_needs_no_sync(folder: Folder) -> None:
    syncs = []

    class Inner:
        def write_many(self, writes: list[tuple[int, memoryview]]) -> list[None]:
            return [None] * len(writes)

        def sync(self) -> None:
            syncs.append(1)

    class Template:
        def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
            return [(length, offset < BLOCK)]

    file = MemoryDisk().open("/own", create=True)
    file.truncate(file_size(BLOCKS))
    made = Overlay(Inner(), Owned(file, BLOCKS), Template(), BLOCK, adopts=True)  # type: ignore[arg-type]
    assert made.write_many([(BLOCK, memoryview(DATA[:BLOCK]))]) == [None]
    assert syncs == []
    assert made.write_many([(0, memoryview(DATA[:BLOCK]))]) == [None]
    assert syncs == [1]
    assert own(made) == {0, 1}


def test_failed_sync_of_a_first_write_is_final(clone: Overlay) -> None:
    def fails() -> None:
        raise OSError(errno.EIO, "broken")

    works, clone._inner.sync = clone._inner.sync, fails  # type: ignore[method-assign]
    (error,) = clone.write_many([(0, memoryview(b"n" * BLOCK))])
    assert isinstance(error, OSError)
    assert read(clone) == DATA[:BLOCK]
    clone._inner.sync = works  # type: ignore[method-assign]
    with pytest.raises(OSError, match="broken"):
        clone.sync()


def test_failed_sync_of_the_bits_is_final(clone: Overlay) -> None:
    def fails() -> None:
        raise OSError(errno.EIO, "broken")

    clone.write(0, b"n" * BLOCK)
    works, clone._owned._file.sync = clone._owned._file.sync, fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="broken"):
        clone.sync()
    clone._owned._file.sync = works  # type: ignore[method-assign]
    with pytest.raises(OSError, match="broken"):
        clone.sync()


def test_sync_waits_for_the_bits_that_another_one_is_syncing(clone: Overlay) -> None:
    """Reads sync too, when they have copied much: a flush that comes meanwhile is about the same bits."""
    begun, may_end, done = threading.Event(), threading.Event(), []
    works = clone._owned._file.sync

    def slow() -> None:
        begun.set()
        assert may_end.wait(60)
        works()
        done.append("bits")

    def flush() -> None:
        clone.sync()
        done.append("flush")

    clone.write(0, b"n" * BLOCK)
    clone._owned._file.sync = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(clone.sync)
        assert begun.wait(60)
        second = pool.submit(flush)
        finished, _ = wait([second], 0.2)
        may_end.set()
        first.result(60)
        second.result(60)
    assert not finished
    assert done == ["bits", "flush"]


def test_block_status_of_a_clone_is_that_of_what_it_shows() -> None:
    class Map:
        def __init__(self, *data: int) -> None:
            self.data = data

        def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
            return [(BLOCK, offset // BLOCK in self.data)]

    file = MemoryDisk().open("/own", create=True)
    owned = Owned(file, BLOCKS)
    owned.add(1, 2)
    made = Overlay(Map(2, 20), owned, Map(0, 1, 4), BLOCK, adopts=True)  # type: ignore[arg-type]
    sizes = made.extents(0, 2 * BLOCKS * BLOCK, 100)
    expected = [(1, True), (1, False), (1, True), (1, False), (1, True), (15, False), (1, True), (11, False)]
    assert sizes == [(blocks * BLOCK, data) for blocks, data in expected]
    assert made.extents(0, 2 * BLOCKS * BLOCK, 2) == sizes[:2]


def test_lost_bits_are_told_not_taken_for_the_template(folder: Folder) -> None:
    folder._disk.open("/pool/clone/owned").truncate(1)
    with pytest.raises(Unavailable, match="owned: shorter"):
        opened(folder)


def test_copy_has_the_blocks_that_the_clone_never_read(folder: Folder, clone: Overlay) -> None:
    clone.write(BLOCK, b"n" * BLOCK)
    clone.close()
    folder.copy(folder.record("clone"), Record(id="copy", type="db", size=2 * BLOCKS * BLOCK))
    file = folder.open(folder.record("copy"))
    assert read(file, 0, 3 * BLOCK) == DATA[:BLOCK] + b"n" * BLOCK + DATA[2 * BLOCK : 3 * BLOCK]
    assert own(opened(folder)) == {1}


@pytest.mark.parametrize("block_size", [512, 4096, 128 << 10])
def test_random_work_equals_a_plain_file(block_size: int) -> None:
    disk = MemoryDisk()
    disk.make_folder("/pool")
    folder = Folder(disk, "/pool", KEY)
    dice = random.Random(block_size)
    size = 8 * block_size
    expected = bytearray(dice.randbytes(size // 2).ljust(size, b"\0"))
    folder.create(folder.sealed(Record(id="image", type="db", size=size // 2, block_size=block_size)))
    record = folder.record("image")
    file = folder.plain(record, folder.open(record))
    file.write(0, expected[: size // 2])
    file.close()
    folder.create(
        folder.sealed(
            Record(
                id="clone",
                type="db",
                size=size,
                block_size=block_size,
                template="image",
                template_size=size // 2,
            )
        )
    )
    clone = opened(folder)
    for step in range(150):
        offset = dice.randrange(size)
        length = min(dice.choice((1, 500, block_size, 3 * block_size)), size - offset)
        data = bytes(length) if step % 4 == 0 else dice.randbytes(length)
        if step % 3 == 0:
            assert read(clone, offset, length) == expected[offset : offset + length]
            continue
        expected[offset : offset + length] = data
        if step % 8 == 0:
            clone.punch(offset, length)
        else:
            clone.write(offset, data)
        if step % 50 == 49:
            clone.sync()
            clone.close()
            clone = opened(folder)
    assert read(clone, 0, size) == expected


def test_runs_of_blocks_cross_pages() -> None:
    file = MemoryDisk().open("/own", create=True)
    owned = Owned(file, 100_000)
    owned.add(32_760, 20)
    owned.add(65_536 + 5, 1)
    found, at = set(), 32_000
    for blocks, mine in owned.runs(32_000, 40_000):
        found |= set(range(at, at + blocks)) if mine else set()
        at += blocks
    assert at == 72_000
    assert found == {*range(32_760, 32_780), 65_541}
    assert owned.all_now(32_760, 20)
    assert not owned.all_now(32_760, 21)
