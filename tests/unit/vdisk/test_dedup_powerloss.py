"""What a power loss leaves of deduplicated vdisks: loads with collections, crashed several times in a row."""

import contextlib
import random
from collections.abc import Iterator

import pytest

from g8node.errors import NodeError
from g8node.runtime import blocking
from g8node.vdisk import pool
from g8node.vdisk.folder import Folder
from g8node.vdisk.record import Record
from g8node.vdisk.volume import Volume
from tests.support.powerloss import SECTOR, MemoryDisk, Oracle, PowerLost, collect

BLOCK = 1024
SIZE = 16 << 10
SECTORS = SIZE // SECTOR
NAMES = ("one", "two", "clone")
CONTENTS = [random.Random(number).randbytes(SECTOR) for number in range(6)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pool, "_WINDOW_SLOTS", 256)
    monkeypatch.setattr("g8node.vdisk.volume._SINGLE_CLEARS", 3)  # so that both ways of clearing are taken
    yield
    blocking.close()


class World:
    """A disk with vdisks that share a pool; `clone` shows a template where it has nothing."""

    def __init__(self, dice: random.Random, key: bytes) -> None:
        self.dice = dice
        self.key = key
        self.disk = MemoryDisk()
        self.disk.make_folder("/pool")
        self.disk.sync_folder("/")
        self.oracles = {name: Oracle(SECTORS) for name in NAMES}
        folder = Folder(self.disk, "/pool", self.key)
        records = [
            Record(id=name, type="boot", size=SIZE, block_size=BLOCK, storage="dedup", number=number)
            for number, name in enumerate(("template", "one", "two"), 1)
        ]
        for record in records:
            folder.create(folder.sealed(record) if key else record)
        data = self._data(SIZE)
        template = opened(folder, "template")
        template.write(0, data)
        template.sync()
        template.close()
        clone = Record(
            id="clone",
            type="boot",
            size=SIZE,
            block_size=BLOCK,
            storage="dedup",
            number=4,
            template="template",
            template_size=SIZE,
        )
        folder.create(folder.sealed(clone) if key else clone)
        self.oracles["clone"].found(data)

    def _data(self, length: int) -> bytes:
        """Sectors of few contents, and zeros: there is something to deduplicate."""
        return b"".join(self.dice.choice([*CONTENTS, bytes(SECTOR)]) for _ in range(length // SECTOR))

    def load(self, steps: int) -> None:
        """Until the power goes."""
        folder = Folder(self.disk, "/pool", self.key)
        volumes = {name: opened(folder, name) for name in NAMES}
        for _ in range(steps):
            what = self.dice.randrange(9)
            if what < 2:
                volumes["one"].sync()
                for oracle in self.oracles.values():  # they share the pool, and so its flushes
                    oracle.flushed()
            elif what == 2:
                collect(volumes["one"]._pool, (1, 2, 3, 4), lambda: self._change(volumes))
            else:
                self._change(volumes)
        for volume in volumes.values():
            volume.close()

    def _change(self, volumes: dict[str, Volume]) -> None:
        name = self.dice.choice(NAMES)
        offset = self.dice.randrange(SECTORS) * SECTOR
        length = min(self.dice.choice((1, 2, 8, 9)) * SECTOR, SIZE - offset)
        what = self.dice.randrange(6)
        if what == 0:
            volumes[name].read(offset, memoryview(bytearray(length)))
            return
        data = bytes(length) if what == 1 else self._data(length)
        self.oracles[name].wrote(offset, data)
        if what == 1:
            volumes[name].punch(offset, length)
        else:
            volumes[name].write(offset, data)

    def content(self) -> dict[str, bytes]:
        folder = Folder(self.disk, "/pool", self.key)
        folder.sweep()
        found = {}
        for name in NAMES:
            volume = opened(folder, name)
            data = bytearray(SIZE)
            volume.read(0, memoryview(data))
            assert list(volume.problems()) == []
            volume.close()
            found[name] = bytes(data)
        return found


def opened(folder: Folder, name: str) -> Volume:
    volume = folder.open(folder.record(name))
    assert isinstance(volume, Volume)
    return volume


def wrong_sectors(seed: int, crashes: int, *, syncs: bool = True, key: bytes = b"") -> int:
    """Of a world that loses its power so often, each time in the middle of some load."""
    world = World(random.Random(seed), key)
    wrong = 0
    for _ in range(crashes):
        world.disk.syncs = syncs
        world.disk.operations = world.dice.randrange(120)
        with contextlib.suppress(PowerLost, NodeError):
            world.load(40)
        for _ in range(3):  # ways in which it may have gone; the last one is what happened
            disk = world.disk.crash(world.dice)
            after, world.disk = world.disk, disk
            found = world.content()
            wrong += sum(world.oracles[name].wrong(found[name]) for name in NAMES)
            world.disk = after
        world.disk = disk
        for name in NAMES:
            world.oracles[name].found(found[name])
    return wrong


@pytest.mark.parametrize("key", [b"", bytes(range(32))], ids=["plain", "encrypted"])
def test_flushed_data_survives_any_power_loss(key: bytes) -> None:
    assert sum(wrong_sectors(seed, 6, key=key) for seed in range(9)) == 0


@pytest.mark.soak
@pytest.mark.parametrize("key", [b"", bytes(range(32))], ids=["plain", "encrypted"])
def test_flushed_data_survives_ten_thousand_power_losses(key: bytes) -> None:
    assert sum(wrong_sectors(seed, 10, key=key) for seed in range(1000, 1340)) == 0


def test_a_flush_that_does_nothing_would_be_noticed() -> None:
    def wrong(seed: int) -> int:
        try:
            return wrong_sectors(seed, 3, syncs=False)
        except (NodeError, OSError, AssertionError):
            return 1

    assert sum(wrong(seed) for seed in range(10)) > 0
