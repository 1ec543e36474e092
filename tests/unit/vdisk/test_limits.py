"""Limits of rate, counters, sizes."""

import pytest

from g8node.errors import InvalidArgument
from g8node.vdisk.limits import Counters, Limits, Throttle
from g8node.vdisk.parts import PART_BYTES, part_sizes
from g8node.vdisk.record import Record, decode, encode, folder_name, id_of_folder
from g8node.wire import nbd


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_no_limit_never_waits() -> None:
    assert Throttle(Limits()).pause_s(1 << 40) == 0


def test_burst_then_rate() -> None:
    clock = Clock()
    throttle = Throttle(Limits(iops=10, burst_s=0.5), clock)
    assert [throttle.pause_s(0) for _ in range(5)] == [0.0] * 5
    assert throttle.pause_s(0) > 0
    clock.now += 0.1
    assert throttle.pause_s(0) == 0
    assert throttle.pause_s(0) > 0


def test_rate_holds_over_time() -> None:
    clock = Clock()
    throttle = Throttle(Limits(bytes_s=1000, burst_s=0.001), clock)
    done = 0
    end = clock.now + 10
    while clock.now < end:
        wait_s = throttle.pause_s(100)
        done += 0 if wait_s else 100
        clock.now += wait_s
    assert 9_800 <= done <= 10_300


def test_large_request_waits_off_its_debt() -> None:
    clock = Clock()
    throttle = Throttle(Limits(bytes_s=1000, burst_s=1.0), clock)
    assert throttle.pause_s(5000) == 0
    assert throttle.pause_s(1) == pytest.approx(4.0)


def test_waiting_request_is_not_accounted() -> None:
    clock = Clock()
    throttle = Throttle(Limits(iops=1, burst_s=1.0), clock)
    throttle.pause_s(0)
    waits = [throttle.pause_s(0) for _ in range(10)]
    assert len(set(waits)) == 1


def test_counters_are_named() -> None:
    counters = Counters()
    counters.count(nbd.CMD_READ, 3, 1024)
    counters.count(nbd.CMD_FLUSH, 1, 0)
    table = counters.table()
    assert (table["read_ops"], table["read_bytes"], table["flush_ops"], table["write_ops"]) == (3, 1024, 1, 0)


def test_parts_have_the_size_together() -> None:
    assert part_sizes(512) == [512]
    assert part_sizes(PART_BYTES) == [PART_BYTES]
    assert part_sizes(2 * PART_BYTES + 512) == [PART_BYTES, PART_BYTES, 512]


@pytest.mark.parametrize("vdisk", ["vd1", "ubuntu:latest", "..", ".new.x", "a/b/../c", "%41", "~" * 80])
def test_any_id_is_a_folder_and_back(vdisk: str) -> None:
    name = folder_name(vdisk)
    assert "/" not in name
    assert name[0] != "."
    assert len(name) <= 250
    assert id_of_folder(name) == vdisk


@pytest.mark.parametrize("size", [0, 511, 4095, 4096 * 3 + 512, (64 << 40) + 4096])
def test_size_that_does_not_fit_is_refused(size: int) -> None:
    record = Record(id="vd", type="db", size=4096)
    text = encode(record).replace(b'"size": 4096', b'"size": %d' % size)
    with pytest.raises(InvalidArgument, match="size"):
        decode(text, "vdisk.json")


def test_record_is_read_back() -> None:
    record = Record(id="a:b", type="boot", size=1 << 46, limits=Limits(iops=5))
    assert decode(encode(record), "vdisk.json") == record


def test_block_size_is_a_power_of_two() -> None:
    with pytest.raises(InvalidArgument, match="block_size"):
        Record(id="vd", type="db", size=3000 * 100, block_size=3000).check()
