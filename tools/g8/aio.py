"""The client library for asyncio: what `g8tools.g8.client` has, each call an awaitable.

    async with Client("node", 6379, password=secret, ssl=False) as client:
        response = await client.bash("ls /", stream=True)
        async for message in response.messages():
            print(message.text)
        print((await response.get()).stdout, await client.info.cpu())

`response.exists`, `response.running` and `client.zfs.config` are awaited too. A client may be used by many
tasks of one loop at once; a cancelled call gives its connection up.
"""

import ssl as tls
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from g8tools.g8.aio_transport import AsyncTransport
from g8tools.g8.client import address_of
from g8tools.g8.flow import Asyncio, Flow
from g8tools.g8.host import HostClient
from g8tools.g8.managers.container import ContainerClient
from g8tools.g8.results import JobNotFoundError, Message, Record, ResultError, Return, Unreachable

__all__ = [
    "Client",
    "ContainerClient",
    "JobNotFoundError",
    "Message",
    "Record",
    "ResultError",
    "Return",
    "Unreachable",
]


class Client(HostClient[Asyncio]):
    """One node; an async context manager. Nothing is sent before the first call."""

    def __init__(
        self,
        host: str,
        port: int = 6379,
        password: str | Callable[[], str] = "",
        db: int = 0,
        ssl: bool | tls.SSLContext = True,
        timeout: float | None = None,
        *,
        cacert: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        """As the blocking client."""
        address = address_of(host, port, password, db, ssl, timeout, cacert=cacert, cert=cert, key=key)
        self._transport = AsyncTransport(address)
        super().__init__(timeout)

    async def perform(self, flow: Flow[Any]) -> Any:
        try:
            request = next(flow)
            while True:
                try:
                    reply = await self._transport.execute(request)
                except BaseException as error:  # noqa: BLE001 - the flow may clean up, and then raises it again
                    request = flow.throw(error)
                else:
                    request = flow.send(reply)
        except StopIteration as end:
            return end.value

    async def repeat(self, make: Callable[[], Flow[Any]]) -> AsyncIterator[Any]:
        while (element := await self.perform(make())) is not None:
            yield element

    async def close(self) -> None:
        """Hang up."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
