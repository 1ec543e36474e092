"""The cache disk on loop devices: made on what is blank, found again, and nothing else is ever written to."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from g8node.errors import Conflict, FailedPrecondition, NodeError, NotFound
from g8node.linux import disk
from g8node.linux.mount import mounts
from g8node.node.btrfs import Btrfs
from g8node.node.cachedisk import LABEL, CacheDisk
from g8node.node.disks import Disks
from g8node.runtime import blocking
from tests.support.agent import Agent, in_agent
from tests.support.loops import Loops

pytestmark = [pytest.mark.root]

SIZE_MIB = 300


@asynccontextmanager
async def device(agent: Agent) -> AsyncIterator[str]:
    loops = await blocking.run("disk", Loops(agent.tmp).__enter__)
    try:
        yield await blocking.run("disk", loops.make, SIZE_MIB)
    finally:
        await blocking.run("disk", loops.__exit__)


def cache_disk(agent: Agent, choice: str) -> CacheDisk:
    disks, btrfs = Disks(agent.reaper), Btrfs(agent.reaper)
    return CacheDisk(agent.reaper, disks, btrfs, choice=choice, root=str(agent.tmp / "node"), appear_s=3)


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


async def refused(agent: Agent, path: str) -> NodeError:
    before = await blocking.run("disk", digest, path)
    made = cache_disk(agent, path)
    with pytest.raises(NodeError) as caught:
        await made.open()
    assert await blocking.run("disk", digest, path) == before
    assert made.state() == {"device": "", "error": str(caught.value)}
    assert not [m for m in await blocking.run("disk", mounts) if m.target.startswith(str(agent.tmp / "node"))]
    return caught.value


@in_agent
async def test_blank_disk_is_made_ours_and_found_again(agent: Agent) -> None:
    async with device(agent) as path:
        for boot in (1, 2):
            made = cache_disk(agent, path)
            await made.open()
            node = agent.tmp / "node"
            assert made.device == f"{path}p1"
            targets = [m.target for m in await blocking.run("disk", mounts)]
            for folder in ("var/cache", "var/log", "var/lib/g8node/volumes", f"mnt/storagepools/{LABEL}"):
                assert str(node / folder) in targets
            kept = node / "var/cache/kept"
            assert kept.exists() == (boot == 2)
            kept.write_text("chunks")
            assert not list((node / "var/log").iterdir())  # each boot has a log of its own
            (node / "var/log/messages").write_text(f"boot {boot}")
            await made.close()
            assert not [m for m in await blocking.run("disk", mounts) if m.target.startswith(str(node))]


@in_agent
async def test_old_logs_are_removed_at_the_ninth_boot(agent: Agent) -> None:
    async with device(agent) as path:
        logs = agent.tmp / f"node/mnt/storagepools/{LABEL}/logs"
        for _ in range(2):
            made = cache_disk(agent, path)
            await made.open()
            names = sorted(os.listdir(logs), key=int)
            for number in range(2, 10):
                (logs / str(number)).mkdir(exist_ok=True)
            await made.close()
        assert names == [str(number) for number in range(3, 11)]


@pytest.mark.parametrize("kind", ["ext4", "gpt", "swap", "btrfs"])
def test_disk_with_a_signature_is_never_touched(kind: str, tmp_path: Path) -> None:
    SIGNED[kind](tmp_path)


async def signed(agent: Agent, *argv: str) -> None:
    async with device(agent) as path:
        await blocking.run("disk", run, *(word.replace("DISK", path) for word in argv))
        error = await refused(agent, path)
        assert isinstance(error, FailedPrecondition), error
        assert "holds data" in str(error)


@in_agent
async def ext4(agent: Agent) -> None:
    await signed(agent, "mkfs.ext4", "-q", "DISK")


@in_agent
async def gpt(agent: Agent) -> None:
    await signed(agent, "parted", "-s", "DISK", "mklabel", "gpt")


@in_agent
async def swap(agent: Agent) -> None:
    await signed(agent, "mkswap", "DISK")


@in_agent
async def btrfs(agent: Agent) -> None:
    await signed(agent, "mkfs.btrfs", "-q", "-L", "mine", "DISK")


SIGNED = {"ext4": ext4, "gpt": gpt, "swap": swap, "btrfs": btrfs}


@in_agent
async def test_disk_in_use_is_never_touched(agent: Agent) -> None:
    async with device(agent) as path:
        held = await blocking.run("disk", os.open, path, os.O_RDONLY | os.O_EXCL)
        assert isinstance(await refused(agent, path), Conflict)
        os.close(held)


@in_agent
async def test_disk_that_is_not_there_is_told(agent: Agent) -> None:
    made = cache_disk(agent, "no-such-serial")
    with pytest.raises(NotFound, match="there is no disk no-such-serial"):
        await asyncio.wait_for(made.open(), 60)


@in_agent
async def test_data_without_a_signature_is_not_blank(agent: Agent) -> None:
    async with device(agent) as path:
        assert await blocking.run("disk", disk.is_blank, path)
        for place in (0, 4095, (SIZE_MIB // 2 << 20) + 5, (SIZE_MIB << 20) - 1):
            await blocking.run("disk", poke, path, place, b"x")
            assert not await blocking.run("disk", disk.is_blank, path)
            await blocking.run("disk", poke, path, place, b"\0")
        assert await blocking.run("disk", disk.is_blank, path)


def poke(path: str, place: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)
