"""Connections of the client against peers that are slow, silent, rude or wrong."""

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from g8node.errors import AlreadyExists, InvalidArgument, PermissionDenied, Unavailable
from g8tools.g8.aio_transport import AsyncTransport
from g8tools.g8.client import Client
from g8tools.g8.flow import Request
from g8tools.g8.results import ResultError, Unreachable
from g8tools.g8.transport import Address, BlockingTransport
from tests.support.peers import Serve, peer

PING = Request(("PING",))
Execute = Callable[[Address, Request, int], Any]


def blocking(address: Address, request: Request, times: int = 1) -> Any:
    transport = BlockingTransport(address)
    try:
        return [transport.execute(request) for _ in range(times)][-1]
    finally:
        transport.close()


def by_asyncio(address: Address, request: Request, times: int = 1) -> Any:
    async def run() -> Any:
        transport = AsyncTransport(address)
        try:
            return [await transport.execute(request) for _ in range(times)][-1]
        finally:
            await transport.close()

    return asyncio.run(run())


@pytest.fixture(params=[blocking, by_asyncio], ids=["blocking", "asyncio"])
def execute(request: pytest.FixtureRequest) -> Execute:
    chosen: Execute = request.param
    return chosen


def answering(*replies: bytes) -> Serve:
    """One reply for each request, the last one for ever."""

    def serve(connection: socket.socket) -> None:
        for reply in itertools.chain(replies, itertools.repeat(replies[-1])):
            if not connection.recv(65536):
                return
            connection.sendall(reply)

    return serve


def test_replies_come_back(execute: Execute) -> None:
    with peer(answering(b"+PONG\r\n")) as port:
        assert execute(Address("127.0.0.1", port), PING, 3) == b"PONG"


def test_reply_in_pieces_is_one(execute: Execute) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in b"*2\r\n$2\r\nab\r\n$-1\r\n":
            connection.sendall(bytes([byte]))

    with peer(serve) as port:
        assert execute(Address("127.0.0.1", port), PING, 1) == [b"ab", None]


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (b"-NOPERM no way\r\n", PermissionDenied, "no way"),
        (b"-NOAUTH Authentication required.\r\n", PermissionDenied, "Authentication"),
        (b"-DUPLICATE job 'x' exists\r\n", AlreadyExists, "exists"),
        (b"-UNAVAILABLE redis does not answer\r\n", Unavailable, "redis"),
        (b"-ERR 400 path: wrong\r\n", InvalidArgument, "path: wrong"),
        (b"-ERR 404 not there\r\n", ResultError, "not there"),
        (b"-ERR timeout is negative\r\n", InvalidArgument, "timeout is negative"),
    ],
)
def test_refusals_are_told_apart_and_leave_the_connection_usable(
    execute: Execute, reply: bytes, kind: type[Exception], text: str
) -> None:
    connections: list[int] = []

    def serve(connection: socket.socket) -> None:
        connections.append(1)
        answering(reply)(connection)

    with peer(serve) as port:
        with pytest.raises(kind, match=text):
            execute(Address("127.0.0.1", port), PING, 1)
        transport = BlockingTransport(Address("127.0.0.1", port))
        for _ in range(3):
            with pytest.raises(kind, match=text):
                transport.execute(PING)
        transport.close()
        assert len(connections) == 2


def test_silent_peer_is_given_up_in_time(execute: Execute) -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    with peer(serve) as port:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer in time"):
            execute(Address("127.0.0.1", port, grace_s=0.2), Request(("BLPOP", "x", 0.1), 0.1), 1)
        assert time.monotonic() - began >= 0.29  # a loop counts in whole milliseconds


@pytest.mark.parametrize("reply", [b"", b"$5\r\nab"])
def test_peer_that_hangs_up_is_named(execute: Execute, reply: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(reply)

    with peer(serve) as port, pytest.raises(Unreachable, match=rf"node 127\.0\.0\.1:{port}: it closed"):
        execute(Address("127.0.0.1", port), PING, 1)


def test_kept_connection_that_died_is_replaced(execute: Execute) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"+PONG\r\n")  # and it ends

    with peer(serve) as port:
        assert execute(Address("127.0.0.1", port), PING, 4) == b"PONG"


def test_what_speaks_another_protocol_is_told(execute: Execute) -> None:
    with (
        peer(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port,
        pytest.raises(Unreachable, match="does not speak the redis protocol"),
    ):
        execute(Address("127.0.0.1", port), PING, 1)


def test_nobody_listens(execute: Execute) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionError, match="refused"):
        execute(Address("127.0.0.1", port), PING, 1)
    with pytest.raises(Unreachable):
        execute(Address("no such host.invalid", 1), PING, 1)


def test_password_is_shown_at_each_connection_and_may_change(execute: Execute) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(b"+OK\r\n")
        connection.recv(65536)
        connection.sendall(b"+PONG\r\n")

    tokens = itertools.count()
    with peer(serve) as port:
        address = Address("127.0.0.1", port, lambda: f"token{next(tokens)}")
        assert execute(address, PING, 2) == b"PONG"
    assert [words.split(b"\r\n")[-2] for words in seen] == [b"token0", b"token1"]


def test_wrong_password_is_a_refusal(execute: Execute) -> None:
    for reply in (b"-WRONGPASS invalid\r\n", b"-ERR too many failed attempts, try again later\r\n"):
        with peer(answering(reply)) as port, pytest.raises(PermissionDenied, match=f"node 127.0.0.1:{port}"):
            execute(Address("127.0.0.1", port, "wrong"), PING, 1)


def test_client_tries_as_often_as_it_is_told() -> None:
    connections: list[int] = []

    def serve(connection: socket.socket) -> None:
        connections.append(1)  # and it hangs up

    with peer(serve) as port:
        with pytest.raises(ConnectionError, match="it closed the connection"):
            Client("127.0.0.1", port, ssl=False, testConnectionAttempts=2)
        assert len(connections) == 2
        Client("127.0.0.1", port, ssl=False, testConnectionAttempts=0).close()
        assert len(connections) == 2


def test_closed_client_sends_nothing() -> None:
    transport = BlockingTransport(Address("127.0.0.1", 1))
    transport.close()
    with pytest.raises(Unreachable, match="closed"):
        transport.execute(PING)


async def test_cancelled_call_gives_its_connection_up() -> None:
    with peer(answering(b"")) as port:
        transport = AsyncTransport(Address("127.0.0.1", port))
        call = asyncio.create_task(transport.execute(Request(("BLPOP", "x", 60), 60)))
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert not transport._idle
        await transport.close()
