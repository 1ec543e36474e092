"""Vdisks on real redis-servers: the original's layout, templates, and what must never read as zeros."""

import asyncio
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from g8node.errors import Unavailable
from g8node.vdisk.cluster.layout import content_hash, server_of
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.settings import Configuration, Server, StorageCluster
from g8node.vdisk.limits import Limits
from g8node.vdisk.record import Kind
from g8node.wire import nbd
from tests.support.clusters import KEPT, Running, cluster, configured, redis_servers, running
from tests.support.servers import (
    PASSWORD,
    USER,
    RedisProcess,
    certificate,
    listen_with_tls,
    tls_options,
    users,
)

BLOCK = 4096
IMPATIENT = Patience(attempt_s=5.0, total_s=0.2, probe_s=30.0)


@pytest.fixture
def four(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "primary", 4) as servers:
        yield servers


def block(number: int, size: int = BLOCK) -> bytes:
    return random.Random(number).randbytes(size)


# The original's layout


async def test_plain_vdisk_of_the_original_is_read_and_written(four: list[RedisProcess]) -> None:
    for number in (0, 1, 6, 1023):
        with four[number % 4].client() as client:
            client.hset("nondedup:ubuntu:latest", str(number), block(number))
    with four[3].client() as client:
        client.hset("nondedup:ubuntu:latest", "3", b"short")
    async with running(configured(cluster(four), name="ubuntu:latest")) as vd:
        for number in (0, 1, 6, 1023):
            assert await vd.read(number * BLOCK, BLOCK) == block(number)
        assert await vd.read(3 * BLOCK, BLOCK) == b"short".ljust(BLOCK, b"\0")
        assert await vd.read(2 * BLOCK, BLOCK) == bytes(BLOCK)
        await vd.write(9 * BLOCK, block(9))
        await vd.write(6 * BLOCK, bytes(BLOCK))
    with four[1].client() as client:
        assert client.hget("nondedup:ubuntu:latest", "9") == block(9)
    with four[2].client() as client:
        assert not client.hexists("nondedup:ubuntu:latest", "6")


async def test_deduplicated_vdisk_of_the_original_is_read_and_written(four: list[RedisProcess]) -> None:
    data, number = block(1), 128 * 5 + 7
    hash = content_hash(data)
    sector = bytearray(4096)
    sector[7 * 32 : 8 * 32] = hash
    with four[hash[0] % 4].client() as client:
        client.set(hash, data)
    with four[5 % 4].client() as client:
        client.hset("lba:vd", "5", bytes(sector))
    async with running(configured(cluster(four), kind="boot")) as vd:
        assert await vd.read(number * BLOCK, BLOCK) == data
        await vd.write(2 * BLOCK, block(2))
        await vd.write(3 * BLOCK, block(2))
        await vd.write(number * BLOCK, bytes(BLOCK))
        await vd.vdisk.flush()
    with four[0].client() as client:
        found = client.hget("lba:vd", "0")
    assert found[64:128] == content_hash(block(2)) * 2
    with four[content_hash(block(2))[0] % 4].client() as client:
        assert client.get(content_hash(block(2))) == block(2)
    with four[5 % 4].client() as client:
        assert not client.hexists("lba:vd", "5")


async def test_blocks_of_a_server_that_is_gone_lie_where_the_formula_says(four: list[RedisProcess]) -> None:
    async with running(configured(cluster(four, _1="rip"))) as vd:
        for number in (1, 5, 9, 13, 17, 21):
            await vd.write(number * BLOCK, block(number))
    places = {1: 0, 5: 2, 9: 2, 13: 0, 17: 2, 21: 3}
    for number, place in places.items():
        assert server_of(number, 4, {1}) == place
        with four[place].client() as client:
            assert client.hget("nondedup:vd", str(number)) == block(number)


# Bytes and blocks


@pytest.mark.parametrize("kind", ["db", "boot"])
@pytest.mark.parametrize("block_size", [512, 4096])
async def test_any_bytes_are_what_was_written_last(
    four: list[RedisProcess], kind: Kind, block_size: int
) -> None:
    """The original's integrity trace: random writes, zeros and reads, of any alignment."""
    dice = random.Random(block_size)
    size = 64 * block_size
    model = bytearray(size)
    async with running(configured(cluster(four), kind=kind, block_size=block_size)) as vd:
        for _ in range(150):
            offset = dice.randrange(size)
            length = dice.randint(1, min(size - offset, 5 * block_size))
            what = dice.choice(("write", "write", "zero", "read", "many"))
            if what == "zero":
                await vd.vdisk.zero(offset, length, keep=False, fast=False)
                model[offset : offset + length] = bytes(length)
            elif what == "write":
                data = dice.randbytes(length)
                await vd.write(offset, data)
                model[offset : offset + length] = data
            elif what == "many":
                writes = [(offset + at, dice.randbytes(1)) for at in range(min(length, 9))]
                await vd.vdisk.write_many([(at, memoryview(data)) for at, data in writes])
                for at, data in writes:
                    model[at : at + 1] = data
            else:
                assert await vd.read(offset, length) == model[offset : offset + length]
        assert await vd.read(0, size) == model
        await vd.vdisk.flush()
    async with running(configured(cluster(four), kind=kind, block_size=block_size)) as vd:
        assert await vd.read(0, size) == model


async def test_same_content_is_stored_once(four: list[RedisProcess]) -> None:
    async with running(configured(cluster(four), kind="boot")) as vd:
        for number in range(300):
            await vd.write(number * BLOCK, block(1))
    counted = 0
    for server in four:
        with server.client() as client:
            counted += sum(len(key) == 32 for key in client.scan_iter(count=1000))
    assert counted == 1


@pytest.mark.parametrize("kind", ["db", "boot"])
async def test_many_writers_at_once_end(four: list[RedisProcess], kind: Kind) -> None:
    async with running(configured(cluster(four), kind=kind)) as vd:
        parts = [(number % 64 * 512, block(number, 512)) for number in range(512)]
        await asyncio.wait_for(asyncio.gather(*(vd.write(at, data) for at, data in parts)), 60)
        written = {at: {data for place, data in parts if place == at} for at, _ in parts}
        for at, possible in written.items():
            assert await vd.read(at, 512) in possible


@pytest.mark.parametrize("kind", ["db", "boot"])
async def test_extents_tell_what_was_written(four: list[RedisProcess], kind: Kind) -> None:
    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    async with running(configured(cluster(four), kind=kind)) as vd:
        await vd.write(4 * BLOCK, block(1) + block(2))
        extents = await vd.vdisk.extents(100, 8 * BLOCK, 100)
        assert extents == [(4 * BLOCK - 100, hole), (2 * BLOCK, 0), (2 * BLOCK + 100, hole)]
        assert await vd.vdisk.extents(100, 8 * BLOCK, 1) == [(4 * BLOCK - 100, hole)]


async def test_limits_of_the_configuration_hold_from_its_change_on(four: list[RedisProcess]) -> None:
    config = configured(cluster(four))
    one = config.vdisks["vd"]
    static = msgspec.structs.replace(one.static, limits=Limits(bytes_s=BLOCK))
    async with running(config) as vd:
        assert not vd.vdisk.limited
        await vd.exports.update(Configuration({"vd": msgspec.structs.replace(one, static=static)}))
        assert vd.vdisk.limited
        assert vd.vdisk.pause_s(BLOCK) == 0
        assert vd.vdisk.pause_s(3600 * BLOCK) == 0
        assert vd.vdisk.pause_s(BLOCK) > 60


async def test_servers_with_tls_users_and_passwords_are_used(tmp_path: Path) -> None:
    certificate(tmp_path)
    with redis_servers(tmp_path, 2, *users(tmp_path), *tls_options(tmp_path)) as servers:
        for server in servers:
            server.credentials = {"username": USER, "password": PASSWORD}
        ports = [await asyncio.to_thread(listen_with_tls, server) for server in servers]
        right = Server("", user=USER, password=PASSWORD, tls=True, authority=f"{tmp_path}/cert")
        async with running(configured(served_at(right, ports))) as vd:
            await vd.write(0, block(1) + block(2))
            assert await vd.read(0, 2 * BLOCK) == block(1) + block(2)
            assert PASSWORD not in repr(right)
        for wrong, says in (
            (msgspec.structs.replace(right, password="other-secret"), "WRONGPASS"),
            (msgspec.structs.replace(right, password="", user=""), "NOAUTH"),
            (msgspec.structs.replace(right, authority=""), "certificate"),
        ):
            async with running(configured(served_at(wrong, ports)), patience=IMPATIENT) as vd:
                with pytest.raises(Unavailable, match=says) as raised:
                    await vd.read(0, BLOCK)
                assert "secret" not in str(raised.value)


def served_at(server: Server, ports: list[int]) -> StorageCluster:
    return StorageCluster(
        tuple(msgspec.structs.replace(server, address=f"127.0.0.1:{port}") for port in ports)
    )


# Templates


@pytest.fixture
def template(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "template", 3) as servers:
        yield servers


def fill_template(servers: list[RedisProcess], blocks: dict[int, bytes], name: str) -> None:
    for number, data in blocks.items():
        with servers[number % len(servers)].client() as client:
            client.hset(f"nondedup:{name}", str(number), data)


async def until_there(server: RedisProcess, key: str, field: str) -> None:
    with server.client() as client:
        for _ in range(600):
            if client.hexists(key, field):
                return
            await asyncio.sleep(0.05)
    raise AssertionError(f"{key} {field} is not there")


async def test_absent_block_comes_from_the_templates_vdisk_and_stays(
    four: list[RedisProcess], template: list[RedisProcess]
) -> None:
    """The original looked for its own id in the template's cluster."""
    fill_template(template, {7: block(7), 8: block(8)}, "ubuntu:latest")
    config = configured(cluster(four), template=cluster(template), source="ubuntu:latest")
    async with running(config) as vd:
        assert await vd.read(7 * BLOCK, BLOCK) == block(7)
        assert await vd.read(9 * BLOCK, BLOCK) == bytes(BLOCK)
        await until_there(four[3], "nondedup:vd", "7")
        for server in template:
            await asyncio.to_thread(server.kill)
        assert await vd.read(7 * BLOCK, BLOCK) == block(7)
        with pytest.raises(Unavailable):
            await vd.read(8 * BLOCK, BLOCK)


async def test_zeroed_block_never_shows_the_template_again(
    four: list[RedisProcess], template: list[RedisProcess]
) -> None:
    fill_template(template, {number: block(number) for number in range(4)}, "vd")
    config = configured(cluster(four), template=cluster(template))
    async with running(config) as vd:
        await vd.vdisk.trim(0, BLOCK)
        await vd.vdisk.zero(BLOCK, BLOCK, keep=True, fast=False)
        await vd.write(2 * BLOCK, bytes(BLOCK))
        await vd.vdisk.trim(3 * BLOCK, 512)
    async with running(config) as vd:
        assert await vd.read(0, 3 * BLOCK) == bytes(3 * BLOCK)
        assert await vd.read(3 * BLOCK, BLOCK) == bytes(512) + block(3)[512:]


async def test_template_never_overwrites_a_newer_write(
    four: list[RedisProcess], template: list[RedisProcess]
) -> None:
    numbers = range(40)
    fill_template(template, {number: block(number) for number in numbers}, "vd")
    async with running(configured(cluster(four), template=cluster(template))) as vd:
        reads = [vd.read(number * BLOCK, BLOCK) for number in numbers]
        writes = [vd.write(number * BLOCK, block(1000 + number)) for number in numbers]
        mixed = [one for pair in zip(reads, writes, strict=True) for one in pair]
        await asyncio.gather(*mixed)
        for number in numbers:
            assert await vd.read(number * BLOCK, BLOCK) == block(1000 + number)
    async with running(configured(cluster(four), template=cluster(template))) as vd:
        for number in numbers:
            assert await vd.read(number * BLOCK, BLOCK) == block(1000 + number)


def clone_sectors(servers: list[RedisProcess]) -> None:
    sector = b"".join(content_hash(block(number)) for number in range(4)).ljust(4096, b"\0")
    with servers[0].client() as client:
        client.hset("lba:vd", "0", sector)


def fill_contents(servers: list[RedisProcess], numbers: range) -> None:
    for number in numbers:
        hash = content_hash(block(number))
        with servers[hash[0] % len(servers)].client() as client:
            client.set(hash, block(number))


async def test_clone_pulls_content_of_its_template(
    four: list[RedisProcess], template: list[RedisProcess]
) -> None:
    clone_sectors(four)
    fill_contents(template, range(4))
    async with running(configured(cluster(four), template=cluster(template), kind="boot")) as vd:
        assert await vd.read(0, 4 * BLOCK) == b"".join(map(block, range(4)))
    async with running(configured(cluster(four), kind="boot")) as vd:  # kept: the template is not needed
        assert await vd.read(0, 4 * BLOCK) == b"".join(map(block, range(4)))


async def test_clone_without_its_content_cluster_is_an_error_not_zeros(four: list[RedisProcess]) -> None:
    clone_sectors(four)
    async with running(configured(cluster(four), kind="boot")) as vd:
        for number in range(4):
            with pytest.raises(Unavailable, match="content"):
                await vd.read(number * BLOCK, BLOCK)
            with pytest.raises(Unavailable):
                await vd.write(number * BLOCK + 512, b"part of a block that cannot be read")
        assert await vd.read(4 * BLOCK, BLOCK) == bytes(BLOCK)
        await vd.write(0, block(9))
        assert await vd.read(0, BLOCK) == block(9)


async def test_plain_clone_without_its_templates_cluster_is_an_error_not_zeros(
    four: list[RedisProcess],
) -> None:
    async with running(configured(cluster(four), source="ubuntu:latest")) as vd:
        with pytest.raises(Unavailable, match="template"):
            await vd.read(0, BLOCK)
        with pytest.raises(Unavailable, match="template"):
            await vd.write(512, b"part of a block that cannot be read")
        await vd.write(0, block(9))
        await vd.vdisk.trim(BLOCK, BLOCK)
        assert await vd.read(0, 2 * BLOCK) == block(9) + bytes(BLOCK)


async def test_content_that_is_not_its_hash_is_an_error(four: list[RedisProcess]) -> None:
    clone_sectors(four)
    hash = content_hash(block(0))
    with four[hash[0] % 4].client() as client:
        client.set(hash, block(5))
    async with running(configured(cluster(four), kind="boot")) as vd:
        with pytest.raises(Unavailable, match="damaged"):
            await vd.read(0, BLOCK)


# Servers that fail


@pytest.mark.parametrize("kind", ["db", "boot"])
async def test_outage_of_one_server_reads_as_errors_there_and_nowhere_else(
    tmp_path: Path, kind: Kind
) -> None:
    """The original took a sector that it could not fetch for empty, and later deleted it on the server."""
    with redis_servers(tmp_path, 4, *KEPT) as servers:
        numbers = [128 * sector + sector for sector in range(8)]
        async with running(configured(cluster(servers), kind=kind)) as vd:
            for number in numbers:
                await vd.write(number * BLOCK, block(number))
        async with running(configured(cluster(servers), kind=kind)) as vd:
            await asyncio.to_thread(servers[1].kill)
            failed = 0
            for number in numbers:
                try:
                    assert await vd.read(number * BLOCK, BLOCK) == block(number)
                except Unavailable:
                    failed += 1
            assert 1 < failed < len(numbers)
            await asyncio.to_thread(servers[1].up)
            await readable(vd, numbers)
            assert vd.statuses() == [422, 200]
            await vd.vdisk.flush()
        async with running(configured(cluster(servers), kind=kind)) as vd:
            for number in numbers:
                assert await vd.read(number * BLOCK, BLOCK) == block(number)


async def readable(vd: Running, numbers: list[int]) -> None:
    """All blocks, once the servers are back."""
    for number in numbers:
        for attempt in itertools.count():
            try:
                assert await vd.read(number * BLOCK, BLOCK) == block(number)
                break
            except Unavailable:
                assert attempt < 600
                await asyncio.sleep(0.05)


async def test_connection_that_breaks_costs_no_error_and_no_state(four: list[RedisProcess]) -> None:
    """The original gave a server up for one EOF of a stale connection."""
    async with running(configured(cluster(four))) as vd:
        for number in range(8):
            await vd.write(number * BLOCK, block(number))
        for _ in range(3):
            for server in four:
                with server.client() as client:
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            work = [vd.read(number * BLOCK, BLOCK) for number in range(8)]
            assert await asyncio.gather(*work) == [block(number) for number in range(8)]
            await vd.write(0, block(0))
        assert vd.told == []


async def test_bad_reply_is_an_error_of_that_block_only(four: list[RedisProcess]) -> None:
    with four[1].client() as client:
        client.set("nondedup:vd", "no hash")
    async with running(configured(cluster(four))) as vd:
        with pytest.raises(Unavailable, match="WRONGTYPE"):
            await vd.read(BLOCK, BLOCK)
        with pytest.raises(Unavailable, match="WRONGTYPE"):
            await vd.write(BLOCK, block(1))
        await vd.write(2 * BLOCK, block(2))
        assert vd.told == []


async def test_flush_that_fails_keeps_what_is_to_be_written(tmp_path: Path) -> None:
    """The original emptied its cache even when the flush had failed."""
    with redis_servers(tmp_path, 4, *KEPT) as servers:
        async with running(configured(cluster(servers), kind="boot")) as vd:
            await vd.write(0, block(1))
            assert await vd.read(0, BLOCK) == block(1)
            await asyncio.to_thread(servers[0].kill)
            with pytest.raises(Unavailable):
                await vd.vdisk.flush()
            await asyncio.to_thread(servers[0].up)
            await readable_block(vd, 0, block(1))
            await vd.vdisk.flush()
        async with running(configured(cluster(servers), kind="boot")) as vd:
            assert await vd.read(0, BLOCK) == block(1)


async def readable_block(vd: Running, offset: int, data: bytes) -> None:
    for attempt in itertools.count():
        try:
            assert await vd.read(offset, len(data)) == data
            await vd.write(offset, data)
            return
        except Unavailable:
            assert attempt < 600
            await asyncio.sleep(0.05)


async def test_server_that_comes_back_empty_is_an_error_not_zeros(four: list[RedisProcess]) -> None:
    async with running(configured(cluster(four))) as vd:
        await vd.write(BLOCK, block(1))
        await asyncio.to_thread(four[1].kill)
        await asyncio.to_thread(four[1].up)
        with pytest.raises(Unavailable, match="lost its data"):
            await vd.read(BLOCK, BLOCK)
        with pytest.raises(Unavailable):
            await vd.write(5 * BLOCK, block(5))
        await vd.write(2 * BLOCK, block(2))
    async with running(configured(cluster(four))) as vd:
        with pytest.raises(Unavailable, match="lost its data"):
            await vd.read(BLOCK, BLOCK)
        assert await vd.read(2 * BLOCK, BLOCK) == block(2)


async def test_server_that_forgot_the_last_flush_is_an_error(tmp_path: Path) -> None:
    with redis_servers(tmp_path, 2) as servers:
        async with running(configured(cluster(servers))) as vd:
            await vd.write(BLOCK, block(1))
            with servers[1].client() as client:
                client.save()
            await vd.write(BLOCK, block(2))
            await vd.vdisk.flush()
            await asyncio.to_thread(servers[1].kill)
            await asyncio.to_thread(servers[1].up)
            with pytest.raises(Unavailable, match="lost its data"):
                await vd.read(BLOCK, BLOCK)
