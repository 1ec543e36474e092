"""The power of a node is cut under load on its vdisks: what was flushed is there after the next boot.

Its drive has a cache (tests/support/volatile.py), and of what the node did not flush any part is lost.
"""

import contextlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.endings import BLOCKS, PART, Writer, lost
from tests.support.vdisks import Client
from tests.support.vm import BUILD, NodeVm, initrd_with, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

NBD = 10809
PARTS = 2
STORAGES = "plain", "dedup"
FLUSHES = 30
"""Each writer's, at least, before the power is cut."""
DEADLINE_S = 300.0
NO_SYNC = "import os\nos.fdatasync = lambda fd: None\n"


class Machine:
    """A drive, and the node that lives on it, from one power cut to the next."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder = folder
        self.dice = dice
        self._lives = 0
        with (folder / "drive").open("wb") as file:
            file.truncate(1 << 30)

    @contextlib.contextmanager
    def life(self, initrd: Path = BUILD / "initramfs.zst") -> Iterator[NodeVm]:
        """From a boot to a power cut."""
        self._lives += 1
        folder = self.folder / f"life{self._lives}"
        options = [
            "-drive",
            f"file=nbd+unix:///?socket={self.folder}/s,if=none,id=d,format=raw,cache=writeback",
        ]
        options += [
            "-device",
            "virtio-blk-pci,drive=d,serial=d,logical_block_size=4096,physical_block_size=4096",
        ]
        append = ["g8.cache.disk=d", "g8.vdisk.folder=/var/cache/vdisks"]
        append += [f"g8.vdisk.listen=0.0.0.0:{NBD}", "g8.vdisk.plain=true"]
        with (
            self._drive(),
            node(folder, forwards=[NBD], initrd=initrd, append=append, options=options) as vm,
        ):
            assert vm.direct("core.state")["cache_disk"]["error"] == ""
            yield vm
            vm.vm.kill()

    @contextlib.contextmanager
    def _drive(self) -> Iterator[None]:
        words = [str(self.folder / "drive"), str(self.folder / "s"), str(self.dice.random())]
        argv = [sys.executable, "-m", "tests.support.volatile", *words]
        (self.folder / "s").unlink(missing_ok=True)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as drive:
            try:
                deadline = time.monotonic() + DEADLINE_S
                while not listens(self.folder / "s"):
                    assert drive.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                yield
                drive.terminate()
                shown, _ = drive.communicate(timeout=DEADLINE_S)
                assert drive.returncode == 0, shown
            finally:
                drive.kill()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def client(vm: NodeVm, vdisk: str) -> Client:
    return Client(("127.0.0.1", vm.ports[NBD]), vdisk)


def load(vm: NodeVm, written: dict[str, list[list[int]]], dice: random.Random) -> dict[str, list[Writer]]:
    """Writers on all vdisks, which have flushed and go on."""
    writers = {
        vdisk: [Writer(client(vm, vdisk), part, done, dice) for part, done in enumerate(parts)]
        for vdisk, parts in written.items()
    }
    everybody = [writer for some in writers.values() for writer in some]
    for writer in everybody:
        writer.start()
    deadline = time.monotonic() + DEADLINE_S
    while min(writer.flushes for writer in everybody) < FLUSHES:
        assert all(writer.is_alive() for writer in everybody)
        assert time.monotonic() < deadline, [writer.flushes for writer in everybody]
        time.sleep(dice.random() * 0.1)
    return writers


def create(vm: NodeVm, *storages: str) -> dict[str, list[list[int]]]:
    """The vdisks, and the numbers of their blocks."""
    for storage in storages:
        vm.direct("vdisk.create", id=storage, size=PARTS * PART, storage=storage)
    return {storage: [[0] * BLOCKS for _ in range(PARTS)] for storage in storages}


def problems(vm: NodeVm, writers: dict[str, list[Writer]]) -> list[str]:
    return [f"{vdisk} {one}" for vdisk, some in writers.items() for one in lost(client(vm, vdisk), some)]


def cuts(folder: Path, count: int) -> None:
    dice = random.Random(11)
    machine = Machine(folder, dice)
    writers: dict[str, list[Writer]] = {}
    with machine.life() as vm:
        written = create(vm, *STORAGES)
        writers = load(vm, written, dice)
    for number in range(count):
        with machine.life() as vm:
            assert problems(vm, writers) == []
            if number < count - 1:
                writers = load(vm, written, dice)


def test_node_keeps_what_was_flushed_when_its_power_is_cut(tmp_path: Path) -> None:
    cuts(tmp_path, 3)


@pytest.mark.soak
def test_node_keeps_what_was_flushed_over_twenty_power_cuts(tmp_path: Path) -> None:
    cuts(tmp_path, 20)


def test_power_cut_shows_a_node_whose_syncs_do_nothing(tmp_path: Path) -> None:
    initrd = initrd_with(tmp_path, "usr/lib/python3/dist-packages/sitecustomize.py", NO_SYNC, 0o644)
    dice = random.Random(12)
    machine = Machine(tmp_path, dice)
    with machine.life(initrd) as vm:
        written = create(vm, "plain")  # a damaged pool might not be served at all
        vm.job("bash", {"script": "sync"})
        writers = load(vm, written, dice)
    with machine.life() as vm:
        assert problems(vm, writers)
