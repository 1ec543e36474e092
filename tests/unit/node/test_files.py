"""Open files of clients: number, idleness, order."""

import asyncio
import os
from pathlib import Path

import pytest

from g8node.errors import Exhausted, NotFound
from g8node.node.files import Files
from g8node.runtime import blocking
from tests.support.descriptors import open_below


async def gone(path: Path) -> None:
    async with asyncio.timeout(60):
        while open_below(path):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.005)


async def test_idle_handle_is_closed(tmp_path: Path) -> None:
    files = Files(idle_s=0.02)
    name = await files.open(str(tmp_path / "file"), "w", 0o644)
    await gone(tmp_path / "file")
    with pytest.raises(NotFound, match="fd"):
        await files.write(name, b"late")
    assert len(files) == 0


async def test_use_renews_a_handle(tmp_path: Path) -> None:
    files = Files()
    name = await files.open(str(tmp_path / "file"), "w+", 0o644)
    for use in (files.write(name, b"x"), files.read(name)):
        before = files._handles[name].expiry
        await use
        after = files._handles[name].expiry
        assert before is not None
        assert after is not None
        assert before.cancelled()
        assert not after.cancelled()
    await files.close_all()
    assert open_below(tmp_path / "file") == []


async def test_number_of_handles_is_bounded_while_they_open(tmp_path: Path) -> None:
    files = Files(handles_max=3)
    opening = [files.open(str(tmp_path / f"{n}"), "w", 0o644) for n in range(8)]
    results = await asyncio.gather(*opening, return_exceptions=True)
    assert sum(isinstance(each, Exhausted) for each in results) == 5
    await files.close_all()
    assert len(files) == 0


async def test_writes_of_one_handle_keep_their_order(tmp_path: Path) -> None:
    files = Files()
    name = await files.open(str(tmp_path / "file"), "w", 0o644)
    await asyncio.gather(*(files.write(name, bytes([n]) * 4096) for n in range(32)))
    files.close(name)
    await gone(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([n]) * 4096 for n in range(32))


async def test_cancelled_write_keeps_its_turn(tmp_path: Path) -> None:
    """The descriptor is not closed, and so not used for another file, under a thread that is still at it."""
    files = Files()
    name = await files.open(str(tmp_path / "file"), "w", 0o644)
    pipes = [os.pipe() for _ in range(blocking.SIZES["path"])]
    held = [blocking.pool("path").submit(os.read, end, 1) for end, _ in pipes]
    writing = asyncio.ensure_future(files.write(name, b"whole"))
    await asyncio.sleep(0)
    writing.cancel()
    files.close(name)
    assert len(open_below(tmp_path / "file")) == 1
    for (end, other), read in zip(pipes, held, strict=True):
        os.write(other, b"x")
        assert read.result(60) == b"x"
        os.close(other)
        os.close(end)
    await gone(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"whole"


async def test_cancelled_open_leaves_no_descriptor(tmp_path: Path) -> None:
    files = Files()
    opening = asyncio.ensure_future(files.open(str(tmp_path / "file"), "w", 0o644))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(60):
        while not (tmp_path / "file").exists():  # noqa: ASYNC110 - the thread goes on
            await asyncio.sleep(0.005)
    await gone(tmp_path / "file")
    assert len(files) == 0
