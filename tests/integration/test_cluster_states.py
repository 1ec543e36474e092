"""The states of servers (block-storage 3.4, 3.5) under a verifying load: no wrong block, no lost flush."""

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from g8node.errors import Unavailable
from g8node.vdisk.cluster import scan
from g8node.vdisk.cluster.events import REPAIRED, RESPREAD
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.settings import Configuration, ServerState
from g8node.vdisk.record import Kind
from tests.support.clusters import (
    HASTY,
    KEPT,
    PATIENCE,
    Running,
    cluster,
    configured,
    redis_servers,
    running,
)
from tests.support.servers import RedisProcess

BLOCK = 4096
BLOCKS = 240
KINDS: tuple[Kind, ...] = ("db", "boot")
SOME: tuple[Any, ...] = ("db", pytest.param("boot", marks=pytest.mark.soak))
OFFLINE: dict[str, ServerState] = {f"_{number}": "offline" for number in range(4)}
"""What an operator says to go on without a cluster that may have newer blocks."""


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "primary", 4, *KEPT) as servers:
        yield servers


@pytest.fixture
def slave(tmp_path: Path) -> Iterator[list[RedisProcess]]:
    with redis_servers(tmp_path / "slave", 4, *KEPT) as servers:
        yield servers


def content(block: int, number: int) -> bytes:
    """What a block holds after its write of that number; zeros for 0."""
    if number % 7 == 0:
        return bytes(BLOCK)
    return struct.pack(">QQ", block, number) * (BLOCK // 16)


class Load:
    """Writers and readers of blocks of their own, with flushes; every answer is checked.

    Of each block it is known which write was answered last, and which may be there after a failure.
    """

    def __init__(self, vd: Running, seed: int = 1) -> None:
        self.vd = vd
        self.answered = [0] * BLOCKS
        self.begun = [0] * BLOCKS
        self.failed = [False] * BLOCKS
        """The last write failed, so that the block holds it, or an earlier one."""
        self.errors = 0
        self.writes = 0
        self._dice = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._work(part, 4)) for part in range(4)]

    async def stop(self) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)

    async def _work(self, part: int, parts: int) -> None:
        step = 0
        while not self._ended:
            step += 1
            block = self._dice.randrange(BLOCKS // parts) * parts + part
            with contextlib.suppress(Unavailable):
                if step % 3:
                    await self._write(block)
                else:
                    await self._check(block)
                if step % 50 == 0:
                    await self.vd.vdisk.flush()
            await asyncio.sleep(0)

    async def _write(self, block: int) -> None:
        self.begun[block] += 1
        number = self.begun[block]
        self.failed[block] = True
        try:
            await self.vd.write(block * BLOCK, content(block, number))
        except Unavailable:
            self.errors += 1
            raise
        self.failed[block] = False
        self.answered[block] = number
        self.writes += 1

    async def _check(self, block: int) -> None:
        found = await self.vd.read(block * BLOCK, BLOCK)
        last = self.begun[block] if self.failed[block] else self.answered[block]
        possible = range(self.answered[block], last + 1)
        assert found in [content(block, number) for number in possible], self._story(block, found)

    def _story(self, block: int, found: bytes) -> str:
        holds = struct.unpack_from(">QQ", found)
        return f"block {block} holds {holds}, answered {self.answered[block]}, begun {self.begun[block]}"

    async def check_all(self) -> None:
        """Read everything, with patience for servers that are on their way back."""
        for block in range(BLOCKS):
            for _ in range(600):
                try:
                    await self._check(block)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
            else:
                raise AssertionError(f"block {block} cannot be read")

    async def some(self, count: int) -> None:
        """Until so many more writes were answered."""
        wanted = self.writes + count
        await until(lambda: self.writes >= wanted)


async def until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - the conditions are anything
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def loaded(config: Configuration, patience: Patience = PATIENCE) -> AsyncIterator[Load]:
    """A vdisk under load; what is there at the end, and after it is opened anew, is checked."""
    async with running(config, patience=patience) as vd:
        load = Load(vd)
        load.start()
        try:
            await load.some(150)
            yield load
            await load.some(150)
        finally:
            await load.stop()
        await load.check_all()
        await vd.vdisk.flush()


async def anew(load: Load, config: Configuration) -> None:
    """Another process, so to speak, finds the same blocks."""
    async with running(config) as vd:
        load.vd = vd
        await load.check_all()


async def in_step(vd: Running) -> None:
    await until(lambda: all(row["in_step"] and row["state"] == "online" for row in vd.servers()))


async def killed(server: RedisProcess) -> None:
    await asyncio.to_thread(server.kill)


async def up(server: RedisProcess) -> None:
    await asyncio.to_thread(server.up)


@pytest.mark.parametrize("kind", SOME)
async def test_server_that_is_killed_and_returns_loses_nothing(
    primary: list[RedisProcess], kind: Kind
) -> None:
    config = configured(cluster(primary), kind=kind)
    async with loaded(config) as load:
        await killed(primary[2])
        await until(lambda: 422 in load.vd.statuses())
        await load.some(200)
        await up(primary[2])
        await until(lambda: 200 in load.vd.statuses())
    assert load.errors
    assert load.vd.statuses() == [422, 200]
    await anew(load, config)


@pytest.mark.parametrize("kind", SOME)
async def test_server_that_stands_still_for_a_while_costs_no_error(
    primary: list[RedisProcess], kind: Kind
) -> None:
    patience = Patience(attempt_s=0.3, total_s=120)
    async with loaded(configured(cluster(primary), kind=kind), patience) as load:
        primary[1].stop()
        await until(lambda: load.vd.servers()[1]["retries"] > 3)
        primary[1].resume()
        await load.some(150)
    assert load.errors == 0
    assert load.vd.told == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stands", [False, True])
async def test_slave_takes_over_and_the_server_is_copied_when_it_returns(
    primary: list[RedisProcess], slave: list[RedisProcess], kind: Kind, stands: bool
) -> None:
    config = configured(cluster(primary), slave=cluster(slave), kind=kind)
    async with loaded(config, HASTY if stands else PATIENCE) as load:
        if stands:
            primary[2].stop()
        else:
            await killed(primary[2])
        await until(lambda: bool(load.vd.told))
        await load.some(200)
        if stands:
            primary[2].resume()
        else:
            await up(primary[2])
        await until(lambda: REPAIRED in load.vd.statuses())
        await in_step(load.vd)
    assert load.errors == 0
    # The server that was away has everything: it serves alone.
    for server in slave:
        await killed(server)
    async with running(
        configured(
            cluster(
                primary,
            ),
            kind=kind,
        )
    ) as vd:
        load.vd = vd
        await load.check_all()


@pytest.mark.parametrize("kind", SOME)
async def test_slave_that_fails_is_done_without_and_copied_when_it_returns(
    primary: list[RedisProcess], slave: list[RedisProcess], kind: Kind
) -> None:
    config = configured(cluster(primary), slave=cluster(slave), kind=kind)
    async with loaded(config) as load:
        await killed(slave[0])
        await until(lambda: bool(load.vd.told))
        await load.some(150)
        await up(slave[0])
        await until(lambda: REPAIRED in load.vd.statuses())
        await in_step(load.vd)
    assert load.errors == 0
    for server in primary:
        await killed(server)
    await anew(load, configured(cluster(primary, **OFFLINE), slave=cluster(slave), kind=kind))


@pytest.mark.parametrize("kind", SOME)
async def test_server_that_returns_empty_is_filled_from_its_slave(
    primary: list[RedisProcess], tmp_path: Path, kind: Kind
) -> None:
    with redis_servers(tmp_path / "forgetful", 4) as forgetful:
        config = configured(cluster(forgetful), slave=cluster(primary), kind=kind)
        async with loaded(config) as load:
            await killed(forgetful[1])
            await up(forgetful[1])
            await until(lambda: REPAIRED in load.vd.statuses())
            await in_step(load.vd)
        assert load.errors == 0
        for server in primary:
            await killed(server)
        await anew(load, configured(cluster(forgetful), slave=cluster(primary, **OFFLINE), kind=kind))


async def test_server_that_was_left_behind_is_not_believed_by_the_next_process(
    primary: list[RedisProcess], slave: list[RedisProcess]
) -> None:
    config = configured(cluster(primary), slave=cluster(slave))
    async with loaded(config) as load:
        await killed(primary[2])
        await until(lambda: bool(load.vd.told))
        await load.some(150)
    await up(primary[2])
    await killed(slave[2])  # who has the newest blocks of that shard
    async with running(config) as vd:
        load.vd = vd
        with pytest.raises(Unavailable):
            await vd.read(2 * BLOCK, BLOCK)
        await up(slave[2])
        await in_step(load.vd)
        await load.check_all()


async def test_two_servers_that_cannot_be_told_apart_are_not_guessed_at(tmp_path: Path) -> None:
    with redis_servers(tmp_path, 2, *KEPT) as servers:
        config = configured(cluster(servers[:1]), slave=cluster(servers[1:]))
        async with running(config) as vd:
            await vd.write(0, content(0, 1))
            await killed(servers[0])
            await vd.write(0, content(0, 2))
        await up(servers[0])
        await killed(servers[1])
        with pytest.raises(Unavailable, match="may have newer blocks"):
            async with running(config):
                pass
        without = configured(cluster(servers[:1]), slave=cluster(servers[1:], _0="offline"))
        async with running(without) as vd:  # the operator says so
            assert await vd.read(0, BLOCK) == content(0, 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_states_of_the_configuration_under_load(
    primary: list[RedisProcess], slave: list[RedisProcess], kind: Kind
) -> None:
    """online -> offline -> online -> repair -> online -> respread -> rip, all by new configurations."""
    slaves = cluster(slave)

    def said(state: ServerState) -> Configuration:
        return configured(cluster(primary, _2=state), slave=slaves, kind=kind)

    async with loaded(said("online")) as load:
        exports = load.vd.exports
        await exports.update(said("offline"))
        await load.some(150)
        await exports.update(said("online"))
        await until(lambda: load.vd.statuses().count(REPAIRED) == 1)
        await in_step(load.vd)
        await exports.update(said("repair"))
        await until(lambda: load.vd.statuses().count(REPAIRED) == 2)
        await load.some(100)
        await exports.update(said("online"))
        await load.some(100)
        await exports.update(said("respread"))
        await until(lambda: RESPREAD in load.vd.statuses())
        await load.some(150)
        await exports.update(said("rip"))
        await load.some(150)
        for server in (primary[2], slave[2]):
            await killed(server)
        await load.some(150)
    assert load.errors == 0
    assert load.vd.statuses() == [REPAIRED, REPAIRED, RESPREAD]
    await anew(load, said("rip"))
    await anew(load, said("online"))  # gone is for good


@pytest.mark.parametrize("kind", KINDS)
async def test_server_is_spread_over_the_others_without_a_slave(
    primary: list[RedisProcess], kind: Kind
) -> None:
    async with loaded(configured(cluster(primary), kind=kind)) as load:
        await load.vd.exports.update(configured(cluster(primary, _0="respread"), kind=kind))
        await until(lambda: RESPREAD in load.vd.statuses())
        await killed(primary[0])
        await load.some(150)
    assert load.errors == 0
    await anew(load, configured(cluster(primary, _0="rip"), kind=kind))


async def test_repair_without_a_slave_and_offline_fail_that_shard_only(primary: list[RedisProcess]) -> None:
    states: tuple[ServerState, ...] = ("offline", "repair")
    for state in states:
        async with running(configured(cluster(primary))) as vd:
            await vd.write(2 * BLOCK, content(2, 1))
        async with running(configured(cluster(primary, _2=state))) as vd:
            with pytest.raises(Unavailable):
                await vd.read(2 * BLOCK, BLOCK)
            await vd.write(BLOCK, content(1, 1))
        async with running(configured(cluster(primary))) as vd:
            assert await vd.read(2 * BLOCK, BLOCK) == content(2, 1)


async def test_new_server_in_place_of_a_broken_one_is_repaired_from_the_slave(
    primary: list[RedisProcess], slave: list[RedisProcess], tmp_path: Path
) -> None:
    with redis_servers(tmp_path / "spare", 1, *KEPT) as spare:
        async with loaded(configured(cluster(primary), slave=cluster(slave))) as load:
            await killed(primary[1])
            await load.some(150)
            replaced = [primary[0], spare[0], *primary[2:]]
            await load.vd.exports.update(configured(cluster(replaced, _1="repair"), slave=cluster(slave)))
            await until(lambda: REPAIRED in load.vd.statuses())
            await load.vd.exports.update(configured(cluster(replaced), slave=cluster(slave)))
            await in_step(load.vd)
        assert load.errors == 0
        await anew(load, configured(cluster(replaced)))


async def test_another_server_without_the_blocks_is_not_taken_for_empty(
    primary: list[RedisProcess], tmp_path: Path
) -> None:
    """The original took a new address without copying anything."""
    with redis_servers(tmp_path / "spare", 1) as spare:
        async with running(configured(cluster(primary))) as vd:
            await vd.write(BLOCK, content(1, 1))
        other = configured(cluster([primary[0], spare[0], *primary[2:]]))
        async with running(other) as vd:
            with pytest.raises(Unavailable):
                await vd.read(BLOCK, BLOCK)


async def test_slave_without_blocks_is_filled_once_its_server_is_back(
    primary: list[RedisProcess], slave: list[RedisProcess]
) -> None:
    """Nobody can serve the shard until then, and the empty slave must not."""
    async with running(configured(cluster(primary))) as vd:
        await vd.write(BLOCK, content(1, 1))
    await killed(primary[1])
    config = configured(cluster(primary), slave=cluster(slave))
    async with running(config) as vd:
        with pytest.raises(Unavailable):
            await vd.read(BLOCK, BLOCK)
        await up(primary[1])
        await until(lambda: all(row["in_step"] and not row["reason"] for row in vd.servers()))
        assert await vd.read(BLOCK, BLOCK) == content(1, 1)
    with slave[1].client() as client:
        assert client.hget("nondedup:vd", "1") == content(1, 1)


async def test_block_that_is_removed_while_it_is_copied_stays_removed(
    primary: list[RedisProcess], slave: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy was read before, and would be written after, the removal."""
    config = configured(cluster(primary), slave=cluster(slave))
    fields = scan.fields
    async with running(config) as vd:
        for block in range(64):
            await vd.write(block * BLOCK, content(block, 1))
        await killed(slave[2])
        await vd.write(2 * BLOCK, content(2, 2))
        for block in range(2, 64, 4):
            await vd.write(block * BLOCK, content(block, 3))

        async def slowly(*arguments: Any) -> AsyncIterator[dict[int, bytes]]:
            async for part in fields(*arguments):
                for block in part:
                    await vd.vdisk.trim(block * BLOCK, BLOCK)
                yield part

        monkeypatch.setattr(scan, "fields", slowly)
        await up(slave[2])
        await in_step(vd)
        assert await vd.read(2 * BLOCK, BLOCK) == bytes(BLOCK)
    with slave[2].client() as client:
        assert client.hlen("nondedup:vd") == 0


async def test_block_that_is_removed_while_it_is_spread_stays_removed(
    primary: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = scan.fields
    async with running(configured(cluster(primary))) as vd:
        for block in range(64):
            await vd.write(block * BLOCK, content(block, 1))

        async def slowly(source: Any, key: str, wanted: Any) -> AsyncIterator[dict[int, bytes]]:
            async for part in fields(source, key, wanted):
                for block in [one for one in part if one % 4 == 2]:
                    await vd.vdisk.trim(block * BLOCK, BLOCK)
                yield part

        monkeypatch.setattr(scan, "fields", slowly)
        await vd.exports.update(configured(cluster(primary, _2="respread")))
        await until(lambda: RESPREAD in vd.statuses())
        for block in range(64):
            wanted = bytes(BLOCK) if block % 4 == 2 else content(block, 1)
            assert await vd.read(block * BLOCK, BLOCK) == wanted
