"""The HTTP client of the stores (async).

aiohttp is imported on first use, in a thread: it would stop the loop for longer than the watchdog allows.
"""

import asyncio
import importlib
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from g8node.errors import Unavailable
from g8node.runtime import blocking
from g8node.store.servers import tls_context

if TYPE_CHECKING:
    import aiohttp

SINGLES: Final = 16
"""Requests for one chunk each that are under way at once."""


@dataclass(frozen=True, slots=True)
class WebAccess:
    """How a server is reached. `headers` go with every request."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    authority: str = ""
    """File with the certificates that are trusted; empty: the system's."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0


class Web:
    """Keep-alive connections, opened on first use."""

    def __init__(self, access: WebAccess) -> None:
        self._access = access
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def client(self) -> "aiohttp.ClientSession":
        async with self._opening:
            if self._session is None:
                http = await blocking.run("disk", importlib.import_module, "aiohttp")
                access = self._access
                trust: ssl.SSLContext | bool = True
                if access.authority:
                    trust = await blocking.run("disk", tls_context, access.authority)
                self._session = http.ClientSession(
                    timeout=http.ClientTimeout(
                        total=None, sock_connect=access.connect_timeout_s, sock_read=access.read_timeout_s
                    ),
                    connector=http.TCPConnector(limit=2 * SINGLES, keepalive_timeout=30, ssl=trust),
                    headers=access.headers,
                    auto_decompress=False,
                    trust_env=False,
                )
            return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = None


def failures(*also: type[Exception]) -> tuple[type[Exception], ...]:
    """What a network does to us. Nothing of aiohttp is raised before it is imported."""
    usual: tuple[type[Exception], ...] = (OSError, TimeoutError, asyncio.IncompleteReadError, *also)
    http = sys.modules.get("aiohttp")
    return usual if http is None else (http.ClientError, *usual)


def reason(error: Exception) -> str:
    return str(error) or type(error).__name__


async def bounded(response: "aiohttp.ClientResponse", limit: int) -> bytes:
    """The body; Unavailable when it is larger."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise Unavailable(f"{response.url}: more than {limit} bytes")
    return bytes(body)
