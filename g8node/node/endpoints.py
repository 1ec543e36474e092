"""Peers of WireGuard links that are named, not numbered (async): resolved, and again when they fall silent.

The kernel knows addresses only. A peer whose last handshake is older than two tries of it may have moved: its
name is asked for again, more and more rarely, until it answers.
"""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from g8node.linux import namespace, virtual_links
from g8node.runtime import blocking, logs

log = logs.get("nics")

T = TypeVar("T")

_STALE_S: Final = 135.0  # as wireguard-tools' reresolve-dns: a handshake each 120 s, and what it may take
_PAUSE_S: Final = (2.0, 60.0)
_RESOLVE_S: Final = 5.0

Endpoint = tuple[str, int]


async def resolved(endpoint: Endpoint) -> Endpoint | None:
    """(address, port); None while nobody knows the name."""
    host, port = endpoint
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        pass
    try:
        async with asyncio.timeout(_RESOLVE_S):
            loop = asyncio.get_running_loop()
            rows = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError, TimeoutError):
        return None
    return (str(rows[0][4][0]), port) if rows else None


async def keep(space: int, link: str, names: Mapping[str, Endpoint]) -> None:
    """Look after the peers (by public key) of a link in the network namespace `space`; until cancelled.

    Cancelled, it ends when nothing uses `space` any more. It ends by itself when the link is gone.
    """
    pause_s = _PAUSE_S[0]
    while True:
        await asyncio.sleep(pause_s)
        try:
            seen = await _inside(space, virtual_links.handshakes, link)
            silent = [key for key in names if time.time() - seen.get(key, 0) > _STALE_S]
            for key in silent:
                if (found := await resolved(names[key])) is not None:
                    await _inside(space, virtual_links.endpoint_set, link, key, found)
        except OSError as error:
            log.warning("peers of a link are not looked after", link=link, reason=str(error))
            return
        pause_s = min(2 * pause_s, _PAUSE_S[1]) if silent else _PAUSE_S[1]


async def _inside(space: int, fn: Callable[..., T], *args: object) -> T:
    return await _whole(blocking.run("disk", namespace.call_in, [space], fn, *args))


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """To its end, also when it is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
