"""Vdisks on a real Redis Cluster of six servers."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from g8node.errors import AlreadyExists, Conflict, Unavailable
from g8node.store.cluster import slot_of
from g8node.vdisk.cluster.layout import content_hash, part_key
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.settings import Configuration, Server, StorageCluster
from g8node.vdisk.record import Kind
from g8tools.up.vm import free_port
from tests.support.clusters import Running, configured, running
from tests.support.redis import eventually
from tests.support.servers import NODE_TIMEOUT_MS, RedisProcess, low_port, redis_cluster
from tests.support.vdisks import G8, ServedConfig, run

BLOCK = 4096
PATIENCE = Patience(attempt_s=2.0, total_s=2.0, probe_s=0.05, take_over_s=60.0)
IMPATIENT = Patience(attempt_s=10.0, total_s=0.1, probe_s=0.05, take_over_s=0.1)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisProcess]]:
    """Whole when a test begins: whoever breaks it mends it. Emptied by whoever needs that."""
    options = ("--repl-diskless-sync-delay", "0")
    with redis_cluster(tmp_path_factory.mktemp("cluster"), options=options) as servers:
        yield servers


@pytest.fixture
def empty(six: list[RedisProcess]) -> list[RedisProcess]:
    for server in masters(six):
        with server.client() as client:
            client.flushall()
    end = time.monotonic() + 60
    while not is_whole(six):
        assert time.monotonic() < end, "the cluster is not whole"
        time.sleep(0.05)
    return six


def seeds(servers: list[RedisProcess], *, replicas: int = 1) -> StorageCluster:
    """The first is one that nobody listens at."""
    dead = Server(f"127.0.0.1:{free_port()}")
    return StorageCluster(
        (dead, *(Server(f"127.0.0.1:{server.port}") for server in servers[:2])),
        type="redis-cluster",
        replicas=replicas,
    )


def role(server: RedisProcess) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])


def masters(servers: list[RedisProcess]) -> list[RedisProcess]:
    return [server for server in servers if role(server) == "master"]


def owner(servers: list[RedisProcess], key: bytes) -> RedisProcess:
    with servers[0].client() as client:
        rows = client.execute_command("CLUSTER", "SLOTS")
    port = next(row[2][1] for row in rows if row[0] <= slot_of(key) <= row[1])
    return next(server for server in servers if server.port == port)


def keys(servers: list[RedisProcess]) -> list[bytes]:
    found: list[bytes] = []
    for server in masters(servers):
        with server.client() as client:
            found += client.keys("*")
    return found


def block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


# Layout


async def test_blocks_lie_where_the_rule_says(empty: list[RedisProcess]) -> None:
    async with running(configured(seeds(empty)), patience=PATIENCE) as vd:
        for number in (0, 1, 1023, 1024, 5000):
            await vd.write(number * BLOCK, block(number))
        assert await vd.read(5000 * BLOCK, BLOCK) == block(5000)
        assert await vd.read(2 * BLOCK, BLOCK) == bytes(BLOCK)
    for number, name in ((0, 0), (1, 1), (1023, 1023), (1024, 0), (5000, 904)):
        key = f"nondedup:{{{name}:vd}}".encode()
        with owner(empty, key).client() as client:
            assert client.hget(key, str(number)) == block(number)
    held = [sum(key.startswith(b"nondedup:") for key in keys([server])) for server in masters(empty)]
    assert sum(held) == 1024
    assert min(held) > 200


async def test_content_and_hashes_lie_where_the_rule_says(empty: list[RedisProcess]) -> None:
    async with running(configured(seeds(empty), kind="boot"), patience=PATIENCE) as vd:
        await vd.write(128 * 1030 * BLOCK, block(1))
        await vd.vdisk.flush()
    hash, key = content_hash(block(1)), b"lba:{6:vd}"
    with owner(empty, hash).client() as client:
        assert client.get(hash) == block(1)
    with owner(empty, key).client() as client:
        assert client.hget(key, "1030")[:32] == hash


@pytest.mark.parametrize("kind", ["db", "boot"])
async def test_any_bytes_are_what_was_written_last(empty: list[RedisProcess], kind: Kind) -> None:
    dice = random.Random(kind)
    size = 64 * BLOCK
    model = bytearray(size)
    config = configured(seeds(empty), kind=kind)
    async with running(config, patience=PATIENCE) as vd:
        for _ in range(80):
            offset = dice.randrange(size)
            length = dice.randint(1, min(size - offset, 5 * BLOCK))
            if dice.random() < 0.3:
                await vd.vdisk.zero(offset, length, keep=False, fast=False)
                model[offset : offset + length] = bytes(length)
            else:
                data = dice.randbytes(length)
                await vd.write(offset, data)
                model[offset : offset + length] = data
        assert await vd.read(0, size) == model
    async with running(config, patience=PATIENCE) as vd:
        assert await vd.read(0, size) == model
        holes = [extent for extent in await vd.vdisk.extents(size, 8 * BLOCK, 8)]
        assert holes == [(8 * BLOCK, 3)]


# What must never read as zeros


async def test_part_without_its_mark_is_an_error(empty: list[RedisProcess]) -> None:
    """As when a master came back without its data before anybody took over."""
    config = configured(seeds(empty))
    async with running(config, patience=PATIENCE) as vd:
        await vd.write(0, block(0) + block(1))
    with owner(empty, part_key("nondedup:vd", 0)).client() as client:
        client.delete(part_key("nondedup:vd", 0))
    async with running(config, patience=PATIENCE) as vd:
        assert await vd.read(BLOCK, BLOCK) == block(1)
        for question in (vd.read(0, BLOCK), vd.write(512, b"part of a block"), vd.vdisk.extents(0, BLOCK, 1)):
            with pytest.raises(Unavailable, match="lost its data"):
                await question
    with owner(empty, b"g8node:vd").client() as client:
        client.delete("g8node:vd")
    async with running(config, patience=PATIENCE) as vd:
        with pytest.raises(Unavailable, match="lost its data"):
            await vd.read(0, BLOCK)


async def test_change_that_a_replica_does_not_get_is_an_error(empty: list[RedisProcess]) -> None:
    """One that the cluster does not take for failed."""
    config = configured(seeds(empty))
    async with running(config, patience=PATIENCE) as vd:
        await vd.write(0, block(1))
    follow(empty, "wrong")
    async with running(config, patience=IMPATIENT) as vd:
        with pytest.raises(Unavailable, match=r"0 replicas of .* have it, expected 1"):
            await vd.write(0, block(2))
        async with running(configured(seeds(empty, replicas=0)), patience=PATIENCE) as fast:
            await fast.write(0, block(3))
        follow(empty, "")
        await eventually(lambda: is_whole(empty), "replicas that follow", 60)
        await vd.write(0, block(4))
        assert await vd.read(0, BLOCK) == block(4)


def follow(servers: list[RedisProcess], password: str) -> None:
    """Replicas log in with that, which no server asks for."""
    for server in servers:
        with server.client() as client:
            client.config_set("masterauth", password)
    for server in masters(servers):
        with server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")


async def test_servers_that_are_no_cluster_are_refused(tmp_path: Path) -> None:
    server = RedisProcess(tmp_path)
    try:
        with pytest.raises(Unavailable, match="cluster support disabled"):
            async with running(configured(seeds([server])), patience=IMPATIENT):
                pass
    finally:
        server.kill()


# Clones, copies, removal, collection


@pytest.mark.parametrize("kind", ["db", "boot"])
async def test_copy_removal_and_template(empty: list[RedisProcess], kind: Kind) -> None:
    there = seeds(empty)
    vdisks = configured(there, kind=kind, name="image:{x}").vdisks | configured(there, kind=kind).vdisks
    async with running(Configuration({"image:{x}": vdisks["image:{x}"]}), patience=PATIENCE) as vd:
        await vd.write(0, block(0) + block(1))
    async with running(Configuration(vdisks), patience=PATIENCE) as image:
        exports = image.exports
        with pytest.raises(Conflict, match="connections"):
            await exports.delete("image:{x}")
    exports = image.exports
    await exports.copy("image:{x}", vdisks["vd"])
    with pytest.raises(AlreadyExists):
        await exports.copy("image:{x}", vdisks["vd"])
    async with running(Configuration({"vd": vdisks["vd"]}), patience=PATIENCE) as vd:
        assert await vd.read(0, 2 * BLOCK) == block(0) + block(1)
    clone = configured(there, kind=kind, template=there, source="image:{x}", name="clone")
    async with running(clone, patience=PATIENCE) as vd:
        expected = block(0) if kind == "db" else bytes(BLOCK)  # hashes are copied, not shown
        assert await vd.read(0, BLOCK) == expected
        await vd.vdisk.trim(0, BLOCK)
        assert await vd.read(0, BLOCK) == bytes(BLOCK)
    await exports.delete("vd")
    assert not [key for key in keys(empty) if b":vd}" in key or key == b"g8node:vd"]
    assert [key for key in keys(empty) if b"image" in key]
    await exports.close()


async def test_content_that_nobody_names_is_removed(empty: list[RedisProcess]) -> None:
    async with running(configured(seeds(empty), kind="boot"), patience=PATIENCE) as vd:
        await vd.write(0, b"".join(map(block, range(8))))
        await vd.vdisk.flush()
        await vd.vdisk.trim(0, 5 * BLOCK)
        await vd.vdisk.flush()
        await until_idle(empty)
        done = await vd.exports.collect("primary", grace_s=0)
        assert (done.blocks, done.bytes, done.kept) == (5, 5 * BLOCK, 3)
        assert await vd.read(0, 8 * BLOCK) == bytes(5 * BLOCK) + b"".join(map(block, range(5, 8)))


async def until_idle(servers: list[RedisProcess]) -> None:
    """No content was used for three seconds; the collection asks for one, of clocks that may be late."""

    def idle() -> bool:
        for server in masters(servers):
            with server.client() as client:
                if any(len(key) == 32 and client.object("idletime", key) < 3 for key in client.keys("*")):
                    return False
        return True

    await eventually(idle, "content that nobody uses", 60)


# Servers that fail, slots that move


@pytest.mark.parametrize("way", [pytest.param("kill", marks=pytest.mark.soak), "stop"])
async def test_io_goes_on_when_a_replica_takes_over_and_slots_move(
    empty: list[RedisProcess], way: str
) -> None:
    """Nothing that was answered is lost; a master that stood still does not bring old blocks back."""
    async with running(configured(seeds(empty)), patience=PATIENCE) as vd:
        written: dict[int, bytes] = {}
        enough = asyncio.Event()
        writing = asyncio.create_task(write_on(vd, written, enough))
        await until(lambda: len(written) > 20, writing)
        source, target, *_ = masters(empty)
        await asyncio.to_thread(move_slots, source, target)
        victim = owner(empty, part_key("nondedup:vd", 0))
        await asyncio.to_thread(victim.kill if way == "kill" else victim.stop)
        count = len(written)
        await until(lambda: len(written) > count + 1100, writing)  # all parts, on other masters too
        if way == "stop":
            await asyncio.to_thread(victim.resume)
        await until(lambda: len(written) > count + 1500, writing)
        enough.set()
        await writing
        for number, data in written.items():
            assert await vd.read(number * BLOCK, BLOCK) == data, number
        assert {421, 422} & set(vd.statuses())
    if way == "kill":
        await asyncio.to_thread(victim.up)
    await eventually(lambda: is_whole(empty), "a cluster that is whole again", 60)


async def write_on(vd: Running, written: dict[int, bytes], enough: asyncio.Event) -> None:
    """All blocks once, in several parts at a time, and some of them again and again."""
    for number in itertools.takewhile(lambda _: not enough.is_set(), itertools.count()):
        data = {at: block(at + number) for at in (number, number % 7)}
        for at, one in data.items():
            await vd.write(at * BLOCK, one)
            written[at] = one


async def until(condition: Callable[[], bool], writing: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(300):
        while not condition():
            if writing.done():
                writing.result()
            await asyncio.sleep(0.02)


def move_slots(source: RedisProcess, target: RedisProcess) -> None:
    with source.client() as one, target.client() as other:
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in (one, other)]
    argv = ["redis-cli", "--cluster", "reshard", f"127.0.0.1:{source.port}", "--cluster-from", ids[0]]
    run(*argv, "--cluster-to", ids[1], "--cluster-slots", "300", "--cluster-yes")


async def test_slot_on_its_way_to_a_new_master_is_written(empty: list[RedisProcess], tmp_path: Path) -> None:
    """CLUSTER SLOTS does not tell yet that the new one has no replicas."""
    hash = content_hash(block(1))
    slot, source = slot_of(hash), owner(empty, hash)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MS)
    new = RedisProcess(tmp_path / "new", *options, port=low_port())
    ids = [node_id(server) for server in (source, new)]
    try:
        call(new, "CLUSTER", "MEET", "127.0.0.1", str(empty[0].port))
        # all of them: who has not heard of it when it is forgotten says that there is no such node
        await eventually(lambda: all(count_nodes(one) == 7 for one in (*empty, new)), "nodes that met", 60)
        # who imports a slot before it has heard whose it is, never hears it, and takes the cluster for down
        await eventually(lambda: knows_all_slots(new), "the map on the new one", 60)
        call(new, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[0])
        call(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[1])
        async with running(configured(seeds(empty), kind="boot"), patience=PATIENCE) as vd:
            await vd.write(0, block(1))
            assert await vd.read(0, BLOCK) == block(1)
        with new.client() as client:
            client.execute_command("ASKING")
            assert client.get(hash) == block(1)
    finally:
        new.kill()
        call(source, "CLUSTER", "SETSLOT", str(slot), "STABLE")
        for server in empty:
            call(server, "CLUSTER", "FORGET", ids[1])


async def test_server_that_does_not_take_a_slot_on_its_way_is_named(empty: list[RedisProcess]) -> None:
    """ASK of the one that has the slot says nothing of the one that does not know that it gets it."""
    hash = content_hash(block(1))
    slot, source = slot_of(hash), owner(empty, hash)
    target = next(server for server in masters(empty) if server is not source)
    config = configured(seeds(empty), kind="boot")
    async with running(config, patience=PATIENCE):
        pass
    call(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", node_id(target))
    try:
        async with running(config, patience=IMPATIENT) as vd:
            said = rf"slot {slot} .* 127\.0\.0\.1:{target.port}, which does not take it: MOVED {slot} "
            with pytest.raises(Unavailable, match=said):
                await vd.write(0, block(1))
    finally:
        call(source, "CLUSTER", "SETSLOT", str(slot), "STABLE")


def call(server: RedisProcess, *words: str) -> Any:
    with server.client() as client:
        return client.execute_command(*words)


def node_id(server: RedisProcess) -> str:
    return str(call(server, "CLUSTER", "MYID").decode())


def count_nodes(server: RedisProcess) -> int:
    """Those that have shaken hands."""
    rows: list[bytes] = call(server, "CLUSTER", "NODES").splitlines()
    return sum(b"handshake" not in row for row in rows)


def knows_all_slots(server: RedisProcess) -> bool:
    return b"cluster_slots_ok:16384" in call(server, "CLUSTER", "INFO")


def is_whole(servers: list[RedisProcess]) -> bool:
    """Three masters with one replica each that has everything, and all know it."""
    for server in servers:
        with server.client() as client:
            facts = client.info("replication")
            ranges = client.execute_command("CLUSTER", "SLOTS")
        if any(len(row) != 4 for row in ranges):
            return False
        if facts["role"] == "master" and facts["connected_slaves"] != 1:
            return False
        if facts["role"] == "slave" and facts["master_link_status"] != "up":
            return False
    return len(masters(servers)) == 3


# With a real client


def test_client_and_commands_use_a_file_that_names_the_cluster(
    empty: list[RedisProcess], tmp_path: Path
) -> None:
    rows = "".join(f'{{address: "127.0.0.1:{server.port}"}}, ' for server in empty[:3])
    nbd = "nbd: {storageClusterID: c1}"
    text = f"storageClusters: {{c1: {{type: redis-cluster, servers: [{rows}]}}}}\nvdisks:\n"
    text += f"  vd: {{type: boot, size: 1, blockSize: 4096, {nbd}}}\n"
    text += f"  two: {{type: boot, size: 1, blockSize: 4096, {nbd}}}\n"
    served = ServedConfig(tmp_path / "nbd", text)
    with served.running():
        job = ["fio", "--name=job", "--ioengine=nbd", f"--uri={served.uri()}", "--bs=4k", "--iodepth=32"]
        job += ["--rw=randwrite", "--size=8M", "--verify=crc32c", "--verify_fatal=1", "--fsync=64"]
        run(*job, f"--aux-path={tmp_path}")
        assert "hole,zero" in run("nbdinfo", "--map=base:allocation", served.uri()).stdout
    run(*G8, "vdisk", "copy", "vd", "two", *served.source())
    swept = run(*G8, "vdisk", "gc", "--cluster", "c1", *served.source())
    assert "0 blocks removed" in swept.stdout
    key = part_key("lba:two", 0)
    with owner(empty, key).client() as client:
        assert client.hlen(key) > 1
