"""The order in which a start reads its flist: recorded once, fetched ahead the next time (pure).

    8s magic "g8prof2\\0", 32s digest of the flist (BLAKE2b-256 of its file), slot numbers as little-endian
    u32 in the order of their first read, 32s BLAKE2b-256 of everything before it

Slots are numbered in the order of the image (`flist/image.py`). A profile says what is likely to be read, no
more, and needs no signature: one that is made up costs useless fetches at most.
"""

import asyncio
import hashlib
import sys
from array import array
from typing import Final, NamedTuple

from g8node.errors import InvalidArgument

SUFFIX: Final = ".profile"
PROFILE_BYTES_MAX: Final = 16 << 20
"""Four million chunks, 2 TB."""
_MAGIC: Final = b"g8prof2\0"
_DIGEST: Final = 32
_HEAD: Final = len(_MAGIC) + _DIGEST
STREAM_SHARE: Final = 0.3
"""Who has read this much of an flist will read the rest: it is fetched before he asks."""
STREAM_MIN_CHUNKS: Final = 64
"""Smaller flists are read in a moment anyhow."""


class Recorder:
    """The first touches of an image's slots. `crowded` is set once STREAM_SHARE of them are touched."""

    def __init__(self, slots: int) -> None:
        self._seen = bytearray(slots)
        self._crowd = int(slots * STREAM_SHARE) if slots >= STREAM_MIN_CHUNKS else slots + 1
        self.order = array("I")
        self.crowded = asyncio.Event()

    def note(self, slot: int) -> None:
        if not self._seen[slot]:
            self._seen[slot] = 1
            self.order.append(slot)
            if len(self.order) == self._crowd:
                self.crowded.set()


class Profile(NamedTuple):
    """What was read first of the flist with this digest (hex)."""

    digest: str
    order: "array[int]"


def format_profile(profile: Profile) -> bytes:
    data = _MAGIC + bytes.fromhex(profile.digest) + _little_endian(profile.order).tobytes()
    return data + hashlib.blake2b(data, digest_size=_DIGEST).digest()


def parse_profile(data: bytes) -> Profile:
    """InvalidArgument: it is none, or damaged."""
    body, check = data[:-_DIGEST], data[-_DIGEST:]
    if len(data) > PROFILE_BYTES_MAX:
        raise InvalidArgument(f"profile of {len(data)} bytes, limit {PROFILE_BYTES_MAX}")
    if len(body) < _HEAD or len(body) % 4 or not body.startswith(_MAGIC):
        raise InvalidArgument("this is no profile of a start")
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != check:
        raise InvalidArgument("the profile is damaged")
    order = array("I")
    order.frombytes(body[_HEAD:])
    if len(order) != len(set(order)):
        raise InvalidArgument("the profile names a chunk twice")
    return Profile(body[len(_MAGIC) : _HEAD].hex(), _little_endian(order))


def _little_endian(order: "array[int]") -> "array[int]":
    """As the file has it, or back."""
    changed = array("I", order)
    if sys.byteorder == "big":
        changed.byteswap()
    return changed
