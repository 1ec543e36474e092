"""The order in which the start of a container reads its flist: recorded once, fetched ahead the next time.

`Recorder` is pure; `save` and `load` block. A profile is the file `<folder>/<hex digest of the flist>`:

    8s magic "g8prof1\\0", slot numbers as little-endian u32 in the order of their first read,
    32s BLAKE2b-256 of everything before it

It says what is likely to be read, no more: one that is damaged or made up costs useless fetches at most.
"""

import asyncio
import contextlib
import hashlib
import os
import sys
from array import array
from typing import Final

from g8node.linux.guard import off_loop

_MAGIC: Final = b"g8prof1\0"
_DIGEST: Final = 32
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


@off_loop
def save(path: str, order: "array[int]") -> None:
    """Whole or not at all."""
    slots = array("I", order)
    if sys.byteorder == "big":
        slots.byteswap()
    data = _MAGIC + slots.tobytes()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.part", "wb") as out:
        out.write(data + hashlib.blake2b(data, digest_size=_DIGEST).digest())
    os.rename(f"{path}.part", path)


@off_loop
def load(path: str, slots: int) -> "array[int] | None":
    """The slot numbers; None when there is no profile, or none that fits an image of so many slots."""
    data = b""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as source:
        data = source.read(len(_MAGIC) + 4 * slots + _DIGEST + 1)
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if len(body) % 4 or body[:8] != _MAGIC or hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        return None
    order = array("I")
    order.frombytes(body[8:])
    if sys.byteorder == "big":
        order.byteswap()
    return order if len(order) == len(set(order)) and all(slot < slots for slot in order) else None
