"""The segment log: what was verified comes back, nothing else ever does."""

import resource
from pathlib import Path

import pytest

from g8node.errors import Exhausted, Unavailable
from g8node.g8ufs.segments import Key, SegmentLog, owner
from tests.support.chunks import some_bytes

BUDGET = 4 << 20


def chunk(number: int, size: int = 1000) -> tuple[Key, bytes]:
    return Key(number.to_bytes(8, "little") * 4, bytes([number % 251]) * 32), some_bytes(size, number)


def filled(folder: Path, count: int = 20, size: int = 1000) -> SegmentLog:
    log = SegmentLog(str(folder), BUDGET)
    log.append([chunk(number, size) for number in range(count)])
    return log


def killed(log: SegmentLog) -> None:
    """End it as kill -9 would: nothing sealed, the lock gone with the process."""
    log._tail = None
    log.close()


def test_segments_give_back_what_was_appended(tmp_path: Path) -> None:
    log = filled(tmp_path)
    keys = [chunk(number)[0] for number in range(20)]
    assert log.read_many(keys) == [chunk(number)[1] for number in range(20)]
    assert log.read_many([chunk(99)[0]]) == [None]
    assert log.read_now(keys[3], 1 << 16) == chunk(3)[1]
    log.close()


def test_segments_survive_an_orderly_restart(tmp_path: Path) -> None:
    filled(tmp_path).close()
    log = SegmentLog(str(tmp_path), BUDGET)
    assert log.read_many([chunk(7)[0]]) == [chunk(7)[1]]
    log.close()


def test_segments_survive_a_kill(tmp_path: Path) -> None:
    killed(filled(tmp_path))
    assert not list(tmp_path.glob("*.idx"))
    log = SegmentLog(str(tmp_path), BUDGET)
    assert log.read_many([chunk(7)[0]]) == [chunk(7)[1]]
    log.append([chunk(50)])
    assert log.read_many([chunk(50)[0]]) == [chunk(50)[1]]
    log.close()


@pytest.mark.parametrize("cut", [0, 10, 39, 40, 41, 100, 1127, 1128, 1129, 5000, 20_000])
def test_segments_cut_anywhere_serve_only_what_is_whole(tmp_path: Path, cut: int) -> None:
    killed(filled(tmp_path))
    segment = next(tmp_path.glob("*.seg"))
    segment.write_bytes(segment.read_bytes()[:cut])
    log = SegmentLog(str(tmp_path), BUDGET)
    for number in range(20):
        assert log.read_many([chunk(number)[0]])[0] in (None, chunk(number)[1])
    log.close()


@pytest.mark.parametrize("sealed", [True, False])
def test_segments_with_any_flipped_bit_serve_no_wrong_byte(tmp_path: Path, sealed: bool) -> None:
    log = filled(tmp_path, count=2, size=50)
    log.close() if sealed else killed(log)
    segment = next(tmp_path.glob("*.seg"))
    whole = segment.read_bytes()
    for at in range(0, len(whole), 7):
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        for index in tmp_path.glob("*.idx"):
            index.unlink(missing_ok=not sealed)
        log = SegmentLog(str(tmp_path), BUDGET)
        for number in range(2):
            assert log.read_many([chunk(number, 50)[0]])[0] in (None, chunk(number, 50)[1])
        log.close()
        if not segment.exists():
            segment.write_bytes(whole)


def test_segments_drop_a_damaged_record(tmp_path: Path) -> None:
    log = filled(tmp_path, count=1)
    with open(next(tmp_path.glob("*.seg")), "r+b") as file:
        file.seek(300)
        file.write(b"!")
    key = chunk(0)[0]
    assert log.has(key.id)
    assert log.read_many([key]) == [None]
    assert not log.has(key.id)
    log.append([chunk(0)])
    assert log.read_many([key]) == [chunk(0)[1]]
    log.close()


def test_segments_give_nothing_to_a_wrong_key_and_keep_the_chunk(tmp_path: Path) -> None:
    log = filled(tmp_path, count=1)
    key, plain = chunk(0)
    assert log.read_many([Key(key.id, b"x" * 32)]) == [None]
    assert log.read_many([key]) == [plain]
    log.close()


def test_segments_stay_within_the_budget_and_keep_what_is_read(tmp_path: Path) -> None:
    log = SegmentLog(str(tmp_path), 1 << 20)
    hot, plain = chunk(0)
    log.append([chunk(0)])
    for number in range(1, 2000):
        log.append([chunk(number)])
        if number % 50 == 0:
            assert log.read_many([hot]) == [plain]
    assert log.size_bytes <= 1 << 20
    assert sum(path.stat().st_size for path in tmp_path.glob("*.seg")) <= 1 << 20
    log.close()


def test_segments_belong_to_one_process(tmp_path: Path) -> None:
    log = filled(tmp_path)
    with pytest.raises(Unavailable, match="another process"):
        SegmentLog(str(tmp_path), BUDGET)
    log.close()


def test_segments_read_now_never_waits_for_large_chunks(tmp_path: Path) -> None:
    log = filled(tmp_path, count=1, size=100_000)
    with pytest.raises(BlockingIOError):
        log.read_now(chunk(0)[0], 65536)
    log.close()


PIN = "ab" * 32


def flood(log: SegmentLog, first: int, count: int = 60) -> None:
    for number in range(first, first + count):
        log.append([chunk(number, 100_000)])


def pinned(folder: Path, count: int = 10) -> tuple[SegmentLog, list[Key]]:
    log = SegmentLog(str(folder), BUDGET)
    chunks = [chunk(number, 50_000) for number in range(count)]
    log.pin(PIN, [(key.id, len(plain)) for key, plain in chunks])
    log.append(chunks)
    return log, [key for key, _ in chunks]


def test_segments_never_evict_what_is_pinned(tmp_path: Path) -> None:
    log, keys = pinned(tmp_path)
    flood(log, 1000)
    flood(log, 2000)
    assert log.read_many(keys) == [chunk(number, 50_000)[1] for number in range(10)]
    assert log.read_many([chunk(1000, 100_000)[0]]) == [None]
    assert log.size_bytes <= BUDGET
    log.close()


def test_segments_remember_pins_over_a_restart(tmp_path: Path) -> None:
    log, keys = pinned(tmp_path)
    killed(log)
    log = SegmentLog(str(tmp_path), BUDGET)
    assert log.pins.names() == [PIN]
    flood(log, 1000)
    assert None not in log.read_many(keys)
    assert log.unpin(PIN)
    assert not log.unpin(PIN)
    flood(log, 2000)
    assert log.read_many(keys) == [None] * len(keys)
    log.close()


def test_segments_refuse_to_pin_more_than_half(tmp_path: Path) -> None:
    log, _ = pinned(tmp_path)
    with pytest.raises(Exhausted, match="half"):
        log.pin("cd" * 32, [(chunk(number)[0].id, BUDGET // 10) for number in range(6)])
    assert log.pins.names() == [PIN]
    log.close()


def test_segments_clear_leaves_the_pinned(tmp_path: Path) -> None:
    log, keys = pinned(tmp_path)
    log.append([chunk(77)])
    flood(log, 1000, 10)
    assert log.clear() > 900_000
    assert log.read_many([chunk(77)[0]]) == [None]
    assert None not in log.read_many(keys)
    assert len(log) == len(keys)
    log.append([chunk(78)])
    assert log.read_many([chunk(78)[0]]) == [chunk(78)[1]]
    log.close()


def test_segments_shrink_to_a_smaller_budget(tmp_path: Path) -> None:
    log = filled(tmp_path, count=30, size=100_000)
    log.resize(BUDGET // 2)
    assert log.size_bytes <= BUDGET // 2
    log.close()


def test_segments_drop_a_damaged_pin(tmp_path: Path) -> None:
    log, _ = pinned(tmp_path)
    log.close()
    (tmp_path / "pins" / PIN).write_bytes(b"odd")
    log = SegmentLog(str(tmp_path), BUDGET)
    assert log.pins.names() == []
    assert not list((tmp_path / "pins").iterdir())
    log.close()


def test_segments_go_on_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    """A limit of file sizes, as ENOSPC does, lets a file be made and nothing be written to it."""
    log = SegmentLog(str(tmp_path), BUDGET)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            log.append([chunk(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("*.seg"))
    log.append([chunk(1)])
    assert log.read_many([chunk(1)[0]]) == [chunk(1)[1]]
    log.close()


def test_segments_are_read_when_the_disk_is_full_at_start(tmp_path: Path) -> None:
    filled(tmp_path).close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        log = SegmentLog(str(tmp_path), BUDGET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.read_many([chunk(7)[0]]) == [chunk(7)[1]]
    assert owner(str(tmp_path)) == 0
    log.close()


def test_segments_keep_the_index_of_a_full_one_when_no_other_can_be_made(tmp_path: Path) -> None:
    log = SegmentLog(str(tmp_path), 1 << 20)
    log.append([chunk(1, 60_000), chunk(2, 60_000)])
    (tmp_path / "00000002.seg").mkdir()
    for number in (3, 4):
        with pytest.raises(FileExistsError):
            log.append([chunk(number, 60_000)])
    (tmp_path / "00000002.seg").rmdir()
    log.append([chunk(5, 60_000)])
    log.close()
    log = SegmentLog(str(tmp_path), 1 << 20)
    for number in (1, 2, 5):
        assert log.read_many([chunk(number, 60_000)[0]]) == [chunk(number, 60_000)[1]]
    log.close()
