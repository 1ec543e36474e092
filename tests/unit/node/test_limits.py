"""Limits as control group files."""

import pytest

from g8node.node import limits
from g8node.node.limits import DeviceLimits, Limits

NUMBERS = {"/dev/vda": (252, 0)}


@pytest.mark.parametrize(
    ("given", "files"),
    [
        (Limits(), {}),
        (Limits(cpu=1.5), {"cpu.max": "150000 100000"}),
        (Limits(cpu=0.00001), {"cpu.max": "1000 100000"}),
        (Limits(cpu=0), {"cpu.max": "max 100000"}),
        (Limits(memory=1 << 26), {"memory.max": "67108864", "memory.swap.max": "0"}),
        (Limits(memory=1 << 26, swap=4096), {"memory.max": "67108864", "memory.swap.max": "4096"}),
        (Limits(memory=0), {"memory.max": "max", "memory.swap.max": "max"}),
        (Limits(swap=0), {"memory.swap.max": "0"}),
        (Limits(pids=10), {"pids.max": "10"}),
        (Limits(pids=0), {"pids.max": "max"}),
    ],
)
def test_limit_is_the_text_of_a_file(given: Limits, files: dict[str, str]) -> None:
    assert limits.files(given) == files


def test_io_limits_are_lines_and_rules_of_the_runtime() -> None:
    given = Limits(io={"/dev/vda": DeviceLimits(read_bps=1 << 20, write_iops=0)})
    assert limits.io_lines(given, NUMBERS) == ["252:0 rbps=1048576 wiops=max"]
    rule = {"major": 252, "minor": 0, "rate": 1 << 20}
    assert limits.resources(given, NUMBERS) == {"blockIO": {"throttleReadBpsDevice": [rule]}}
    assert limits.io_lines(Limits(io={"/dev/vda": DeviceLimits()}), NUMBERS) == []


def test_change_keeps_what_is_not_named_and_lifts_what_is_0() -> None:
    old = Limits(cpu=2, memory=1 << 20, pids=5)
    assert limits.merged(old, Limits(memory=0, pids=7)) == Limits(cpu=2, pids=7)
    assert limits.merged(None, Limits(cpu=0)) == Limits()
