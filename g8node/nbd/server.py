"""Sockets that speak NBD (async): a unix socket, TCP, or both, with one set of exports."""

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Final

from g8node.errors import Conflict, InvalidArgument
from g8node.nbd.connection import Connection
from g8node.nbd.export import Exports
from g8node.runtime import blocking
from g8node.wire.nbd_handshake import TlsMode

CONNECTIONS_MAX: Final = 4096
HANDSHAKE_S: Final = 60.0
_BACKLOG: Final = 1024
_CLOSE_S: Final = 30.0


class Server:
    """Serves until `close`. Raises InvalidArgument when TLS is required and there is no certificate."""

    def __init__(
        self,
        exports: Exports,
        *,
        tls: ssl.SSLContext | None = None,
        tls_only: bool = False,
        handshake_s: float = HANDSHAKE_S,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        if tls_only and tls is None:
            raise InvalidArgument("TLS only: expected a certificate")
        self.exports = exports
        self.tls = tls
        self.tls_mode: TlsMode = "required" if tls_only else "optional" if tls is not None else "off"
        self.handshake_s = handshake_s
        self._connections_max = connections_max
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._servers: list[asyncio.AbstractServer] = []
        self._sockets: list[str] = []

    def joined(self, connection: Connection) -> bool:
        self._connections.add(connection)
        self._empty.clear()
        return len(self._connections) <= self._connections_max

    def left(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    @property
    def connections(self) -> int:
        return len(self._connections)

    def users(self, name: str) -> int:
        """Connections to one export."""
        return sum(connection.name == name for connection in self._connections)

    async def listen_unix(self, path: str) -> None:
        """At a path; a socket that nobody listens on any more is replaced, another one's is Conflict."""
        await blocking.run("disk", _remove_stale, path)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(self._connection, path, backlog=_BACKLOG))
        self._sockets.append(path)

    async def listen_tcp(self, host: str, port: int) -> int:
        """The port that was taken, for port 0."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connection, host, port, backlog=_BACKLOG)
        self._servers.append(server)
        taken: int = server.sockets[0].getsockname()[1]
        return taken

    def _connection(self) -> Connection:
        return Connection(self)

    async def close(self) -> None:
        """Answer what is in flight, then end; after a while without waiting for clients."""
        for server in self._servers:
            server.close()
        for path in self._sockets:
            with contextlib.suppress(FileNotFoundError):
                await blocking.run("disk", os.unlink, path)
        for connection in list(self._connections):
            connection.close()
        try:
            await asyncio.wait_for(self._empty.wait(), _CLOSE_S)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._empty.wait()


def _remove_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise Conflict(f"{path}: another server listens there")
