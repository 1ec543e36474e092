"""Where the configuration of vdisks on clusters comes from: a file and a real etcd, while they change."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, Unavailable
from g8node.vdisk.cluster.etcd import Etcd
from g8node.vdisk.cluster.etcdsource import EtcdSource
from g8node.vdisk.cluster.events import CLUSTER_TIMEOUT, INVALID_CONFIG, Event
from g8node.vdisk.cluster.settings import Configuration, Server
from g8node.vdisk.cluster.source import FileSource, Source, endpoints_of
from tests.support.etcd import EtcdProcess, etcd_server

STATIC = "blockSize: 4096\nsize: 10\ntype: db\n"
NBD = "storageClusterID: c1\n"
CLUSTER = "servers:\n- address: 127.0.0.1:1\n- address: 127.0.0.1:2\n"
GOOD = {
    "vm1:nbdserver:conf:vdisks": "vdisks: [a, 'b:c']",
    "a:vdisk:conf:static": STATIC,
    "a:vdisk:conf:storage:nbd": NBD,
    "b:c:vdisk:conf:static": STATIC,
    "b:c:vdisk:conf:storage:nbd": NBD,
    "c1:cluster:conf:storage": CLUSTER,
}


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    with etcd_server(tmp_path_factory.mktemp("etcd")) as server:
        yield server


class Followed:
    """What a source has said so far."""

    def __init__(self, source: Source, first: Configuration, told: list[Event]) -> None:
        self.now = first
        self.told = told
        self.count = 0
        self._source = source
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for found in self._source.changes():
            self.now = found
            self.count += 1

    def statuses(self) -> list[int]:
        return [event.status for event in self.told]

    async def until(self, condition: Callable[["Followed"], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition(self):
                assert not self.task.done(), self.task.exception()
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def followed(source: Source, told: list[Event]) -> AsyncIterator[Followed]:
    try:
        following = Followed(source, await source.load(), told)
        try:
            yield following
        finally:
            following.task.cancel()
            await asyncio.wait([following.task])
    finally:
        await source.close()


@contextlib.asynccontextmanager
async def following_etcd(etcd: EtcdProcess, server: str = "vm1") -> AsyncIterator[Followed]:
    told: list[Event] = []
    source = EtcdSource(Etcd([f"http://{etcd.place}"]), server, tell=told.append)
    async with followed(source, told) as following:
        yield following


def write(etcd: EtcdProcess, **changed: str) -> None:
    etcd.put(GOOD | changed)


async def test_everything_of_a_server_is_read_from_etcd(etcd: EtcdProcess) -> None:
    write(etcd)
    async with following_etcd(etcd) as following:
        assert list(following.now.vdisks) == ["a", "b:c"]
        assert following.now.vdisks["b:c"].storage.servers == (Server("127.0.0.1:1"), Server("127.0.0.1:2"))
        assert following.now.vdisks["a"].static.size == 10


async def test_change_of_any_value_is_followed(etcd: EtcdProcess) -> None:
    write(etcd)
    async with following_etcd(etcd) as following:
        etcd.put({"c1:cluster:conf:storage": CLUSTER.replace("127.0.0.1:2", "127.0.0.1:3")})
        await following.until(lambda one: one.now.vdisks["a"].storage.servers[1] == Server("127.0.0.1:3"))
        etcd.put({"c2:cluster:conf:storage": "servers: [{address: '127.0.0.1:9', state: offline}]"})
        etcd.put({"a:vdisk:conf:storage:nbd": "storageClusterID: c2"})
        await following.until(lambda one: one.now.vdisks["a"].storage.servers[0].state == "offline")
        etcd.put({"c2:cluster:conf:storage": "servers: [{address: '127.0.0.1:9'}]"})  # the new one is watched
        await following.until(lambda one: one.now.vdisks["a"].storage.servers[0].state == "online")
        etcd.put({"a:vdisk:conf:static": STATIC.replace("10", "20")})
        await following.until(lambda one: one.now.vdisks["a"].static.size == 20)
        etcd.put({"vm1:nbdserver:conf:vdisks": "vdisks: [a]"})
        await following.until(lambda one: list(one.now.vdisks) == ["a"])
        assert following.told == []


async def test_wrong_or_missing_value_leaves_the_last_good_one(etcd: EtcdProcess) -> None:
    write(etcd)
    async with following_etcd(etcd) as following:
        before = following.now
        etcd.put({"c1:cluster:conf:storage": "servers: []"})
        await following.until(lambda one: len(one.told) == 1)
        etcd.put({"a:vdisk:conf:static": "size: -1"})
        await following.until(lambda one: len(one.told) == 2)
        etcd.delete("b:c:vdisk:conf:storage:nbd")
        await following.until(lambda one: len(one.told) == 3)
        assert following.statuses() == [INVALID_CONFIG] * 3
        assert [event.data["key"] for event in following.told] == [
            "c1:cluster:conf:storage",
            "a:vdisk:conf:static",
            "b:c:vdisk:conf:storage:nbd",
        ]
        assert following.told[1].data["vdiskID"] == "a"
        assert following.now == before
        etcd.put({"a:vdisk:conf:static": STATIC.replace("10", "30")})
        await following.until(lambda one: one.now.vdisks["a"].static.size == 30)


async def test_etcd_that_is_away_is_told_once_and_followed_again(etcd: EtcdProcess) -> None:
    write(etcd)
    async with following_etcd(etcd) as following:
        await asyncio.to_thread(etcd.kill)
        await following.until(lambda one: bool(one.told))
        await asyncio.to_thread(etcd.up)
        etcd.put({"a:vdisk:conf:static": STATIC.replace("10", "40")})
        await following.until(lambda one: one.now.vdisks["a"].static.size == 40)
        assert following.statuses() == [CLUSTER_TIMEOUT]


async def test_forgotten_revisions_are_read_anew(etcd: EtcdProcess) -> None:
    write(etcd)
    async with following_etcd(etcd) as following:
        following.task.cancel()
        await asyncio.wait([following.task])
        etcd.put({"a:vdisk:conf:static": STATIC.replace("10", "50")})
        etcd.put({"x": "y"})
        etcd.compact()
        following.task = asyncio.create_task(following._follow())
        await following.until(lambda one: one.now.vdisks["a"].static.size == 50)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("a:vdisk:conf:static", "size: 1"),
        ("a:vdisk:conf:storage:nbd", "storageClusterID: nosuch"),
        ("c1:cluster:conf:storage", "servers: 1"),
        ("vm1:nbdserver:conf:vdisks", "vdisks: [a, nosuch]"),
    ],
)
async def test_first_configuration_must_be_right(etcd: EtcdProcess, key: str, text: str) -> None:
    write(etcd, **{key: text})
    with pytest.raises(InvalidArgument, match=r":conf:"):
        async with following_etcd(etcd):
            pass
    write(etcd)


async def test_many_vdisks_are_read_and_watched(etcd: EtcdProcess) -> None:
    names = [f"v{number}" for number in range(150)]
    for name in names:
        etcd.put({f"{name}:vdisk:conf:static": STATIC, f"{name}:vdisk:conf:storage:nbd": NBD})
    write(etcd)
    etcd.put({"many:nbdserver:conf:vdisks": f"vdisks: [{', '.join(names)}]"})
    async with following_etcd(etcd, "many") as following:
        assert len(following.now.vdisks) == 150
        etcd.put({"v149:vdisk:conf:static": STATIC.replace("10", "60")})
        await following.until(lambda one: one.now.vdisks["v149"].static.size == 60)


async def test_dead_endpoint_is_passed_over(etcd: EtcdProcess) -> None:
    write(etcd)
    told: list[Event] = []
    source = EtcdSource(Etcd(["http://127.0.0.1:9", f"http://{etcd.place}"]), "vm1", tell=told.append)
    async with followed(source, told) as following:
        assert list(following.now.vdisks) == ["a", "b:c"]


async def test_etcd_that_never_answers_is_unavailable() -> None:
    source = EtcdSource(Etcd(["http://127.0.0.1:9"]), "vm1", tell=lambda _: None)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        await source.load()
    await source.close()


# The file


def text(size: int) -> str:
    return (
        f"vdisks: {{vd: {{type: db, size: {size}, blockSize: 4096, nbd: {{storageClusterID: c}}}}}}\n"
        "storageClusters: {c: {servers: [{address: '127.0.0.1:1'}]}}\n"
    )


async def test_file_is_followed_and_the_last_good_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"

    def write(said: str) -> None:
        """In one step: half a file would be told as a wrong one."""
        (tmp_path / "new").write_text(said)
        (tmp_path / "new").replace(path)

    write(text(1))
    told: list[Event] = []
    source = FileSource(str(path), tell=told.append, look_s=0.05)
    async with followed(source, told) as following:
        assert following.now.vdisks["vd"].static.size == 1
        write(text(2))
        await following.until(lambda one: one.now.vdisks["vd"].static.size == 2)
        write("vdisks: [")
        await following.until(lambda one: one.statuses() == [INVALID_CONFIG])
        path.unlink()
        await following.until(lambda one: one.statuses() == [INVALID_CONFIG] * 2)
        assert following.now.vdisks["vd"].static.size == 2
        write(text(3))
        await following.until(lambda one: one.now.vdisks["vd"].static.size == 3)


async def test_file_that_changes_twice_in_a_moment_is_followed(tmp_path: Path) -> None:
    """As long as before, and with the same time: that of the kernel goes on in steps."""
    path = tmp_path / "config.yml"
    moment = time.time() + 3600  # however long the test takes
    path.write_text(text(1))
    os.utime(path, (moment, moment))
    source = FileSource(str(path), tell=lambda _: None, look_s=0.05)
    async with followed(source, []) as following:
        path.write_text(text(2))
        os.utime(path, (moment, moment))
        await following.until(lambda one: one.now.vdisks["vd"].static.size == 2)


async def test_reload_looks_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text(1))
    source = FileSource(str(path), tell=lambda _: None, look_s=3600)
    async with followed(source, []) as following:
        path.write_text(text(2))
        source.reload()
        await following.until(lambda one: one.now.vdisks["vd"].static.size == 2)


async def test_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nosuch"):
        await FileSource(str(tmp_path / "nosuch"), tell=lambda _: None).load()


def test_dial_strings_are_told_from_paths() -> None:
    assert endpoints_of("h:1,http://i:2,https://[::1]:3") == ["http://h:1", "http://i:2", "https://[::1]:3"]
    for path in ("config.yml", "/etc/x.yml", "dir/a:1", "h:1,x", "ftp://h:1", "h:port"):
        assert endpoints_of(path) == []
