"""The Hub's composition root (async): parts, routes, how errors are told, start and stop of the server."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
from litestar import Litestar, Response, get
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.exceptions import HTTPException

from g8node import __version__
from g8node.errors import InvalidArgument, NodeError
from g8node.runtime import logs
from g8node.store.local import LocalStore
from g8node.store.stores import Stores
from g8tools.hub import changes, chunks, flists, pages
from g8tools.hub.beside import Beside
from g8tools.hub.catalog import Catalog
from g8tools.hub.links import Links
from g8tools.hub.repository import Flists
from g8tools.hub.service import HttpRequest, Hub
from g8tools.hub.tokens import Tokens

_UPLOADS_AT_ONCE: Final = 4
_BODY_BYTES_MAX: Final = 1 << 20
_CONNECTIONS_MAX: Final = 1024
log = logs.get("hub")


@get("/api/v1/health")
async def health(hub: chunks.HubPart) -> dict[str, str]:
    return {"status": "ok", "version": __version__, "mode": "read-write" if hub.tokens else "read-only"}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response[Any]:
    return Response(
        {"status": "error", "message": message},
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def _refused(_request: HttpRequest, error: NodeError) -> Response[Any]:
    return _error(error.status, str(error))


def _http(_request: HttpRequest, error: HTTPException) -> Response[Any]:
    message = error.detail if error.status_code != 404 else "no such path"
    return _error(error.status_code, message, dict(error.headers or {}))


def _bug(request: HttpRequest, error: Exception) -> Response[Any]:
    log.error("bug", path=request.url.path, exc_info=error)
    return _error(500, "internal error; the Hub's log has more")


def create_app(hub: Hub) -> Litestar:
    """The ASGI application over these parts, which stay the caller's to close."""
    return Litestar(
        [health, *chunks.HANDLERS, *flists.HANDLERS, *changes.HANDLERS, *pages.HANDLERS],
        dependencies={"hub": Provide(lambda: hub, sync_to_thread=False)},
        exception_handlers={NodeError: _refused, HTTPException: _http, Exception: _bug},
        cors_config=CORSConfig(allow_origins=["*"], allow_methods=["GET"]),
        request_max_body_size=_BODY_BYTES_MAX,
        openapi_config=None,
        logging_config=None,
    )


@asynccontextmanager
async def open_hub(
    data: Path, token_file: Path | None, flist_bytes_max: int = flists.FLIST_BYTES_MAX, chunks: str = ""
) -> AsyncIterator[Hub]:
    """The parts of the Hub whose state lies in `data`. InvalidArgument, Conflict, OSError.

    `chunks`: addresses of stores (docs/stores.md) that hold the chunks instead of a folder in `data`.
    """
    tokens = Tokens()
    if token_file is not None:
        tokens = Tokens.parse(await asyncio.to_thread(_token_text, token_file), str(token_file))
    published = await asyncio.to_thread(Flists, str(data))
    beside = await asyncio.to_thread(Beside, str(data))
    catalog = Catalog(published, Links(str(data)), beside)
    await asyncio.to_thread(os.makedirs, data / "chunks", exist_ok=True)
    store = Stores().open(chunks) if chunks else LocalStore(str(data / "chunks"), fsync=True)
    try:
        uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)
        yield Hub(published, beside, catalog, store, tokens, flist_bytes_max, uploads)
    finally:
        await store.close()
        published.close()


def _token_text(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{file}: expected ASCII text") from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks one. OSError names the address."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, reason, f"{host}:{port}") from None


async def serve(data: Path, listener: socket.socket, token_file: Path | None, chunks: str = "") -> None:
    """Serve until SIGINT or SIGTERM; then requests under way have ten seconds."""
    async with open_hub(data, token_file, chunks=chunks) as hub:
        config = uvicorn.Config(
            create_app(hub),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_graceful_shutdown=10,
        )
        host, port = listener.getsockname()[:2]
        # The socket listens already: whoever reads this line may connect.
        print(f"hub ready: http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        await uvicorn.Server(config).serve(sockets=[listener])
