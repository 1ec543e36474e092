"""Stores that fail: EIO for the read, never wrong bytes, and the mount lives."""

import asyncio
import errno
import subprocess
import time
from pathlib import Path

import pytest

from g8node.linux.mount import mount, unmount
from g8node.runtime import blocking
from tests.support.agent import until
from tests.support.chunks import digests, some_bytes
from tests.support.mounted import Node, drop_caches, in_child

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.usefixtures("view")]

ALONE = {"around_bytes": 0}
"""So that what was not read is not there."""
IMPATIENT = ALONE | {"read_timeout_s": 3.0}
SMALL = "size4097"
LARGE = "size3145728"
LAST = "size524289"
"""Reading it reads ahead, but not back to the others."""


async def error_of(node: Node, path: str) -> int:
    try:
        await node.read(path)
    except OSError as error:
        return error.errno or 0
    return 0


async def healed(node: Node, path: str) -> bytes:
    """The content, once the store is back: by itself."""
    end = time.monotonic() + 60
    while await error_of(node, path) and time.monotonic() < end:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.02)
    return await node.read(path)


async def healed_tree(node: Node, target: str) -> dict[str, str]:
    """The same of all files. What was read ahead may have failed later than what was read."""
    end = time.monotonic() + 60
    while True:
        try:
            return await blocking.run("path", digests, target)
        except OSError as error:
            if error.errno != errno.EIO or time.monotonic() > end:
                raise


@in_child(settings=ALONE)
async def test_corrupted_chunk_is_never_served_nor_cached(node: Node) -> None:
    target = await node.attach()
    node.server.fault = "corrupt"
    assert await error_of(node, f"{target}/{SMALL}") == errno.EIO
    assert await error_of(node, f"{target}/{LARGE}") == errno.EIO
    assert node.mounts._cache is not None
    assert len(node.mounts._cache._segments) == 0
    node.server.fault = ""
    assert await healed(node, f"{target}/{SMALL}") == some_bytes(4097, 4097)
    assert await healed(node, f"{target}/{LARGE}") == some_bytes(3 << 20, 3 << 20)


@pytest.mark.parametrize("fault", ["down", "error", "short", "hang", "absent"])
def test_failing_store_is_eio_on_what_was_not_read(
    fault: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    SCENARIOS[fault](tmp_path, request)


async def failing(node: Node, fault: str) -> None:
    told: list[str] = []
    node.mounts.stores.listeners.append(lambda now: told.append(now.state))
    target = await node.attach()
    read_before = await node.read(f"{target}/{LAST}")
    if fault == "down":
        await blocking.run("disk", node.server.down)
    else:
        node.server.fault = fault
    start = time.monotonic()
    assert await error_of(node, f"{target}/{SMALL}") == errno.EIO
    assert time.monotonic() - start < 60  # the limit is 3 s, and the store hangs for ten minutes
    assert await node.read(f"{target}/{LAST}") == read_before
    await blocking.run("disk", drop_caches)
    assert await node.read(f"{target}/{LAST}") == read_before  # from the chunk cache
    if fault == "down":
        node.server.up()
    node.server.fault = ""
    node.server.lifted.set()
    assert await healed(node, f"{target}/{SMALL}") == some_bytes(4097, 4097)
    expected = await blocking.run("path", digests, str(node.tree))
    assert await healed_tree(node, target) == expected
    await until(lambda: told[-1:] in ([], ["ok"]))  # what was told to be down is well again


@in_child(settings=ALONE)
async def down(node: Node) -> None:
    await failing(node, "down")


@in_child(settings=ALONE)
async def error(node: Node) -> None:
    await failing(node, "error")


@in_child(settings=ALONE)
async def short(node: Node) -> None:
    await failing(node, "short")


@in_child(settings=IMPATIENT)
async def hang(node: Node) -> None:
    await failing(node, "hang")


@in_child(settings=ALONE)
async def absent(node: Node) -> None:
    await failing(node, "absent")


SCENARIOS = {"down": down, "error": error, "short": short, "hang": hang, "absent": absent}


@in_child(settings={"read_timeout_s": 300.0})
async def test_unmount_ends_while_the_store_never_answers(node: Node) -> None:
    target = await node.attach()
    node.server.fault = "hang"
    reader = asyncio.create_task(error_of(node, f"{target}/{SMALL}"))
    await until(lambda: "/chunks" in "".join(node.server.requests))
    start = time.monotonic()
    await node.mounts.detach(target)
    detached = time.monotonic() - start
    await node.mounts.close()
    closed = time.monotonic() - start - detached
    assert detached + closed < 60, (detached, closed)  # the limit of a read is 300 s
    assert await reader


@in_child
async def test_damaged_cache_record_is_fetched_again(node: Node) -> None:
    target = await node.attach()
    expected = await node.read(f"{target}/{SMALL}")
    await node.mounts.close()
    await blocking.run("disk", damage, node.tmp / "cache/chunks")
    await node.restart()
    asked = len(node.server.requests)
    target = await node.attach()  # the profile of the first start may ask for it at once
    assert await node.read(f"{target}/{SMALL}") == expected
    assert len(node.server.requests) > asked


def damage(folder: Path) -> None:
    for path in folder.glob("*.seg"):
        data = bytearray(path.read_bytes())
        for at in range(200, len(data), 64):
            data[at] ^= 1
        path.write_bytes(data)


@in_child
async def test_one_chunk_is_fetched_once_for_all_mounts(node: Node) -> None:
    target = await node.attach()
    node.server.fault = "slow"
    await asyncio.gather(*(node.read(f"{target}/{LARGE}") for _ in range(8)))
    await node.settled()
    assert node.server.asked
    assert len(node.server.asked) == len(set(node.server.asked))


@in_child
async def test_full_disk_of_the_cache_only_costs_refetching(node: Node) -> None:
    await node.mounts.close()
    await blocking.run("path", small_tmpfs, str(node.tmp / "cache/chunks"))
    await node.restart()
    target = await node.attach()
    assert await blocking.run("path", digests, target) == await blocking.run("path", digests, str(node.tree))
    await node.mounts.close()
    await blocking.run("path", unmount, str(node.tmp / "cache/chunks"))


@in_child(settings=ALONE)
async def test_cache_disk_that_became_read_only_only_costs_refetching(node: Node) -> None:
    """As the kernel makes one whose disk fails: paths below it cannot be changed any more."""
    target, cache = await node.attach(), str(node.tmp / "cache")
    await node.read(f"{target}/{SMALL}")
    await node.mounts.detach(target)
    await blocking.run("path", read_only, cache)
    assert await blocking.run("path", digests, await node.attach()) == await blocking.run(
        "path", digests, str(node.tree)
    )
    await node.mounts.close()
    await blocking.run("path", unmount, cache)


def read_only(path: str) -> None:
    for options in (["--bind", path], ["-o", "remount,bind,ro"]):
        subprocess.run(["mount", *options, path], check=True, capture_output=True)
    with pytest.raises(OSError, match="Read-only"):
        Path(path, "x").touch()


def small_tmpfs(path: str) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)
    mount("tmpfs", path, "tmpfs", 0, "size=1m")
