"""SNTP version 4 messages (pure): RFC 4330. Times are Unix seconds."""

import struct
from dataclasses import dataclass
from typing import Final

from g8node.errors import InvalidArgument

_HEADER: Final = struct.Struct(">BBbbII4sQQQQ")
_CLIENT: Final = 4 << 3 | 3
_SERVER_MODE: Final = 4
_UNSYNCHRONIZED: Final = 3
_EPOCH: Final = 2208988800  # 1970 in seconds since 1900
_ERA: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Sample:
    """One exchange: how far the server's clock is ahead of ours, and how long the way took."""

    offset_s: float
    delay_s: float
    stratum: int


def request(cookie: int) -> bytes:
    """A client's packet. The server sends `cookie` (64 random bits) back; it tells nobody our time."""
    return _HEADER.pack(_CLIENT, 0, 0, 0, 0, 0, b"", 0, 0, 0, cookie)


def sample(data: bytes, cookie: int, *, sent: float, received: float) -> Sample:
    """What the server's answer says, given when we sent and received. InvalidArgument names what is wrong."""
    if len(data) < _HEADER.size:
        raise InvalidArgument(f"answer of {len(data)} bytes, expected {_HEADER.size} or more")
    flags, stratum, _, _, _, _, reference, _, origin, arrived, left = _HEADER.unpack_from(data)
    if flags & 7 != _SERVER_MODE or origin != cookie:
        raise InvalidArgument("no answer to our request")
    if stratum == 0:
        code = reference.decode("ascii", "replace").rstrip("\0")
        raise InvalidArgument(f"the server refuses: {code!r}")
    if stratum > 15 or flags >> 6 == _UNSYNCHRONIZED or not left:
        raise InvalidArgument("the server's clock is not synchronized")
    delay_s = (received - sent) - (_unix(left) - _unix(arrived))
    offset_s = ((_unix(arrived) - sent) + (_unix(left) - received)) / 2
    return Sample(offset_s, max(delay_s, 0.0), stratum)


def best(samples: list[Sample]) -> Sample:
    """The one to believe, of one or more: of three servers one may lie, so the median of the offsets."""
    if len(samples) < 3:
        return min(samples, key=lambda each: each.delay_s)
    return sorted(samples, key=lambda each: each.offset_s)[len(samples) // 2]


def stamp(unix_s: float) -> int:
    """A Unix time as a 64-bit timestamp."""
    return int((unix_s + _EPOCH) * _ERA) & ((1 << 64) - 1)


def _unix(timestamp: int) -> float:
    """Era 1 begins in February 2036: a timestamp without the first bit is of it."""
    era = 0 if timestamp >> 63 else _ERA
    return timestamp / _ERA + era - _EPOCH
