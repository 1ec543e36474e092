"""What a source in etcd says when others read it at the same time."""

import asyncio
from collections.abc import Sequence
from typing import cast

from g8node.vdisk.cluster.etcd import Etcd
from g8node.vdisk.cluster.etcdsource import EtcdSource
from g8node.vdisk.cluster.settings import Configuration


class FakeEtcd:
    """One vdisk, whose size is changed with `put`; `held` keeps a reader waiting with what it has read."""

    endpoints: Sequence[str] = ()

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.held = asyncio.Event()
        self.held.set()
        self._values: dict[str, bytes] = {
            "vm1:nbdserver:conf:vdisks": b"vdisks: [a]",
            "a:vdisk:conf:storage:nbd": b"storageClusterID: c1",
            "c1:cluster:conf:storage": b"servers: [{address: '127.0.0.1:1'}]",
        }
        self.put(1)

    def put(self, size: int) -> None:
        self._values["a:vdisk:conf:static"] = f"{{blockSize: 4096, size: {size}, type: db}}".encode()

    async def get(self, keys: Sequence[str], revision: int = 0) -> tuple[dict[str, bytes], int]:
        found = {key: self._values[key] for key in keys if key in self._values}
        if "a:vdisk:conf:static" in found:
            await self.held.wait()
        return found, 1

    async def wait(self, keys: Sequence[str], revision: int) -> None:
        await self.woken.wait()
        self.woken.clear()


def size_of(said: Configuration) -> int:
    return said.vdisks["a"].static.size


async def turns() -> None:
    """Whoever can go on has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_change_that_another_read_and_that_is_undone_is_said() -> None:
    etcd = FakeEtcd()
    source = EtcdSource(cast(Etcd, etcd), "vm1", tell=lambda _: None)
    assert size_of(await source.load()) == 1
    changes = source.changes()
    following = asyncio.ensure_future(anext(changes))
    await turns()
    etcd.put(2)
    assert size_of(await source.load()) == 2
    etcd.put(1)
    etcd.woken.set()
    async with asyncio.timeout(60):
        assert size_of(await following) == 1


async def test_what_was_read_first_is_not_the_last_word() -> None:
    etcd = FakeEtcd()
    source = EtcdSource(cast(Etcd, etcd), "vm1", tell=lambda _: None)
    await source.load()
    said: list[int] = []

    async def follow() -> None:
        async for found in source.changes():
            said.append(size_of(found))

    async def load() -> None:
        said.append(size_of(await source.load()))

    following = asyncio.create_task(follow())
    etcd.put(2)
    etcd.held.clear()
    etcd.woken.set()
    await turns()
    held, etcd.held = etcd.held, asyncio.Event()
    etcd.held.set()
    etcd.put(3)
    loading = asyncio.create_task(load())
    await turns()
    held.set()
    await loading
    await turns()
    following.cancel()
    assert said[-1] == 3
