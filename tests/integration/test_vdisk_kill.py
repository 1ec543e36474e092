"""`kill -9` of the server at any moment: what was flushed, or written with FUA, is there afterwards."""

import itertools
import random
import threading
from pathlib import Path

import pytest

from g8node.vdisk.record import Storage
from g8node.wire import nbd
from tests.support.vdisks import Client, Served, served

BLOCK = 4096
BLOCKS = 256


class Writer(threading.Thread):
    """Writes numbered blocks of its own part until the connection breaks; `durable` is what must stay."""

    def __init__(self, server: Served, part: int, written: list[int], dice: random.Random) -> None:
        super().__init__()
        self._client: Client = server.client()
        self._part = part
        self._dice = dice
        self.written = written
        self.durable = list(written)
        self.flushes = 0

    def run(self) -> None:
        try:
            for step in itertools.count():
                self._step(step)
        except OSError:
            pass
        finally:
            self._client.close()

    def _step(self, step: int) -> None:
        index = self._dice.randrange(BLOCKS)
        number = self.written[index] + 1
        self.written[index] = number
        fua = nbd.CMD_FLAG_FUA if step % 7 == 0 else 0
        self._client.write((self._part * BLOCKS + index) * BLOCK, pattern(self._part, index, number), fua)
        if fua:
            self.durable[index] = number
        if step % 5 == 0:
            self._client.flush()
            self.durable = list(self.written)
            self.flushes += 1


def pattern(part: int, index: int, number: int) -> bytes:
    return b"%08d%08d%016d" % (part, index, number) * (BLOCK // 32)


def check(client: Client, part: int, index: int, least: int, most: int) -> int:
    """The number found in a block, which is whole and neither older than durable nor from nowhere."""
    found = client.read((part * BLOCKS + index) * BLOCK, BLOCK)
    number = int(found[16:32]) if any(found) else 0
    assert least <= number <= most
    assert found == (pattern(part, index, number) if number else bytes(BLOCK))
    return number


def rounds(folder: Path, count: int, storage: Storage) -> None:
    dice = random.Random(7)
    parts = 3
    with served(folder, {"vd": parts * BLOCKS * BLOCK}, storage=storage) as server:
        written = [[0] * BLOCKS for _ in range(parts)]
        flushes = 0
        for _ in range(count):
            writers = [Writer(server, part, written[part], dice) for part in range(parts)]
            for writer in writers:
                writer.start()
            threading.Event().wait(dice.random() * 0.2)  # the moment of the kill is the test's subject
            server.kill()
            for writer in writers:
                writer.join(60)
            flushes += sum(writer.flushes for writer in writers)
            server.start()
            client = server.client()
            for part, writer in enumerate(writers):
                for index in range(BLOCKS):
                    least, most = writer.durable[index], writer.written[index]
                    written[part][index] = check(client, part, index, least, most)
            client.close()
        assert flushes > 0


@pytest.mark.parametrize("storage", ["plain", "dedup"])
def test_killed_server_keeps_what_was_flushed(tmp_path: Path, storage: Storage) -> None:
    rounds(tmp_path, 5, storage)


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["plain", "dedup"])
def test_server_killed_five_hundred_times_keeps_what_was_flushed(tmp_path: Path, storage: Storage) -> None:
    rounds(tmp_path, 500, storage)
