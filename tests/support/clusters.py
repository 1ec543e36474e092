"""Real redis-servers as the clusters of a vdisk, and vdisks on them inside this process."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from g8node.vdisk.cluster.events import Event
from g8node.vdisk.cluster.export import ClusterVdisk
from g8node.vdisk.cluster.exports import ClusterVdisks
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.settings import (
    Configuration,
    Nbd,
    Server,
    ServerState,
    Static,
    StorageCluster,
    Vdisk,
)
from g8node.vdisk.record import Kind
from tests.support.servers import RedisProcess, redis_server

PATIENCE = Patience(attempt_s=10.0, total_s=2.0, probe_s=0.05)
"""A server that was killed is given up soon; one that is only slow, as all are on a busy machine, is not."""
HASTY = Patience(attempt_s=1.0, total_s=2.0, probe_s=0.05)
"""One that stands still is given up soon, too."""
KEPT = ("--appendonly", "yes", "--appendfsync", "no")
"""Options of a server that has after its end all that it acknowledged.

The kernel has it. Eight servers that sync every write wait, for seconds, for a disk that others keep busy.
"""


@contextlib.contextmanager
def redis_servers(folder: Path, count: int, *options: str) -> Iterator[list[RedisProcess]]:
    with contextlib.ExitStack() as ending:
        yield [ending.enter_context(redis_server(folder / str(number), *options)) for number in range(count)]


def cluster(servers: Sequence[RedisProcess], **states: ServerState) -> StorageCluster:
    """`_1="rip"`: the state of the second server."""
    return StorageCluster(
        tuple(
            Server(f"127.0.0.1:{server.port}", state=states.get(f"_{number}", "online"))
            for number, server in enumerate(servers)
        )
    )


def configured(
    primary: StorageCluster,
    *,
    slave: StorageCluster | None = None,
    template: StorageCluster | None = None,
    kind: Kind = "db",
    size: int = 1,
    block_size: int = 4096,
    source: str = "",
    name: str = "vd",
    read_only: bool = False,
) -> Configuration:
    """One vdisk of `size` GiB."""
    static = Static(block_size, size, kind, read_only, source)
    nbd = Nbd("primary", template="template" if template else "", slave="slave" if slave else "")
    return Configuration({name: Vdisk(name, static, nbd, primary, template, slave)})


class Running:
    """A vdisk that is open; what was told of its servers."""

    def __init__(self, exports: ClusterVdisks, vdisk: ClusterVdisk, told: list[Event]) -> None:
        self.exports = exports
        self.vdisk = vdisk
        self.told = told

    def statuses(self) -> list[int]:
        return [event.status for event in self.told]

    def servers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.exports.states()[0]["servers"]
        return rows

    async def read(self, offset: int, length: int) -> bytes:
        into = bytearray(length)
        await self.vdisk.read(offset, memoryview(into))
        return bytes(into)

    async def write(self, offset: int, data: bytes) -> None:
        for error in await self.vdisk.write_many([(offset, memoryview(data))]):
            if error is not None:
                raise error


@contextlib.asynccontextmanager
async def running(
    config: Configuration, *, patience: Patience = PATIENCE, in_order: bool = True
) -> AsyncIterator[Running]:
    told: list[Event] = []
    exports = ClusterVdisks(patience=patience, tell=told.append)
    await exports.update(config)
    name = next(iter(config.vdisks))
    vdisk = await exports.open(name)
    try:
        yield Running(exports, vdisk, told)
    finally:
        await exports.leave(name, vdisk, in_order=in_order)
        await exports.close()


def yaml_of(primary: Sequence[RedisProcess], slave: Sequence[RedisProcess] = (), *, kind: str = "db") -> str:
    """The configuration file of one vdisk `vd` of 1 GiB."""
    clusters = {"primary": primary} | ({"slave": slave} if slave else {})
    rows = ["storageClusters:"]
    for name, servers in clusters.items():
        rows += [f"  {name}:", "    servers:"]
        rows += [f'    - {{address: "127.0.0.1:{server.port}"}}' for server in servers]
    also = ", slaveStorageClusterID: slave" if slave else ""
    nbd = f"{{storageClusterID: primary{also}}}"
    return "\n".join([*rows, "vdisks:", f"  vd: {{type: {kind}, size: 1, blockSize: 4096, nbd: {nbd}}}", ""])
