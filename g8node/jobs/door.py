"""How a client comes in (async): the TCP connection, its TLS handshake, the session.

Handshakes under way are counted as clients, so that half-open ones cannot pile up, and each gets the
certificate of the address that was dialled.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from g8node.jobs.session import Session
from g8node.jobs.tls import Contexts
from g8node.runtime import blocking, logs

log = logs.get("gate")

HANDSHAKE_S: Final = 10.0
_SHUTDOWN_S: Final = 5.0


class Door(asyncio.Protocol):
    """Between accept and the session; reads nothing itself."""

    def __init__(
        self,
        contexts: Contexts,
        session: Callable[[], Session],
        doors: "set[Door]",
        limit: Callable[[], bool],
    ) -> None:
        self._contexts = contexts
        self._session = session
        self._doors = doors
        self._has_room = limit
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        if not self._has_room():
            self._transport.abort()
            return
        self._doors.add(self)
        self._transport.pause_reading()
        self._task = asyncio.create_task(self._shake_hands(self._transport), name="gate handshake")

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        session = self._session()
        address = str(transport.get_extra_info("sockname")[0])
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                context = self._contexts.ready(address, time.time())
                if context is None:
                    context = await blocking.run("auth", self._contexts.context, address, time.time())
                secure = await _start_tls(transport, session, context)
        except (OSError, TimeoutError, ssl.SSLError) as error:
            log.debug("TLS handshake failed", error=str(error) or type(error).__name__)
            transport.abort()
            return
        finally:
            self._doors.discard(self)
        session.connection_made(secure)


def _start_tls(
    transport: asyncio.Transport, session: Session, context: ssl.SSLContext
) -> Awaitable[asyncio.Transport]:
    loop = asyncio.get_running_loop()
    return cast(
        Awaitable[asyncio.Transport],
        loop.start_tls(
            transport,
            session,
            context,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=_SHUTDOWN_S,
        ),
    )
