"""Prefetch, pins, statistics, profiles and streaming of mounted flists."""

import asyncio
import os
from typing import Any

import pytest

from g8node.errors import Exhausted, NotFound
from g8node.runtime import blocking
from tests.support.agent import until
from tests.support.chunks import digests, publish, some_bytes
from tests.support.faults import flip
from tests.support.mounted import TREE_IN_SOAK, Node, drop_caches, in_child, open_mounts

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.usefixtures("view"), TREE_IN_SOAK]


async def tree_of(path: str) -> dict[str, str]:
    return await blocking.run("path", digests, path)


def reads(rows: list[dict[str, Any]]) -> dict[str, int]:
    (row,) = rows
    found: dict[str, int] = row["reads"]
    return found


@in_child
async def test_prefetched_flist_needs_no_store(node: Node) -> None:
    done = await node.mounts.prefetch(node.flist, storage=node.server.url)
    assert done["chunks"] > 40
    assert (done["failed"], done["cached"], done["error"]) == (0, 0, "")
    again = await node.mounts.prefetch(node.flist, storage=node.server.url)
    assert again["cached"] == again["chunks"] == done["chunks"]
    await blocking.run("disk", node.server.down)
    assert await tree_of(await node.attach()) == await tree_of(str(node.tree))
    assert reads(await node.mounts.shown())["misses"] == 0
    node.server.up()


@in_child
async def test_prefetch_of_a_folder_fetches_only_that(node: Node) -> None:
    done = await node.mounts.prefetch(node.flist, storage=node.server.url, paths=["/small/", "/../link"])
    assert done["chunks"] == 40
    await blocking.run("disk", node.server.down)
    target = await node.attach()
    assert await tree_of(f"{target}/small") == await tree_of(f"{node.tree}/small")
    with pytest.raises(OSError):
        await node.read(f"{target}/size524289")
    node.server.up()


@in_child
async def test_prefetch_says_what_failed(node: Node) -> None:
    await blocking.run("disk", node.server.down)
    done = await node.mounts.prefetch(node.flist, storage=node.server.url)
    assert done["failed"] > 40
    assert done["chunks"] == 0
    assert done["error"]
    node.server.up()
    with pytest.raises(NotFound):
        await node.mounts.prefetch("/no/such.flist", storage=node.server.url)


@in_child
async def test_statistics_count_what_readers_asked_for(node: Node) -> None:
    target = await node.attach()
    await tree_of(target)
    (row,) = await node.mounts.shown()
    assert (row["target"], row["flist"], row["storage"]) == (target, node.flist, node.server.url)
    counted = row["reads"]
    assert counted["misses"] > 0  # neighbours of what was missing have come meanwhile
    assert counted["hits"] + counted["misses"] > 40
    assert counted["read_bytes"] > 3 << 20
    assert counted["errors"] == 0
    await node.settled()
    stats = node.mounts.stats()
    assert stats["fetches"]["chunks"] > 8
    assert stats["cache"]["chunks"] == stats["fetches"]["chunks"]
    assert 0 < stats["cache"]["size_bytes"] <= stats["cache"]["budget_bytes"]
    await node.mounts.detach(target)
    assert node.mounts.stats()["reads"] == counted


@in_child
async def test_pinned_flist_outlives_the_drop_of_all_others(node: Node) -> None:
    await node.mounts.prefetch(node.flist, storage=node.server.url)
    pinned = await node.mounts.pin(node.flist)
    assert pinned["chunks"] > 40
    assert node.mounts.stats()["cache"]["pins"] == [pinned["digest"]]
    await node.mounts.drop()
    await node.restart()
    assert node.mounts.stats()["cache"]["chunks"] == pinned["chunks"]
    assert await node.mounts.unpin(pinned["digest"])
    assert not await node.mounts.unpin(node.flist)
    assert await node.mounts.drop() > pinned["size_bytes"]
    assert node.mounts.stats()["cache"]["chunks"] == 0


@in_child
async def test_pin_of_what_does_not_fit_is_refused(node: Node) -> None:
    await node.mounts.close()
    node.mounts = open_mounts(node.tmp, cache_bytes=4 << 20)
    await node.mounts.start()
    with pytest.raises(Exhausted, match="half"):
        await node.mounts.pin(node.flist)


@in_child(settings={"around_bytes": 0})
async def test_second_start_has_fetched_what_the_first_read(node: Node) -> None:
    target = await node.attach()
    wanted = ["small/f0003", "size4097", "size524289", "small/f0020"]
    first = [await node.read(f"{target}/{name}") for name in wanted]
    await node.settled()
    await node.mounts.detach(target)
    fetched = node.mounts.stats()["fetches"]["chunks"]
    await node.mounts.drop()
    await blocking.run("disk", drop_caches)
    target = await node.attach("again")
    await until(lambda: node.mounts.stats()["fetches"]["chunks"] == 2 * fetched)
    await until(lambda: node.mounts.stats()["fetches"]["in_flight"] == 0)
    await blocking.run("disk", node.server.down)
    assert [await node.read(f"{target}/{name}") for name in wanted] == first
    with pytest.raises(OSError):
        await node.read(f"{target}/size{3 << 20}")
    node.server.up()


@in_child
async def test_damaged_profile_is_no_profile(node: Node) -> None:
    target = await node.attach()
    await node.read(f"{target}/small/f0003")
    await node.mounts.detach(target)
    (profile,) = (node.tmp / "cache/profiles").iterdir()
    profile.write_bytes(flip(profile.read_bytes()))
    target = await node.attach("again")
    assert await tree_of(target) == await tree_of(str(node.tree))
    await node.mounts.detach(target)
    assert len(profile.read_bytes()) > 200


@in_child
async def test_who_reads_a_third_gets_the_rest_ahead(node: Node) -> None:
    tree = node.tmp / "large"
    await blocking.run("disk", _hundred_files, str(tree))
    flist = str(await publish(tree, node.tmp / "larger"))
    target = str(node.tmp / "mnt")
    await node.mounts.attach(flist, target, storage=f"dir://{node.tmp}/larger/chunks")
    await blocking.run("path", digests, f"{target}/a")
    await until(lambda: node.mounts.stats()["fetches"]["chunks"] == 100)


def _hundred_files(top: str) -> None:
    for number in range(100):
        folder = f"{top}/{'a' if number < 40 else 'b'}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{number}", "wb") as out:
            out.write(some_bytes(20_000, number))


@in_child(deadline_s=180)
async def test_drop_and_prefetch_under_readers_change_no_byte(node: Node) -> None:
    target = await node.attach()
    expected = await tree_of(str(node.tree))

    async def read() -> None:
        for _ in range(4):
            await blocking.run("disk", drop_caches)
            assert await tree_of(target) == expected

    async def disturb() -> None:
        while True:
            await node.mounts.drop()
            await node.mounts.prefetch(node.flist, storage=node.server.url)

    disturbing = asyncio.create_task(disturb())
    await asyncio.gather(read(), read())
    disturbing.cancel()
    await asyncio.wait([disturbing])
    assert disturbing.cancelled()
