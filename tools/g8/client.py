"""The client library of a node (blocking): the original client's words over plain redis protocol or TLS.

    with Client("node", 6379, password=secret, ssl=False) as client:
        response = client.bash("ls /", stream=True)
        response.stream()
        print(response.get().stdout, client.info.cpu())

Failures: ResultError when a job failed, JobNotFoundError, TimeoutError when a result is late, Unreachable (a
ConnectionError) when the node cannot be reached, PermissionDenied and InvalidArgument when the gate refuses.
A client may be used by many threads at once. `g8tools.g8.aio` has the same for asyncio.
"""

import ssl as tls
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Self, TypeVar

from g8tools.g8.flow import Blocking, Flow, Request
from g8tools.g8.host import HostClient
from g8tools.g8.managers.container import ContainerClient
from g8tools.g8.results import JobNotFoundError, Message, Record, ResultError, Return, Unreachable
from g8tools.g8.tls import context
from g8tools.g8.transport import CONNECT_S, Address, BlockingTransport

T = TypeVar("T")

__all__ = [
    "Client",
    "ContainerClient",
    "JobNotFoundError",
    "Message",
    "Record",
    "ResultError",
    "Return",
    "Unreachable",
    "address_of",
]

_PAUSE_S: Final = 0.5


def address_of(
    host: str,
    port: int,
    password: str | Callable[[], str],
    db: int,
    ssl: bool | tls.SSLContext,
    timeout: float | None,
    *,
    cacert: str | None,
    cert: str | None,
    key: str | None,
) -> Address:
    """What both clients are told, as an Address. InvalidArgument for files that cannot be used."""
    connect_s = CONNECT_S if timeout is None else max(min(timeout, CONNECT_S), 1.0)
    made = ssl if isinstance(ssl, tls.SSLContext) else context(bool(ssl), cacert=cacert, cert=cert, key=key)
    return Address(host, port, password, made, connect_s=connect_s, db=db)


def run_blocking(flow: Flow[T], execute: Callable[[Request], Any]) -> T:
    """Drive a flow to its end."""
    try:
        request = next(flow)
        while True:
            try:
                reply = execute(request)
            except BaseException as error:  # noqa: BLE001 - the flow may clean up, and then raises it again
                request = flow.throw(error)
            else:
                request = flow.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result


class Client(HostClient[Blocking]):
    """One node."""

    def __init__(
        self,
        host: str,
        port: int = 6379,
        password: str | Callable[[], str] = "",
        db: int = 0,
        ssl: bool | tls.SSLContext = True,
        timeout: float | None = None,
        testConnectionAttempts: int = 3,
        *,
        cacert: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        """Connect and ping, up to so many times (0: do not).

        `password`: of the gate, or a JSON web token; a function is asked at each connection. `ssl`: TLS; with
        `cacert` (a PEM file) the node must prove itself by it, without, whoever answers is taken for the
        node, as the original did; or an SSLContext. `cert` and `key`: to be known by. `timeout`: how
        long results are waited for, 10 s by default; the attribute may be set later.
        """
        address = address_of(host, port, password, db, ssl, timeout, cacert=cacert, cert=cert, key=key)
        self._transport = BlockingTransport(address)
        super().__init__(timeout)
        if testConnectionAttempts:
            self._test(testConnectionAttempts)

    def _test(self, attempts: int) -> None:
        for attempt in range(attempts):
            try:
                self._transport.execute(Request(("PING",)))
                return
            except Unreachable:
                if attempt + 1 == attempts:
                    raise
                time.sleep(_PAUSE_S)

    @property
    def where(self) -> str:
        """HOST:PORT."""
        return str(self._transport.address)

    def perform(self, flow: Flow[Any]) -> Any:
        return run_blocking(flow, self._transport.execute)

    def repeat(self, make: Callable[[], Flow[Any]]) -> Iterator[Any]:
        while (element := self.perform(make())) is not None:
            yield element

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
