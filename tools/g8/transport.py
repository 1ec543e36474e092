"""Connections to a node's gate: redis protocol over TCP or TLS (blocking; aio_transport has the other).

A connection carries one exchange at a time; idle ones are kept and used again, so that many threads or tasks
may share a client. Every wait has its limit: connecting, each reply (beyond the time that the request itself
may block), nothing else waits. A kept connection that turns out to be dead is replaced once; a command cannot
run twice by that, since it has an id.
"""

import contextlib
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import hiredis

from g8node.errors import InvalidArgument, NodeError, PermissionDenied
from g8tools.g8.flow import Request
from g8tools.g8.results import ResultError, Unreachable, refusal

Words = tuple[str | bytes | int | float, ...]

CONNECT_S: Final = 10.0
GRACE_S: Final = 5.0
READ_BYTES: Final = 256 << 10
KEPT: Final = 16
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True)
class Address:
    """Where a node is and how to get in. `password` may be a function, asked at every new connection (tokens
    expire). `db` is there for the original's sake: a node has database 0 only.
    """

    host: str
    port: int
    password: str | Callable[[], str] = ""
    tls: ssl.SSLContext | None = None
    connect_s: float = CONNECT_S
    grace_s: float = GRACE_S
    db: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def greeting(self) -> list[Words]:
        """What a new connection says first."""
        password = self.password() if callable(self.password) else self.password
        words: list[Words] = [("AUTH", password)] if password else []
        return [*words, ("SELECT", self.db)] if self.db else words

    def unreachable(self, error: BaseException | str) -> Unreachable:
        text = str(error) or "no answer in time"
        if isinstance(error, TimeoutError):
            text = "no answer in time"
        elif isinstance(error, ssl.SSLError):
            text = f"TLS: {error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else text}"
        elif isinstance(error, OSError) and error.strerror:
            # asyncio has words of its own for errno; what has none is of the name service.
            number = error.errno or 0
            text = os.strerror(number) if number > 0 else error.strerror
        return Unreachable(f"node {self}: {text}")


class Closed(Exception):
    """The peer hung up."""


def packed(words: Words) -> bytes:
    """As it travels."""
    pack: Any = hiredis.pack_command  # its stub knows tuples of one element only
    data: bytes = pack(words)
    return data


def next_reply(reader: hiredis.Reader, address: Address) -> Any:
    """The next whole reply; False when there is none yet. What the node refuses with."""
    try:
        reply = reader.gets()
    except hiredis.ProtocolError:
        raise address.unreachable("it does not speak the redis protocol") from None
    if isinstance(reply, hiredis.ReplyError):
        raise refusal(str(reply))
    return reply


def keep_alive(sock: socket.socket) -> None:
    """A peer that is gone is noticed; small requests leave at once."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, number in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), number)


@contextlib.contextmanager
def translated(address: Address) -> Iterator[None]:
    """Failures of a socket: Closed, or Unreachable with the reason."""
    try:
        yield
    except NodeError:
        raise
    except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise Closed from error
    except (OSError, UnicodeError) as error:  # a host name that is none is a UnicodeError
        raise address.unreachable(error) from error


@contextlib.contextmanager
def entering(address: Address) -> Iterator[None]:
    """While a connection is made: whatever the node says to the password is a refusal."""
    try:
        with translated(address):
            yield
    except Closed as error:
        raise address.unreachable("it closed the connection") from error
    except InvalidArgument as error:
        raise PermissionDenied(f"node {address}: {error}") from None
    except PermissionDenied as error:
        raise PermissionDenied(f"node {address}: {error}", hint="check the password") from None


class _Connection:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._reader = hiredis.Reader()
        self.sock = socket.create_connection((address.host, address.port), address.connect_s)
        try:
            keep_alive(self.sock)
            if address.tls is not None:
                self.sock = address.tls.wrap_socket(self.sock, server_hostname=address.host)
            for words in address.greeting():
                self.exchange(words, address.connect_s)
        except BaseException:
            self.sock.close()
            raise

    def exchange(self, words: Words, limit_s: float) -> Any:
        deadline = time.monotonic() + limit_s
        self.sock.settimeout(limit_s)
        self.sock.sendall(packed(words))
        while (reply := next_reply(self._reader, self._address)) is False:
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            data = self.sock.recv(READ_BYTES)
            if not data:
                raise Closed
            self._reader.feed(data)
        return reply


class BlockingTransport:
    """For threads: `execute` one request, any number at once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: deque[_Connection] = deque()  # append and pop are atomic
        self._is_closed = False

    def execute(self, request: Request) -> Any:
        """The node's reply. Unreachable; what the node refuses with."""
        with contextlib.suppress(IndexError):
            kept = self._idle.pop()
            with contextlib.suppress(Closed):
                return self._exchange(kept, request)
        if self._is_closed:
            raise self.address.unreachable("the client is closed")
        with entering(self.address):
            fresh = _Connection(self.address)
        try:
            return self._exchange(fresh, request)
        except Closed as error:
            raise self.address.unreachable("it closed the connection") from error

    def _exchange(self, connection: _Connection, request: Request) -> Any:
        is_whole = False
        try:
            with translated(self.address):
                reply = connection.exchange(request.words, request.block_s + self.address.grace_s)
            is_whole = True
        except (NodeError, ResultError) as error:
            is_whole = not isinstance(error, Unreachable)
            raise
        finally:
            if is_whole and not self._is_closed and len(self._idle) < KEPT:
                self._idle.append(connection)
            else:
                connection.sock.close()
        return reply

    def close(self) -> None:
        self._is_closed = True
        while self._idle:
            self._idle.pop().sock.close()
