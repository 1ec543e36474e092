"""The vdisks of a configuration, kept as it says (async): for a node and for `g8 vdisk serve`."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from g8node.errors import AlreadyExists, Conflict, InvalidArgument, NodeError
from g8node.runtime import logs
from g8node.vdisk.cluster.etcd import Etcd
from g8node.vdisk.cluster.etcdsource import EtcdSource
from g8node.vdisk.cluster.events import Tell
from g8node.vdisk.cluster.exports import ClusterVdisks
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.settings import GIB, Nbd, Static
from g8node.vdisk.cluster.source import FileSource, Source, endpoints_of
from g8node.vdisk.limits import Limits
from g8node.vdisk.record import SIZE_MAX

log = logs.get("vdisk")

_RETRY_S: Final = 1.0
_RETRY_MAX_S: Final = 30.0


class Remote:
    """`config`: a path, or `host:port,…` of etcd, which has the list of vdisks under the id `server`."""

    def __init__(
        self,
        config: str,
        server: str = "default",
        *,
        tell: Tell | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.vdisks = ClusterVdisks(tell=tell, patience=patience)
        endpoints = endpoints_of(config)
        self.source: Source = (
            EtcdSource(Etcd(endpoints), server, tell=self.vdisks.tell)
            if endpoints
            else FileSource(config, tell=self.vdisks.tell)
        )
        self.problem = ""
        """Why there is no configuration yet."""
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """InvalidArgument, Unavailable: the first configuration must be right."""
        try:
            await self.vdisks.update(await self.source.load())
        except NodeError:
            await self.source.close()
            raise
        self._following = asyncio.create_task(self._follow(), name="configuration of vdisks")

    def begin(self) -> None:
        """Like `start`, but a first configuration that cannot be had, or is wrong, is asked for again."""
        self._following = asyncio.create_task(self._begin(), name="configuration of vdisks")

    async def _begin(self) -> None:
        pause_s = _RETRY_S
        while True:
            try:
                await self.vdisks.update(await self.source.load())
            except NodeError as error:
                self.problem = str(error)
                log.error("vdisks on clusters have no configuration", reason=self.problem, retry_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)
            else:
                self.problem = ""
                return await self._follow()

    async def _follow(self) -> None:
        try:
            async for found in self.source.changes():
                await self.vdisks.update(found)
        except Exception as error:
            log.error("bug in following the configuration", exc_info=error)
            raise

    # What people ask

    async def create(self, vdisk: str, static: Static, nbd: Nbd) -> None:
        """A new vdisk, where the configuration is in etcd. AlreadyExists, InvalidArgument, Conflict."""
        self._refuse_known(vdisk)
        await self.source.add(await self.source.compose(vdisk, static, nbd))
        await self._reload()

    async def resize(self, vdisk: str, size: int) -> None:
        """Grow, where the configuration is in etcd; also while it is served, here or by others.

        NotFound, InvalidArgument; Conflict for less, or when it is in a file.
        """
        gib, odd = divmod(size, GIB)
        if odd or size > SIZE_MAX:
            raise InvalidArgument(f"size: expected a multiple of 1 GiB, at most {SIZE_MAX} bytes")

        def grown(static: Static) -> Static:
            if gib < static.size:
                raise Conflict(f"size: {size} is less than the present {static.size * GIB} bytes")
            return msgspec.structs.replace(static, size=gib)

        await self._change(vdisk, grown)

    async def limit(self, vdisk: str, limits: Limits) -> None:
        """Other limits, where the configuration is in etcd. NotFound; Conflict when it is in a file."""
        await self._change(vdisk, lambda static: msgspec.structs.replace(static, limits=limits))

    async def _change(self, vdisk: str, change: Callable[[Static], Static]) -> None:
        self.vdisks.get(vdisk)
        await self.source.change(vdisk, change)
        await self._reload()

    async def copy(self, vdisk: str, target: str) -> None:
        """A new vdisk in etcd; of a file's, one that is in it already and has no blocks."""
        config = self.vdisks.get(vdisk)
        if target in dict(self.vdisks.names()):
            await self.vdisks.copy(vdisk, self.vdisks.get(target))
            return
        static = msgspec.structs.replace(config.static, read_only=False)
        made = await self.source.compose(target, static, config.nbd)
        await self.vdisks.copy(vdisk, made)
        await self.source.add(made)
        await self._reload()

    async def delete(self, vdisk: str) -> None:
        """Its blocks, and, where that is in etcd, what the configuration has of it."""
        await self.vdisks.delete(vdisk)
        await self.source.remove(vdisk)
        await self._reload()

    def _refuse_known(self, vdisk: str) -> None:
        if vdisk in dict(self.vdisks.names()):
            raise AlreadyExists(f"vdisk {vdisk!r} exists")

    async def _reload(self) -> None:
        await self.vdisks.update(await self.source.load())

    def states(self) -> list[dict[str, Any]]:
        return self.vdisks.states()

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await self.vdisks.close()
        await self.source.close()
