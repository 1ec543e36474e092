"""`kill -9` of the server at any moment: what was flushed, or written with FUA, is there afterwards."""

import random
import threading
import time
from pathlib import Path

import pytest

from g8node.vdisk.record import Storage
from tests.support.endings import BLOCKS, PART, Writer, lost
from tests.support.vdisks import served


def rounds(folder: Path, count: int, storage: Storage, parts: int) -> None:
    """`parts`: clients, each of which writes its own part; a single one is served by a thread."""
    dice = random.Random(7)
    with served(folder, {"vd": parts * PART}, storage=storage) as server:
        written = [[0] * BLOCKS for _ in range(parts)]
        flushes = 0
        for left in reversed(range(count)):
            writers = [Writer(server.client(), part, written[part], dice) for part in range(parts)]
            for writer in writers:
                writer.start()
            threading.Event().wait(dice.random() * 0.2)  # the moment of the kill is the test's subject
            if not left and not flushes:  # the disk is slow
                wait_for_a_flush(writers)
            server.kill()
            server.start()
            assert lost(server.client(), writers) == []
            flushes += sum(writer.flushes for writer in writers)
        assert flushes > 0


def wait_for_a_flush(writers: list[Writer]) -> None:
    deadline = time.monotonic() + 120
    while not any(writer.flushes for writer in writers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("storage", "parts"), [("plain", 3), ("dedup", 3), ("plain", 1)])
def test_killed_server_keeps_what_was_flushed(tmp_path: Path, storage: Storage, parts: int) -> None:
    rounds(tmp_path, 5, storage, parts)


@pytest.mark.soak
@pytest.mark.parametrize(("storage", "parts"), [("plain", 3), ("dedup", 3), ("plain", 1)])
def test_server_killed_five_hundred_times_keeps_what_was_flushed(
    tmp_path: Path, storage: Storage, parts: int
) -> None:
    rounds(tmp_path, 500, storage, parts)
