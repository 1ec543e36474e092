"""The node's block devices (async): the vdisks of one folder, those on clusters, and their NBD server.

A folder that cannot be used must not keep a node from starting: it is logged, and every `vdisk.*` command
answers Unavailable with the reason. A configuration of clusters that cannot be had is asked for again.
"""

import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from g8node.config import VdiskSettings
from g8node.errors import AlreadyExists, InvalidArgument, NodeError, Unavailable
from g8node.nbd.export import Exports
from g8node.nbd.joined import JoinedExports
from g8node.nbd.server import Server
from g8node.nbd.tls import context_of
from g8node.runtime import blocking, logs
from g8node.runtime.process import Reaper
from g8node.vdisk.abilities import NO_CHECK
from g8node.vdisk.limits import Limits
from g8node.vdisk.seal import master_key_of, read_master_key
from g8node.vdisk.vdisks import Vdisks

if TYPE_CHECKING:
    from g8node.vdisk.cluster.remote import Remote

log = logs.get("vdisk")


class Blocks:
    """Owner of the vdisks and of their server."""

    def __init__(self, settings: VdiskSettings, reaper: Reaper, *, folder: str, socket: str) -> None:
        self._settings = settings
        self._reaper = reaper
        self._folder = settings.folder or folder
        self.socket = socket
        self.address = ""
        self._vdisks: Vdisks | None = None
        self.remote: Remote | None = None
        """The vdisks on clusters, when there is a configuration for them."""
        self._servers: list[Server] = []
        self._problem = "the node is starting"

    @property
    def vdisks(self) -> Vdisks:
        """Unavailable, with the reason, when the folder cannot be used."""
        if self._vdisks is None:
            raise Unavailable(f"vdisks: {self._problem}")
        return self._vdisks

    async def start(self) -> None:
        """Open the folder and listen. Never raises for what a setting or a disk is to blame for."""
        vdisks: Vdisks | None = None
        try:
            vdisks = Vdisks(self._folder, key=await self._key())
            await vdisks.start()
            await self._listen(await self._joined(vdisks))
        except (NodeError, OSError) as error:
            self._problem = str(error)
            log.error("vdisks cannot be served", folder=self._folder, reason=self._problem)
            await self._close_servers()
            await self._close(vdisks)
            return
        self._vdisks = vdisks

    async def _key(self) -> bytes:
        """The master key, empty without one. InvalidArgument, Unavailable."""
        path, command = self._settings.key_file, self._settings.key_command
        if path and command:
            raise InvalidArgument("vdisk.key_file: expected it or vdisk.key_command, not both")
        if path:
            return await blocking.run("disk", read_master_key, path)
        if not command:
            return b""
        done = await self._reaper.run(command)
        if done.code:
            raise Unavailable(f"vdisk.key_command ended with {done.code}")  # what it printed may be the key
        return master_key_of(done.stdout, "vdisk.key_command")

    async def _joined(self, vdisks: Vdisks) -> Exports:
        if not self._settings.config:
            return vdisks
        module = await blocking.run("disk", _remote_module)
        settings = self._settings
        patience = module.Patience.of(settings.patience_s)
        self.remote = module.Remote(settings.config, settings.config_id, patience=patience)
        self.remote.begin()
        return JoinedExports(vdisks, self.remote.vdisks)

    async def _close(self, vdisks: Vdisks | None) -> None:
        remote, self.remote = self.remote, None
        if remote is not None:
            await remote.close()
        if vdisks is not None:
            await vdisks.close()

    async def _listen(self, vdisks: Exports) -> None:
        settings = self._settings
        files = settings.tls_certificate, settings.tls_key, settings.tls_client_ca, settings.tls_psk
        context = await blocking.run("disk", context_of, *files)
        server = Server(vdisks, tls=context)
        self._servers.append(server)
        await blocking.run("disk", os.makedirs, os.path.dirname(self.socket), exist_ok=True)
        await server.listen_unix(self.socket)
        if settings.listen:
            host, _, port = settings.listen.rpartition(":")
            if not host or not port.isdecimal() or int(port) > 65535:
                raise InvalidArgument(f"vdisk.listen: expected host:port, not {settings.listen!r}")
            if context is None and not settings.plain:
                raise InvalidArgument("vdisk.listen: expected tls_certificate, tls_psk, or plain = true")
            remote = Server(vdisks, tls=context, tls_only=not settings.plain)
            self._servers.append(remote)
            self.address = f"{host}:{await remote.listen_tcp(host.strip('[]'), int(port))}"

    # What people ask of either kind; of two vdisks of one name, the one that is served

    @property
    def on_clusters(self) -> "Remote":
        """Unavailable without a configuration."""
        if self.remote is None:
            raise Unavailable("vdisks on clusters: there is no vdisk.config")
        return self.remote

    def _lies_on_clusters(self, vdisk: str) -> bool:
        mine = {record.id for record in self.vdisks.records()}
        remote = self.remote
        return remote is not None and vdisk not in mine and vdisk in dict(remote.vdisks.names())

    async def info(self, vdisk: str) -> dict[str, Any]:
        """NotFound."""
        if self._lies_on_clusters(vdisk):
            return self.on_clusters.vdisks.info(vdisk)
        return await self.vdisks.info(vdisk)

    async def resize(self, vdisk: str, size: int) -> None:
        """NotFound, InvalidArgument; Conflict for less."""
        if self._lies_on_clusters(vdisk):
            await self.on_clusters.resize(vdisk, size)
        else:
            await self.vdisks.resize(vdisk, size)

    async def limit(self, vdisk: str, limits: Limits) -> None:
        """NotFound."""
        if self._lies_on_clusters(vdisk):
            await self.on_clusters.limit(vdisk, limits)
        else:
            await self.vdisks.limit(vdisk, limits)

    async def check(self, vdisk: str) -> list[str]:
        """NotFound; InvalidArgument for one on clusters."""
        if self._lies_on_clusters(vdisk):
            raise InvalidArgument(NO_CHECK)
        return await self.vdisks.check(vdisk)

    async def copy(self, vdisk: str, target: str) -> None:
        """Among the node's own, or on clusters."""
        if self._lies_on_clusters(vdisk):
            if any(record.id == target for record in self.vdisks.records()):
                raise AlreadyExists(f"vdisk {target!r} exists")
            await self.on_clusters.copy(vdisk, target)
        else:
            await self.vdisks.copy(vdisk, target)

    async def delete(self, vdisk: str) -> None:
        """NotFound; Conflict while it is in use."""
        if self._lies_on_clusters(vdisk):
            await self.on_clusters.delete(vdisk)
        else:
            await self.vdisks.delete(vdisk)

    def state(self) -> dict[str, Any]:
        """For `core.state`."""
        if self._vdisks is None:
            return {"problem": self._problem}
        state = {"vdisks": len(self._vdisks.records()), "socket": self.socket, "address": self.address}
        if self.remote is not None:
            state |= {"on_clusters": len(self.remote.vdisks.names()), "config_problem": self.remote.problem}
        return state

    def counters(self) -> dict[str, dict[str, int]]:
        """What each vdisk that is in use has done since it was opened."""
        found = self._vdisks.counters() if self._vdisks is not None else {}
        rows = self.remote.states() if self.remote is not None else []
        return {row["id"]: row["counters"] for row in rows if row["counters"]} | found

    async def close(self) -> None:
        """Answer what is in flight, flush everything, let go of the folder."""
        vdisks, self._vdisks = self._vdisks, None
        self._problem = "the node is shutting down"
        await self._close_servers()
        await self._close(vdisks)

    async def _close_servers(self) -> None:
        for server in self._servers:
            await server.close()
        self._servers.clear()


def _remote_module() -> ModuleType:
    """Imported only where it is used."""
    from g8node.vdisk.cluster import remote

    return remote
