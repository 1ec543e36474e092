"""Mounts over several and bad stores: no wrong byte, EIO only while a store fails, recovery by itself."""

import asyncio
import errno
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from g8node.runtime import blocking
from g8node.store.local import LocalStore
from g8node.store.locate import open_store
from tests.support.agent import until
from tests.support.chunks import digests, publish, some_bytes
from tests.support.faults import ChunkServer
from tests.support.mounted import TREE_IN_SOAK, Node, drop_caches, in_child, open_mounts, read_at
from tests.support.servers import RedisProcess

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.usefixtures("view"), TREE_IN_SOAK]

LARGE = "size3145728"
LARGE_BYTES = some_bytes(3 << 20, 3 << 20)
SMALL = "size4097"
LAST = "size524289"
"""Reading it reads ahead, but not back to the others."""
MANY = {f"big{number:02d}": random.Random(number).randbytes(3 << 20) for number in range(12)}
"""More than is kept in memory or, with a small budget, on disk."""
FAULTS = ("slow", "error", "corrupt", "short", "hang")


def random_reads(target: str, seed: int, is_over: Callable[[], bool]) -> list[tuple[float, int]]:
    """pread of random pieces, each compared, until it is over; (when, errno) of those that failed."""
    choose = random.Random(seed)
    failed: list[tuple[float, int]] = []
    while not is_over():
        name = choose.choice(list(MANY))
        offset, length = choose.randrange(3 << 20), choose.choice((1, 4096, 70_000, 1 << 20))
        end = min(offset + length, len(MANY[name]))
        while offset < end:
            begun = time.monotonic()
            try:
                got = read_at(f"{target}/{name}", offset, end - offset)
            except OSError as error:
                failed.append((begun, error.errno or 0))
                break
            assert got, f"{name} ends at {offset}"
            assert got == MANY[name][offset : offset + len(got)], f"wrong bytes in {name} at {offset}"
            offset += len(got)  # the kernel gives what it has before the page that failed
    return failed


async def reads_well(node: Node, target: str, deadline_s: float = 60.0) -> None:
    """Everything can be read, by itself, within the deadline."""
    expected = await blocking.run("path", digests, str(node.tree))
    end = time.monotonic() + deadline_s
    while True:
        await blocking.run("disk", drop_caches)
        try:
            assert await blocking.run("path", digests, target) == expected
            return
        except OSError as error:
            if error.errno != errno.EIO or time.monotonic() >= end:
                raise


async def with_many_files(node: Node) -> None:
    """A tree that the cache cannot hold, so that what was read has to be fetched again."""
    await node.mounts.close()
    node.mounts = open_mounts(node.tmp, cache_bytes=1 << 20, read_timeout_s=3.0)
    await node.mounts.start()
    node.tree = node.tmp / "many"
    await blocking.run("disk", write_many, node.tree)
    node.flist = str(await publish(node.tree, node.tmp))
    await blocking.run("disk", node.server.load, node.tmp / "chunks")


def write_many(top: Path) -> None:
    top.mkdir()
    for name, content in MANY.items():
        (top / name).write_bytes(content)


@in_child
async def test_random_readers_see_no_wrong_byte_in_any_weather(node: Node) -> None:
    await with_many_files(node)
    target = await node.attach()
    over = False
    readers = [
        asyncio.ensure_future(blocking.run("path", random_reads, target, seed, lambda: over))
        for seed in range(4)
    ]
    bad: list[tuple[float, float]] = []
    choose = random.Random(1)
    for fault in (*FAULTS, *choose.sample(FAULTS, 3)):
        begun = time.monotonic()
        node.server.lifted.clear()
        node.server.fault = fault
        for _ in range(4):
            await blocking.run("disk", drop_caches)
            await asyncio.sleep(0.1)  # weather takes its time
        node.server.fault = ""
        node.server.lifted.set()
        if fault != "slow":
            bad.append((begun, time.monotonic()))
        await asyncio.sleep(0.2)
    over = True
    failed = [one for found in await asyncio.gather(*readers) for one in found]
    assert failed, "the weather was never bad"
    assert all(number == errno.EIO for _, number in failed)
    for when, _ in failed:
        # It was under way in bad weather, or just after: what failed fails for a quarter of a second more.
        assert any(begun - 4 <= when <= end + 1 for begun, end in bad), (when, bad)
    await reads_well(node, target)


@pytest.mark.parametrize("fault", ["down", "error", "corrupt", "short", "hang"])
def test_second_store_takes_over_in_the_middle_of_a_read(
    fault: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    SCENARIOS[fault](tmp_path, request)


async def take_over(node: Node, fault: str) -> None:
    second = ChunkServer()
    try:
        second.chunks = node.server.chunks
        target = str(node.tmp / "mnt")
        await node.mounts.attach(node.flist, target, storage=f"{node.server.url} {second.url}")
        assert await node.read(f"{target}/{LARGE}", 0, 4096) == LARGE_BYTES[:4096]
        if fault == "down":
            await blocking.run("disk", node.server.down)
        else:
            node.server.fault = fault
        await reads_well(node, target, deadline_s=0)  # not one EIO
        assert second.requests
        states = {one.name: one.state for one in node.mounts.stores.statistics()}
        assert states[second.url] == "ok"
    finally:
        node.server.lifted.set()
        await blocking.run("disk", second.down)


@in_child
async def down(node: Node) -> None:
    await take_over(node, "down")


@in_child
async def error(node: Node) -> None:
    await take_over(node, "error")


@in_child
async def corrupt(node: Node) -> None:
    await take_over(node, "corrupt")


@in_child
async def short(node: Node) -> None:
    await take_over(node, "short")


@in_child
async def hang(node: Node) -> None:
    await take_over(node, "hang")


SCENARIOS = {"down": down, "error": error, "corrupt": corrupt, "short": short, "hang": hang}


@in_child
async def test_redis_that_stands_still_or_dies_is_eio_and_is_used_again(node: Node) -> None:
    server = await blocking.run("disk", RedisProcess, node.tmp / "redis")
    try:
        await fill(node, server)
        target = str(node.tmp / "mnt")
        await node.mounts.attach(node.flist, target, storage=f"{server.url}?timeout=1")
        await read_in_the_end(node, f"{target}/{LAST}")
        server.stop()
        with pytest.raises(OSError, match="Input/output error"):
            await node.read(f"{target}/{SMALL}")
        await until(lambda: node.mounts.stores.statistics()[0].failed_requests > 0)
        server.resume()
        await read_in_the_end(node, f"{target}/{SMALL}")
        await blocking.run("disk", server.kill)
        with pytest.raises(OSError, match="Input/output error"):
            await node.read(f"{target}/{LARGE}")
        await blocking.run("disk", server.up)
        await fill(node, server)
        await reads_well(node, target)
        await until(lambda: node.mounts.stores.statistics()[0].state == "ok")
        await node.mounts.detach(target)
        await until(lambda: not node.mounts.stores.statistics())
    finally:
        await blocking.run("disk", server.kill)


async def read_in_the_end(node: Node, path: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            await node.read(path)
            return
        except OSError:
            if time.monotonic() > end:
                raise


async def fill(node: Node, server: RedisProcess) -> None:
    source, target = LocalStore(str(node.tmp / "chunks")), open_store(server.url)
    ids = [bytes.fromhex(path.name) for path in (node.tmp / "chunks").glob("??/*")]
    got = await source.get_many(ids)  # type: ignore[arg-type]  # they are chunk ids
    await target.put_many({id: stored for id, stored in got.items() if isinstance(stored, bytes)})
    await target.close()
