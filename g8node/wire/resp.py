"""RESP2 and RESP3 as a server speaks them (pure): requests in, replies out.

Requests are arrays of bulk strings or inline commands (https://redis.io/docs/reference/protocol-spec). Every
size is checked against the limits before anything is kept.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MAX_INLINE_BYTES: Final = 64 << 10
_MAX_HEADER_BYTES: Final = 32

_WHOLE: Final = {
    ord(str(count)): re.compile(rb"\*%d\r\n" % count + rb"\$(\d{1,4})\r\n([^\r\n]*)\r\n" * count)
    for count in range(1, 10)
}
"""By the digit of their count: arrays of a few short arguments without line ends."""


class ProtocolError(Exception):
    """The peer does not speak RESP, or exceeds the limits; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    args: int
    arg_bytes: int
    total_bytes: int


class RequestParser:
    """Feed bytes, take the requests that are complete. `limits` may change between two requests."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._buffer = bytearray()
        self._pos = 0
        self._missing = 0  # arguments of the current array still to come
        self._args: list[bytes] = []
        self._total = 0

    @property
    def buffered(self) -> int:
        """Bytes received and not yet taken."""
        return len(self._buffer) - self._pos

    def feed(self, data: bytes) -> None:
        if self._pos:
            del self._buffer[: self._pos]
            self._pos = 0
        self._buffer += data

    def next(self) -> list[bytes] | None:
        """The next complete request (never empty), None when more bytes are needed."""
        while True:
            if self._missing:
                if not self._bulk():
                    return None
                if self._missing:
                    continue
                args, self._args, self._total = self._args, [], 0
                return args
            if self._pos >= len(self._buffer):
                return None
            if (whole := self._whole()) is not None:
                return whole
            if self._buffer[self._pos] != ord("*"):
                words = self._inline()
                if words is None or words:
                    return words
            elif not self._array():
                return None

    def _whole(self) -> list[bytes] | None:
        """A short array that has arrived as a whole, which most have; None is for the others to judge."""
        buffer, pos = self._buffer, self._pos
        if pos + 1 >= len(buffer):
            return None
        pattern = _WHOLE.get(buffer[pos + 1])
        if pattern is None or (match := pattern.match(buffer, pos)) is None:
            return None
        groups = match.groups()
        args = list(groups[1::2])
        end = match.end()
        limits, size = self.limits, end - pos
        if size > limits.arg_bytes or size > limits.total_bytes or len(args) > limits.args:
            return None
        if [*map(len, args)] != [*map(int, groups[::2])]:
            return None
        self._pos = end
        return args

    def _line(self, max_bytes: int, what: str) -> bytes | None:
        end = self._buffer.find(b"\n", self._pos, self._pos + max_bytes)
        if end < 0:
            if self.buffered >= max_bytes:
                raise ProtocolError(f"too big {what}")
            return None
        line = bytes(self._buffer[self._pos : end]).removesuffix(b"\r")
        self._pos = end + 1
        return line

    def _number(self, marker: bytes, what: str, limit: int) -> int | None:
        line = self._line(_MAX_HEADER_BYTES, what)
        if line is None:
            return None
        if line[:1] != marker:
            raise ProtocolError(f"expected {marker.decode()!r}, got {line[:1].decode('latin-1')!r}")
        digits = line[1:]
        if not digits.isdigit() or int(digits) > limit:
            raise ProtocolError(f"invalid {what}: expected 0..{limit}, got {digits.decode('latin-1')!r}")
        return int(digits)

    def _array(self) -> bool:
        count = self._number(b"*", "multibulk length", self.limits.args)
        if count is None:
            return False
        self._missing = count
        return True

    def _bulk(self) -> bool:
        """One argument; False (and nothing taken) when it is not complete."""
        start = self._pos
        size = self._number(b"$", "bulk length", self.limits.arg_bytes)
        if size is None:
            return False
        if self._total + size > self.limits.total_bytes:
            raise ProtocolError(f"request of more than {self.limits.total_bytes} bytes")
        end = self._pos + size
        if len(self._buffer) < end + 2:
            self._pos = start
            return False
        if self._buffer[end : end + 2] != b"\r\n":
            raise ProtocolError("expected CRLF after a bulk string")
        self._args.append(bytes(self._buffer[self._pos : end]))
        self._pos = end + 2
        self._total += size
        self._missing -= 1
        return True

    def _inline(self) -> list[bytes] | None:
        line = self._line(min(MAX_INLINE_BYTES, self.limits.total_bytes), "inline request")
        if line is None:
            return None
        try:
            words = shlex.split(line.decode("latin-1"))
        except ValueError as error:
            raise ProtocolError("unbalanced quotes in request") from error
        if len(words) > self.limits.args:
            raise ProtocolError(f"more than {self.limits.args} arguments")
        return [word.encode("latin-1") for word in words]


class Simple(str):
    """A simple string, e.g. OK."""

    __slots__ = ()


class Error(str):
    """An error: its first word is the kind."""

    __slots__ = ()


class NullArray:
    """What a blocking pop answers when its time is up."""


OK: Final = Simple("OK")
PONG: Final = Simple("PONG")
NULL_ARRAY: Final = NullArray()

Reply = None | int | bytes | str | Simple | Error | NullArray | Sequence["Reply"] | Mapping[str, "Reply"]


def encode(reply: Reply, protocol: int = 2) -> bytes:
    """The reply in RESP2 or RESP3; plain str becomes a bulk string."""
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, list):
        return b"*%d\r\n%b" % (len(reply), b"".join([encode(item, protocol) for item in reply]))
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if reply is None:
        return b"_\r\n" if protocol == 3 else b"$-1\r\n"
    if isinstance(reply, str):
        return _encode_text(reply)
    if isinstance(reply, NullArray):
        return b"_\r\n" if protocol == 3 else b"*-1\r\n"
    if isinstance(reply, Mapping):
        items: list[Reply] = [item for pair in reply.items() for item in pair]
        header = b"%%%d\r\n" % len(reply) if protocol == 3 else b"*%d\r\n" % len(items)
        return header + b"".join([encode(item, protocol) for item in items])
    return encode(list(reply), protocol)


def _encode_text(reply: str) -> bytes:
    if isinstance(reply, Simple | Error):
        return (b"+" if isinstance(reply, Simple) else b"-") + _one_line(reply) + b"\r\n"
    return encode(reply.encode("utf-8", "surrogateescape"))


def _one_line(text: str) -> bytes:
    return " ".join(text.split()).encode("utf-8", "replace")
