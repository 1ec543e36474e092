"""Stores that fail on purpose: in memory, and over real HTTP."""

import asyncio
import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from g8node.errors import Unavailable
from g8node.ids import ChunkId
from g8node.store.base import StoreError
from g8node.store.memory import MemoryStore

_HANG_S = 600


class FaultyStore(MemoryStore):
    """`fault`: "" | "down" (Unavailable) | "hang" (until `lifted`) | "corrupt" | "silent" (no answers)."""

    def __init__(self, chunks: Mapping[ChunkId, bytes] | None = None) -> None:
        super().__init__(chunks)
        self.fault = ""
        self.calls: list[list[ChunkId]] = []
        self.lifted = asyncio.Event()

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        self.calls.append(list(ids))
        if self.fault == "down":
            return {id: Unavailable("down") for id in ids}
        if self.fault == "silent":
            return {}
        if self.fault == "hang":
            await self.lifted.wait()
        answers = await super().get_many(ids)
        if self.fault == "corrupt":
            return {id: flip(got) if isinstance(got, bytes) else got for id, got in answers.items()}
        return answers


def flip(data: bytes) -> bytes:
    """One bit of the middle changed."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class ChunkServer:
    """A Hub's chunk calls over real HTTP, in threads of this process, with faults.

    `fault`: "" | "error" (503) | "hang" | "short" (half an answer, then the connection closes) | "corrupt" |
    "slow" (10 ms each) | "absent" (has no chunk). `down()` closes the port, `up()` opens the same one again.
    """

    def __init__(self, *, batches: bool = True) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.fault = ""
        self.requests: list[str] = []
        self.asked: list[bytes] = []
        """Chunk ids that were asked for."""
        self.batches = batches
        self.lifted = threading.Event()
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        server = self

        class Handler(_Handler):
            hub = server

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="chunk-server")
        self._thread.start()

    def down(self) -> None:
        self.lifted.set()
        self.fault = ""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # when all handlers have ended

    def load(self, folder: Path) -> None:
        """Serve the chunks of a LocalStore's folder."""
        for path in folder.glob("??/*"):
            self.chunks[bytes.fromhex(path.name)] = path.read_bytes()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` joins them
    block_on_close = True

    def __init__(self, *args: Any) -> None:
        self.connections: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is nothing to print."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: ChunkServer
    protocol_version = "HTTP/1.1"
    timeout = 120

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self.hub.requests.append(self.path)
        if self._failed():
            return
        if self.path.startswith("/chunks/"):
            found = self._chunk(bytes.fromhex(self.path.removeprefix("/chunks/")))
        else:
            found = self.hub.files.get(self.path)
            if found is not None and self.headers.get("If-None-Match") == _etag(found):
                self._answer(b"", 304)
                return
        self._answer(found or b"", 200 if found is not None else 404)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # a client that has gone half-way
            self.close_connection = True
            return
        self.hub.requests.append(self.path)
        if self._failed():
            return
        call, _, query = self.path.partition("?id=")
        size = int(query or 32)
        ids = [body[at : at + size] for at in range(0, len(body), size)]
        if not self.hub.batches and call == "/chunks/get":
            self._answer(b"", 404)
        elif call == "/chunks/get":
            self._answer(b"".join(_element(self._chunk(id)) for id in ids))
        elif call == "/chunks/missing":
            self._answer(b"".join(id for id in ids if id not in self.hub.chunks))
        else:
            self._store(body, size)

    def _chunk(self, id: bytes) -> bytes | None:
        self.hub.asked.append(id)
        return None if self.hub.fault == "absent" else self.hub.chunks.get(id)

    def _store(self, body: bytes, size: int) -> None:
        if self.headers.get("Authorization") != "Bearer secret":
            self._answer(b"", 401)
            return
        while body:
            id, (length,) = body[:size], struct.unpack_from("<I", body, size)
            self.hub.chunks.setdefault(id, body[size + 4 : size + 4 + length])
            body = body[size + 4 + length :]
        self._answer(b"{}", 201)

    def _failed(self) -> bool:
        fault = self.hub.fault
        if fault == "error":
            self._answer(b"no", 503)
        elif fault == "hang":
            self.hub.lifted.wait(_HANG_S)
            self.close_connection = True
        elif fault == "slow":
            time.sleep(0.01)
        return fault in ("error", "hang")

    def _answer(self, body: bytes, status: int = 200) -> None:
        fault = self.hub.fault
        if fault == "corrupt" and body:
            body = flip(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", _etag(body))
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that was killed
            self.wfile.write(body[: len(body) // 2] if fault == "short" else body)
        self.close_connection |= fault == "short"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _etag(body: bytes) -> str:
    return f'"{hash(body) & 0xFFFFFFFF:x}"'


def _element(found: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if found is None else struct.pack("<I", len(found)) + found
