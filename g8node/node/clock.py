"""Time from NTP servers (async)."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from g8node.errors import NodeError, Unavailable
from g8node.linux import clock
from g8node.runtime import blocking
from g8node.wire import sntp

STEP_S: Final = 0.128
"""A larger offset is set at once, a smaller one made up little by little (as ntpd has it)."""

SERVERS_MAX: Final = 8
PORT: Final = 123


async def measure(servers: Sequence[str], timeout_s: float) -> sntp.Sample:
    """Ask all servers (host or host:port) at once. Unavailable with the reasons when none answers well."""
    asked = [asyncio.ensure_future(_ask(server, timeout_s)) for server in servers[:SERVERS_MAX]]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    samples = [answer for answer in answers if isinstance(answer, sntp.Sample)]
    if samples:
        return sntp.best(samples)
    reasons = [
        f"{server}: {answer if str(answer) else 'no answer'}"
        for server, answer in zip(servers, answers, strict=False)
        if isinstance(answer, NodeError | OSError | TimeoutError)
    ]
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, NodeError | OSError | TimeoutError):
            raise answer
    raise Unavailable(f"no time server answers: {', '.join(reasons) or 'none is named'}")


async def adjust(offset_s: float) -> bool:
    """Correct the clock; True when it was set at once. Raises OSError."""
    if abs(offset_s) > STEP_S:
        await blocking.run("disk", clock.step, offset_s)
        return True
    await blocking.run("disk", clock.slew, offset_s)
    return False


async def _ask(server: str, timeout_s: float) -> sntp.Sample:
    host, colon, port = server.rpartition(":")
    if not colon or not port.isdigit() or host.endswith(":"):
        host, port = server, str(PORT)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)
        answer: asyncio.Future[sntp.Sample] = loop.create_future()
        address = (str(found[0][4][0]), int(port))
        transport, _ = await loop.create_datagram_endpoint(lambda: _Client(answer), remote_addr=address)
        try:
            return await answer
        finally:
            transport.close()


class _Client(asyncio.DatagramProtocol):
    """Sends one request and takes the first answer."""

    def __init__(self, answer: "asyncio.Future[sntp.Sample]") -> None:
        self._answer = answer
        self._cookie = secrets.randbits(64)
        self._sent = 0.0

    def connection_made(self, transport: Any) -> None:
        self._sent = time.time()
        transport.sendto(sntp.request(self._cookie))

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self._answer.done():
            return
        try:
            found = sntp.sample(data, self._cookie, sent=self._sent, received=time.time())
        except NodeError as error:
            self._answer.set_exception(error)
        else:
            self._answer.set_result(found)

    def error_received(self, exc: Exception) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            self._answer.set_exception(exc)
