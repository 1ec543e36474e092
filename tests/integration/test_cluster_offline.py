"""Vdisks on real redis-servers: copied, removed, and what nobody names any more collected."""

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from g8node.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, Unavailable
from g8node.vdisk.cluster import content
from g8node.vdisk.cluster.collect import ClusterCollection
from g8node.vdisk.cluster.exports import ClusterVdisks
from g8node.vdisk.cluster.layout import content_hash
from g8node.vdisk.cluster.member import Member, Patience
from g8node.vdisk.cluster.remote import Remote
from g8node.vdisk.cluster.settings import Configuration, Nbd, Static
from g8node.vdisk.limits import Limits
from g8node.vdisk.record import Kind
from g8node.wire import nbd
from tests.support.clusters import (
    HASTY,
    cluster,
    configured,
    redis_servers,
    yaml_of,
)
from tests.support.clusters import running as running_with
from tests.support.etcd import etcd_server
from tests.support.redis import eventually
from tests.support.servers import RedisProcess
from tests.support.vdisks import G8, run

BLOCK = 4096
STEADY = Patience(attempt_s=10.0, total_s=30.0, probe_s=0.1)
running = functools.partial(running_with, patience=STEADY)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "primary", 3) as servers:
        yield servers


@pytest.fixture
def slaves(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "slave", 3) as servers:
        yield servers


def block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


def two(config: Configuration, other: Configuration) -> Configuration:
    return Configuration(config.vdisks | other.vdisks)


def keys(servers: list[RedisProcess]) -> list[bytes]:
    found: list[bytes] = []
    for server in servers:
        with server.client() as client:
            found += client.keys("*")
    return found


def contents(servers: list[RedisProcess]) -> set[bytes]:
    return {key for key in keys(servers) if len(key) == 32}


@contextlib.asynccontextmanager
async def exports_of(config: Configuration, patience: Patience = STEADY) -> AsyncIterator[ClusterVdisks]:
    exports = ClusterVdisks(patience=patience)
    await exports.update(config)
    try:
        yield exports
    finally:
        await exports.close()


async def read(config: Configuration, name: str, blocks: int) -> bytes:
    async with running(Configuration({name: config.vdisks[name]})) as vd:
        return await vd.read(0, blocks * BLOCK)


# Copies


@pytest.mark.parametrize("kind", ["db", "boot"])
async def test_copy_has_the_bytes_on_another_number_of_servers(
    three: list[RedisProcess], slaves: list[RedisProcess], kind: Kind
) -> None:
    source = configured(cluster(three), kind=kind)
    target = configured(cluster(slaves[:2]), kind=kind, name="copy", size=2)
    config = two(source, target)
    async with running(source) as vd:
        for number in (0, 1, 2, 127, 128, 300):
            await vd.write(number * BLOCK, block(number))
        await vd.vdisk.trim(BLOCK, BLOCK)
    async with exports_of(config) as exports:
        await exports.copy("vd", config.vdisks["copy"])
        with pytest.raises(AlreadyExists, match="copy"):
            await exports.copy("vd", config.vdisks["copy"])
    expected = await read(config, "vd", 301)
    assert expected[300 * BLOCK :] == block(300)
    assert await read(config, "copy", 301) == expected
    async with running(Configuration({"copy": config.vdisks["copy"]})) as vd:
        await vd.write(0, block(9))
    assert await read(config, "vd", 301) == expected


async def test_copy_of_a_clone_shows_the_same_template(
    three: list[RedisProcess], slaves: list[RedisProcess]
) -> None:
    with slaves[0].client() as client:
        for number in range(3):
            client.hset("nondedup:image", str(number), block(number))
    template = cluster(slaves[:1])
    config = two(
        configured(cluster(three), template=template, source="image"),
        configured(cluster(three), template=template, source="image", name="copy"),
    )
    async with running(Configuration({"vd": config.vdisks["vd"]})) as vd:
        await vd.write(0, block(9))
        await vd.vdisk.trim(BLOCK, BLOCK)
    async with exports_of(config) as exports:
        await exports.copy("vd", config.vdisks["copy"])
        with pytest.raises(InvalidArgument, match="template"):
            await exports.copy("vd", configured(cluster(three), name="other").vdisks["other"])
    assert await read(config, "copy", 3) == block(9) + bytes(BLOCK) + block(2)


async def test_copy_that_cannot_be_made_leaves_nothing(three: list[RedisProcess]) -> None:
    """A clone whose content is nowhere."""
    with three[0].client() as client:
        client.hset("lba:vd", "0", content_hash(block(1)).ljust(4096, b"\0"))
    source = configured(cluster(three), kind="boot")
    target = configured(cluster(three), kind="boot", name="copy")
    async with exports_of(source) as exports:
        with pytest.raises(Unavailable, match="content"):
            await exports.copy("vd", target.vdisks["copy"])
    assert not [key for key in keys(three) if b"copy" in key]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"size": 1}, "size of 2"), ({"block_size": 8192}, "block size"), ({"type": "boot"}, "type db")],
)
async def test_copy_to_what_does_not_fit_is_refused(
    three: list[RedisProcess], changes: dict[str, object], says: str
) -> None:
    source = configured(cluster(three), size=2)
    one = source.vdisks["vd"]
    static = msgspec.structs.replace(one.static, **changes)
    async with exports_of(source) as exports:
        with pytest.raises(InvalidArgument, match=f"target: .*{says}"):
            await exports.copy("vd", msgspec.structs.replace(one, id="copy", static=static))
        with pytest.raises(NotFound):
            await exports.copy("nosuch", one)
        with pytest.raises(Conflict):
            await exports.copy("vd", one)


# Removal


async def test_tmp_vdisk_begins_anew_when_all_have_left_in_order(
    three: list[RedisProcess], slaves: list[RedisProcess]
) -> None:
    config = configured(cluster(three), slave=cluster(slaves), kind="tmp")
    async with running(config, in_order=False) as vd:
        await vd.write(0, block(1))
        vd.vdisk.count(nbd.CMD_WRITE, 1, BLOCK)
    async with running(config) as vd:
        assert await vd.read(0, BLOCK) == block(1)
    assert keys([*three, *slaves])
    async with running(config) as vd:
        await vd.write(BLOCK, block(2))
        vd.vdisk.count(nbd.CMD_WRITE, 1, BLOCK)
    assert keys([*three, *slaves]) == []
    async with running(config) as vd:
        assert await vd.read(0, 2 * BLOCK) == bytes(2 * BLOCK)


@pytest.mark.parametrize("kind", ["db", "boot"])
async def test_removed_vdisk_is_gone_from_all_servers_and_others_stay(
    three: list[RedisProcess], slaves: list[RedisProcess], kind: Kind
) -> None:
    source = configured(cluster(three), slave=cluster(slaves), kind=kind)
    other = configured(cluster(three), slave=cluster(slaves), kind=kind, name="vd:other")
    config = two(source, other)
    for one in (source, other):
        async with running(one) as vd:
            await vd.write(0, b"".join(block(number) for number in range(8)))
    async with exports_of(config) as exports:
        export = await exports.open("vd")
        with pytest.raises(Conflict, match="connections"):
            await exports.delete("vd")
        await exports.leave("vd", export, in_order=True)
        await exports.delete("vd")
    left = {key for key in keys([*three, *slaves]) if len(key) != 32}
    assert left
    assert all(b"vd:other" in key for key in left)
    assert await read(config, "vd:other", 8) == b"".join(block(number) for number in range(8))


async def test_removal_needs_all_servers_and_may_be_repeated(three: list[RedisProcess]) -> None:
    config = configured(cluster(three))
    async with running(config) as vd:
        await vd.write(0, b"".join(block(number) for number in range(8)))
    await asyncio.to_thread(three[1].stop)
    async with exports_of(config, HASTY) as exports:
        with pytest.raises(Unavailable, match=str(three[1].port)):
            await exports.delete("vd")
        await asyncio.to_thread(three[1].resume)
        await exports.delete("vd")
    assert keys(three) == []


async def test_template_of_another_is_not_removed(three: list[RedisProcess]) -> None:
    image = configured(cluster(three), name="image")
    clone = configured(cluster(three), template=cluster(three), source="image")
    async with exports_of(two(image, clone)) as exports:
        with pytest.raises(Conflict, match="template of 'vd'"):
            await exports.delete("image")


# Collection


async def until_idle(servers: list[RedisProcess], seconds: int) -> None:
    """All content that is there was not used for so long."""

    def idle() -> bool:
        for server in servers:
            with server.client() as client:
                for key in client.keys("*"):
                    if len(key) == 32 and client.object("idletime", key) < seconds:
                        return False
        return True

    for _ in range(600):
        if await asyncio.to_thread(idle):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("content is in use")


async def test_content_that_nobody_names_is_removed_on_slaves_too(
    three: list[RedisProcess], slaves: list[RedisProcess]
) -> None:
    config = configured(cluster(three), slave=cluster(slaves), kind="boot")
    async with running(config) as vd:
        await vd.write(0, b"".join(block(number) for number in range(8)))
        await vd.vdisk.flush()
        await vd.write(0, b"".join(block(number) for number in range(100, 104)))
        await vd.vdisk.flush()
        first = await vd.exports.collect("primary")
        assert (first.blocks, first.kept) == (0, 24)  # all of it was just used
        await until_idle([*three, *slaves], 3)
        done = await vd.exports.collect("primary", grace_s=0)
        assert (done.blocks, done.bytes, done.kept) == (8, 8 * BLOCK, 16)
        expected = {content_hash(block(number)) for number in (4, 5, 6, 7, 100, 101, 102, 103)}
        assert contents(three) == contents(slaves) == expected
    assert await read(config, "vd", 8) == b"".join(map(block, (100, 101, 102, 103, 4, 5, 6, 7)))


async def test_rate_is_kept_by_pauses(three: list[RedisProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    sleep, pauses = asyncio.sleep, []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async with running(configured(cluster(three), kind="boot")) as vd:
        await vd.write(0, b"".join(block(number) for number in range(8)))
        await vd.vdisk.flush()
        monkeypatch.setattr(asyncio, "sleep", pause)
        await vd.exports.collect("primary", bytes_s=1000)
        monkeypatch.setattr(asyncio, "sleep", sleep)
    assert sum(pauses) >= BLOCK / 1000  # the sector of hashes, at least


async def test_content_that_a_clone_elsewhere_names_stays(
    three: list[RedisProcess], slaves: list[RedisProcess]
) -> None:
    """The template's cluster is collected after the template's vdisk is gone."""
    image = configured(cluster(three), kind="boot", name="image")
    clone = configured(cluster(slaves), template=cluster(three), kind="boot", name="clone")
    nbd = msgspec.structs.replace(clone.vdisks["clone"].nbd, storage="far", template="primary")
    clone = Configuration({"clone": msgspec.structs.replace(clone.vdisks["clone"], nbd=nbd)})
    async with running(image) as vd:
        await vd.write(0, b"".join(block(number) for number in range(4)))
    with slaves[0].client() as client:
        client.hset("lba:clone", "0", b"".join(content_hash(block(n)) for n in range(3)).ljust(4096, b"\0"))
    with three[0].client() as client:
        client.delete("lba:image")
    await until_idle(three, 3)
    async with exports_of(two(image, clone)) as exports:
        done = await exports.collect("primary", grace_s=0)
    assert (done.blocks, done.kept) == (1, 3)
    assert await read(clone, "clone", 3) == b"".join(block(number) for number in range(3))


async def test_nothing_is_removed_unless_all_servers_answer(three: list[RedisProcess]) -> None:
    config = configured(cluster(three), kind="boot")
    async with running(config) as vd:
        await vd.write(0, b"".join(block(number) for number in range(8)))
    before = contents(three)
    await asyncio.to_thread(three[2].stop)
    async with exports_of(config, HASTY) as exports:
        with pytest.raises(Unavailable, match=str(three[2].port)):
            await exports.collect("primary", grace_s=0)
        with pytest.raises(NotFound, match="cluster"):
            await exports.collect("nosuch")
    await asyncio.to_thread(three[2].resume)
    assert contents(three) == before


async def test_dead_content_that_is_written_again_during_a_collection_stays(
    three: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the marking, which does not see the new hash, and the removal."""
    sweep = ClusterCollection._sweep
    again: list[asyncio.Future[None]] = []
    async with running(configured(cluster(three), kind="boot")) as vd:
        await vd.write(0, b"".join(block(number) for number in range(8)))
        await vd.vdisk.flush()
        await vd.vdisk.trim(0, 8 * BLOCK)
        await vd.vdisk.flush()
        await until_idle(three, 3)

        async def late(self: ClusterCollection, member: Member, began: float) -> None:
            if not again:
                again.append(asyncio.ensure_future(vd.write(64 * BLOCK, block(3) + block(4))))
                await again[0]
            await sweep(self, member, began)

        monkeypatch.setattr(ClusterCollection, "_sweep", late)
        done = await vd.exports.collect("primary", grace_s=0)
        assert (done.blocks, done.kept) == (6, 2)
        assert await vd.read(64 * BLOCK, 2 * BLOCK) == block(3) + block(4)
    assert contents(three) == {content_hash(block(3)), content_hash(block(4))}


async def test_content_whose_hash_is_not_written_yet_stays(three: list[RedisProcess]) -> None:
    async with running(configured(cluster(three), kind="boot")) as vd:
        await vd.write(0, b"".join(block(number) for number in range(8)))
        done = await vd.exports.collect("primary", grace_s=600)
        assert (done.blocks, done.kept) == (0, 8)
        await vd.vdisk.flush()
        assert await vd.read(0, 8 * BLOCK) == b"".join(block(number) for number in range(8))


async def test_hashes_are_written_without_a_flush(
    three: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "FLUSH_S", 0.01)
    async with running(configured(cluster(three), kind="boot")) as vd:
        await vd.write(0, block(1))
        with three[0].client() as client:
            await eventually(lambda: client.hexists("lba:vd", "0"), "a hash on the server", 60)


# By command


def values(servers: list[RedisProcess]) -> dict[str, str]:
    rows = [f"- {{address: '127.0.0.1:{server.port}'}}" for server in servers]
    cluster_text = "\n".join(["servers:", *rows])
    return {"vm1:nbdserver:conf:vdisks": "vdisks: []", "c1:cluster:conf:storage": cluster_text}


async def test_vdisks_are_made_copied_and_removed_in_etcd(three: list[RedisProcess], tmp_path: Path) -> None:
    with etcd_server(tmp_path / "etcd") as etcd:
        etcd.put(values(three))

        async def g8(*words: str) -> None:
            await asyncio.to_thread(run, *G8, "vdisk", *words, "--config", etcd.place, "--id", "vm1")

        await g8("create", "vd", "1G", "--type", "boot", "--cluster", "c1", "--iops", "1000000")
        remote = Remote(etcd.place, "vm1", patience=STEADY)
        await remote.start()
        static, nbd = Static(4096, 1, "db"), Nbd("c1")
        with pytest.raises(AlreadyExists):
            await remote.create("vd", static, nbd)
        with pytest.raises(InvalidArgument, match="storageClusterID"):
            await remote.create("odd", static, Nbd("nosuch"))
        assert remote.vdisks.info("vd")["limits"]["iops"] == 1000000
        export = await remote.vdisks.open("vd")
        assert await export.write_many([(0, memoryview(block(1)))]) == [None]
        await g8("resize", "vd", "2G")
        await eventually(lambda: export.describe().size == 2 << 30, "a vdisk in use that has grown", 60)
        assert remote.vdisks.info("vd")["limits"]["iops"] == 1000000
        with pytest.raises(Conflict, match="less than the present"):
            await remote.resize("vd", 1 << 30)
        await remote.limit("vd", Limits(iops=5))
        await eventually(lambda: export.record.limits.iops == 5, "another limit of a vdisk in use", 60)
        await remote.vdisks.leave("vd", export, in_order=True)
        await g8("copy", "vd", "two")
        await remote.delete("vd")
        assert [name for name, _ in remote.vdisks.names()] == ["two"]
        export = await remote.vdisks.open("two")
        into = bytearray(BLOCK)
        await export.read(0, memoryview(into))
        assert into == block(1)
        await remote.vdisks.leave("two", export, in_order=True)
        await remote.close()


async def test_file_says_who_must_change_it(three: list[RedisProcess], tmp_path: Path) -> None:
    config = tmp_path / "vdisks.yml"
    config.write_text(yaml_of(three))
    remote = Remote(str(config), patience=STEADY)
    await remote.start()
    with pytest.raises(Conflict, match=r"'new' is not in .*vdisks\.yml"):
        await remote.create("new", Static(4096, 1, "db"), Nbd("primary"))
    with pytest.raises(Conflict, match=r"'new' is not in"):
        await remote.copy("vd", "new")
    await remote.delete("vd")
    assert [name for name, _ in remote.vdisks.names()] == ["vd"]
    await remote.close()
