"""The console's own thread: nobody waits for a slow line, and what is lost is counted."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from g8node.runtime import logs
from g8node.runtime.console import Console

LIMIT_S = 60.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_lines_come_in_order(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    for number in range(50):
        console.write(f"line {number}\n")
    assert console.drained(LIMIT_S)
    assert os.read(pipe[0], 1 << 16).decode() == "".join(f"line {n}\n" for n in range(50))


def test_line_that_takes_nothing_holds_up_nobody_and_tells_what_was_lost(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    for _ in range(5000):
        console.write("x" * 99 + "\n")  # seven times what the pipe holds
    assert not console.drained(0.0)
    got = bytearray()

    def read() -> None:
        while b"dropped" not in got:
            got.extend(os.read(pipe[0], 1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    assert console.drained(LIMIT_S)
    reader.join(LIMIT_S)
    kept = got.count(b"\n") - 1
    assert 2000 <= kept < 5000
    assert f"{5000 - kept} lines were dropped".encode() in got


def test_very_long_line_is_cut(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    console.write("y" * 40_000 + "\n")
    assert console.drained(LIMIT_S)
    assert len(os.read(pipe[0], 1 << 16)) < 17_000


def test_what_is_kept_goes_to_the_kernel_log_line_by_line(pipe: tuple[int, int]) -> None:
    console = Console(2, kernel_log=pipe[1])
    console.keep("one\ntwo")
    assert console.drained(LIMIT_S)
    assert os.read(pipe[0], 4096) == b"<31>g8node: one<31>g8node: two"


def test_log_file_gets_the_lines_and_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "core.log"
    null = os.open("/dev/null", os.O_WRONLY)
    console = Console(null, file=str(log))
    console.write("first\n")
    assert console.drained(LIMIT_S)
    assert log.read_text() == "first\n"
    console.turn()
    console.write("second\n")
    assert console.drained(LIMIT_S)
    assert log.read_text() == "second\n"
    [old] = tmp_path.glob("core.log.*")
    assert re.fullmatch(r"core\.log\.\d{8}-\d{6}", old.name)
    assert old.read_text() == "first\n"
    for number in range(10):
        (tmp_path / f"core.log.2000010{number}-000000").write_text("old")
    for _ in range(200):
        console.write("z" * 8000 + "\n")
    assert console.drained(LIMIT_S)
    assert log.stat().st_size <= 1 << 20
    assert len(list(tmp_path.glob("core.log.*"))) == 4
    os.close(null)


def test_log_file_that_cannot_be_written_is_no_error(tmp_path: Path, pipe: tuple[int, int]) -> None:
    console = Console(pipe[1], file=str(tmp_path / "missing/core.log"))
    console.write("line\n")
    assert console.drained(LIMIT_S)
    assert os.read(pipe[0], 100) == b"line\n"


def test_closed_line_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    console = Console(write)
    console.write("gone\n")
    assert console.drained(LIMIT_S)
    os.close(write)


def test_log_remembers_its_last_lines_and_the_last_error(pipe: tuple[int, int]) -> None:
    kept: list[str] = []
    console = Console(pipe[1])
    try:
        logs.configure("info", console, keep=kept.append)
        log = logs.get("part")
        log.info("fine")
        log.warning("odd")
        log.error("broken", reason="it was\nold")
        log.debug("unseen")
        assert [line.split("]")[1].split()[0] for line in logs.recent()[-3:]] == ["fine", "odd", "broken"]
        trouble = logs.trouble()
        assert trouble is not None
        assert trouble.text == "part: broken (it was old)"
        assert len(kept) == 2
        assert console.drained(LIMIT_S)
    finally:
        logs.configure()
