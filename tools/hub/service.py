"""What every handler gets: the parts of one Hub, and the rules of reading a body (async).

A body is read in bounded pieces with a time limit between them. When a request is refused before its body was
read, a bounded part of the rest is read and thrown away: closing a socket with unread data makes the kernel
reset the connection, and the client would lose the answer.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final, Self

import msgspec
from litestar import Request
from litestar.datastructures import FormMultiDict
from litestar.exceptions import NotAuthorizedException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from g8node.errors import DeadlineExceeded, InvalidArgument, PermissionDenied
from g8node.store.base import Store
from g8tools.hub.beside import Beside
from g8tools.hub.catalog import Catalog
from g8tools.hub.repository import Flists
from g8tools.hub.tokens import Publisher, Tokens

HttpRequest = Request[Any, Any, Any]

BODY_IDLE_S: Final = 60.0
FORM_S: Final = 600.0
_DRAIN_BYTES: Final = 80 << 20
"""More than the largest body that is taken, so that one a little too large is read to its end."""
_DRAIN_S: Final = 60.0


class Hub(msgspec.Struct, frozen=True):
    """The parts of one Hub."""

    flists: Flists
    beside: Beside
    catalog: Catalog
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
        if publisher.expires_s <= time.time():
            raise NotAuthorizedException("the token has expired", headers={"WWW-Authenticate": "Bearer"})
        return publisher

    def user(self, request: HttpRequest) -> str:
        """Whose repository `me` is. As `publisher`, and InvalidArgument for a token that names no user."""
        user = self.publisher(request).user
        if not user:
            raise InvalidArgument(
                "the token names no user, so `me` is no repository", hint="use a token with a user"
            )
        return user


class Body:
    """The body of a request, within whose block it is read. Its size limit is `request_max_body_size`.

    When the block fails the rest is read and dropped, so that the client can read why.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._size_max = request.route_handler.resolve_request_max_body_size()
        self._began = self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            await self._drain()

    async def pieces(self) -> AsyncIterator[bytes]:
        """As they come. 413 over the limit, DeadlineExceeded when none comes for long."""
        self._check(self._request.content_length or 0)
        self._began = True
        size = 0
        while not self._ended:
            try:
                async with asyncio.timeout(BODY_IDLE_S):
                    data = await self._next()
            except TimeoutError:
                raise DeadlineExceeded(f"no more of the body came for {BODY_IDLE_S:.0f} s") from None
            size += len(data)
            self._check(size)
            yield data

    async def _next(self) -> bytes:
        event = await self._request.receive()
        if event["type"] != "http.request":
            self._ended = True
            raise InvalidArgument("the client left before the end of the body")
        self._ended = not event.get("more_body")
        return event["body"]

    def _check(self, size_bytes: int) -> None:
        if self._size_max and size_bytes > self._size_max:
            raise RequestEntityTooLarge(
                f"body of {size_bytes} bytes or more, at most {self._size_max} are taken"
            )

    async def whole(self) -> bytes:
        """For small bodies."""
        return b"".join([piece async for piece in self.pieces()])

    async def form(self) -> FormMultiDict:
        """A multipart form; files in it are spooled to disk. DeadlineExceeded."""
        self._began = True
        try:
            async with asyncio.timeout(FORM_S):
                form = await self._request.form()
        except TimeoutError:
            raise DeadlineExceeded(f"the form did not arrive within {FORM_S:.0f} s") from None
        self._ended = True
        return form

    async def _drain(self) -> None:
        if not self._began and self._request.headers.get("expect", "").lower() == "100-continue":
            return  # the client has not begun to send
        left = _DRAIN_BYTES
        with contextlib.suppress(TimeoutError, InvalidArgument):
            async with asyncio.timeout(_DRAIN_S):
                while left > 0 and not self._ended:
                    left -= len(await self._next())
