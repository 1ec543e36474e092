"""What every handler gets: the parts of one Hub, and the rules of reading a body (async).

A body is read in bounded pieces with a time limit between them. When a request is refused before its body was
read, a bounded part of the rest is read and thrown away: closing a socket with unread data makes the kernel
reset the connection, and the client would lose the answer.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.exceptions import ClientException, NotAuthorizedException

from g8node.errors import DeadlineExceeded, PermissionDenied
from g8node.store.base import Store
from g8tools.hub.repository import Flists
from g8tools.hub.tokens import Publisher, Tokens

HttpRequest = Request[Any, Any, Any]

BODY_IDLE_S: Final = 60.0
_DRAIN_BYTES: Final = 64 << 20
_DRAIN_S: Final = 10.0


class Hub(msgspec.Struct, frozen=True):
    """The parts of one Hub."""

    flists: Flists
    chunks: Store
    tokens: Tokens
    flist_bytes_max: int
    uploads: asyncio.Semaphore
    """Flist uploads under way; more wait with their bodies unread."""

    def publisher(self, request: HttpRequest) -> Publisher:
        """Who sends this. 403 on a read-only Hub, 401 without a token that is known here."""
        if not self.tokens:
            raise PermissionDenied("this Hub is read-only", hint="it was started without a token file")
        publisher = self.tokens.find(request.headers.get("authorization", ""))
        if publisher is None:
            raise NotAuthorizedException(
                "a known token is needed: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"}
            )
        return publisher


async def body(request: HttpRequest) -> AsyncIterator[bytes]:
    """The body in pieces; its size limit is the route's `request_max_body_size`."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(BODY_IDLE_S):
                data = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceeded(f"no more of the body came for {BODY_IDLE_S:.0f} s") from None
        if data:
            yield data


async def whole_body(request: HttpRequest) -> bytes:
    """For small bodies."""
    return b"".join([piece async for piece in body(request)])


@contextlib.asynccontextmanager
async def drained(request: HttpRequest) -> AsyncIterator[None]:
    """When the block fails, read on so that the client can read why."""
    try:
        yield
    except Exception:
        await _drain(request)
        raise


async def _drain(request: HttpRequest) -> None:
    left = _DRAIN_BYTES
    with contextlib.suppress(TimeoutError, ClientException):
        async with asyncio.timeout(_DRAIN_S):
            while left > 0:
                event = await request.receive()
                if event["type"] != "http.request" or not event.get("more_body"):
                    return
                left -= len(event["body"])
