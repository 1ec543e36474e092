"""What /proc says, in the shapes of spec core0-protocol 4."""

import os

from g8node.linux import procfs


def test_procfs_process_row_has_the_fields_of_the_spec() -> None:
    row = procfs.process(os.getpid())
    assert row is not None
    assert set(row) == {
        "pid", "ppid", "cmdline", "name", "createtime", "cpu", "rss", "vms", "swap", "rlimit", "ofd"
    }  # fmt: skip
    assert (row["pid"], row["ppid"]) == (os.getpid(), os.getppid())
    assert row["rss"] > 1 << 20
    assert row["ofd"] > 2
    assert {"resource": 7, "soft": 1, "hard": 1}.keys() == row["rlimit"][0].keys()


def test_procfs_missing_process_is_none() -> None:
    assert procfs.process(2**22 + 5) is None
    assert procfs.usage(2**22 + 5) is None


def test_procfs_stat_survives_any_name() -> None:
    text = "7 (a) b (c)) S 1 7 7 0 -1 0 0 0 0 0 3 4 0 0 20 0 1 0 99 4096 2 0"
    stat = procfs.Stat(text)
    assert (stat.pid, stat.name, stat.ppid, stat.utime, stat.stime, stat.start_ticks) == (
        7, "a) b (c)", 1, 3, 4, 99
    )  # fmt: skip


def test_procfs_memory_is_what_meminfo_says() -> None:
    seen = procfs.memory()
    assert seen["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < seen["available"] <= seen["total"]


def test_procfs_system_and_processors() -> None:
    assert procfs.system()["kernelVersion"] == os.uname().release
    assert len(procfs.cpus()) == os.cpu_count()
