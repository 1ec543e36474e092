"""What is read of the kernel's tables, and that odd ones are bounded."""

from pathlib import Path

import pytest

from g8node.linux import monitor

DISKSTATS = """\
 254       0 vda 100 5 2048 10 50 3 4096 20 0 30 40 0 0 0 0
 254       1 vda1 90 5 1024 10 50 3 4096 20 0 30 40
   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
   1       0 ram0 1 0 8 0 0 0 0 0 0 0 0 0 0 0 0
"""

STAT = """\
cpu  300 0 300 1400 0 0 0 0 50 0
cpu0 100 10 200 600 100 5 5 0 50 0
cpu1 200 0 100 800 0 0 0 0 0 0
intr 12345 1 2 3
ctxt 678
"""


def test_disk_activity_in_operations_and_kib(tmp_path: Path) -> None:
    table = tmp_path / "diskstats"
    table.write_text(DISKSTATS)
    readings = {(each.key, each.id): each.value for each in monitor.disk_activity(str(table))}
    assert readings["disk.iops.read", "vda"] == 100
    assert readings["disk.throughput.read", "vda"] == 1024.0
    assert readings["disk.throughput.write", "vda1"] == 2048.0
    assert {id for _, id in readings} == {"vda", "vda1"}


def test_disk_activity_is_bounded(tmp_path: Path) -> None:
    table = tmp_path / "diskstats"
    line = "7 {0} d{0} 1 0 8 0 1 0 8 0 0 0 0\n"
    table.write_text("".join(line.format(number) for number in range(1000)))
    assert len({each.id for each in monitor.disk_activity(str(table))}) == monitor.MAX_IDS


def test_cpu_times_do_not_count_guests_twice(tmp_path: Path) -> None:
    table = tmp_path / "stat"
    table.write_text(STAT)
    times = monitor.cpu_times(str(table))
    assert times["0"] == pytest.approx((3.2, 7.0, 3.0))
    assert times["1"].used == 3.0
    readings = {(each.key, each.id): each.value for each in monitor.cpu(str(table))}
    assert readings["machine.CPU.utilisation", "1"] == 3.0
    assert readings["machine.CPU.contextswitch", ""] == 678
    assert readings["machine.CPU.interrupts", ""] == 12345


def test_memory_in_mib(tmp_path: Path) -> None:
    table = tmp_path / "meminfo"
    table.write_text(
        "MemFree: 1 kB\nMemAvailable: 2048 kB\nSwapTotal: 4096 kB\nSwapFree: 1024 kB\nHugePages: 0\n"
    )
    assert [each.value for each in monitor.memory(str(table))] == [2.0, 1.0, 3.0]


def test_disk_space_is_of_local_file_systems_outside_the_run_folder(tmp_path: Path) -> None:
    inside = tmp_path / "run/containers/a b"
    inside.mkdir(parents=True)
    table = tmp_path / "mounts"
    table.write_text(
        f"/dev/vda1 {tmp_path} ext4 rw 0 0\n/dev/vda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n"
        f"/dev/vdb {tmp_path}/run/containers/a\\040b ext4 rw 0 0\n/dev/loop9 / erofs ro 0 0\n"
        f"/dev/vdc {tmp_path}/gone xfs rw 0 0\n"
    )
    readings = monitor.disk_space(str(table), beside=f"{tmp_path}/run")
    assert [(each.key, each.id, each.extra) for each in readings] == [
        ("disk.size.total", "vda1", ("fs", "ext4")),
        ("disk.size.free", "vda1", ("fs", "ext4")),
    ]
    everywhere = monitor.disk_space(str(table))
    assert {each.id for each in everywhere} == {"vda1", "vdb"}


def test_network_leaves_out_loopback() -> None:
    assert "lo" not in {each.id for each in monitor.network()}
