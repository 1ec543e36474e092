"""Where to cut a file by its content (pure): FastCDC, so that a byte put in moves one chunk and not all.

Pieces have 128 KiB to 1 MiB, 512 KiB as a rule. The table is made from BLAKE2b of its index: equal files are
cut alike wherever they are packed. Source: FastCDC, USENIX ATC 2016.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

from g8node.wire.kernels import cut

LEAST: Final = 128 << 10
NORMAL: Final = 384 << 10
MOST: Final = 1 << 20
_READ: Final = 4 << 20
_GEAR: Final = b"".join(
    hashlib.blake2b(bytes([n]), digest_size=8, person=b"g8 gear 1").digest() for n in range(256)
)
_STRICT: Final = 0x001F_FFFF << 40
"""21 bits: a cut every 2 MiB, up to NORMAL."""
_LOOSE: Final = 0x0001_FFFF << 40
"""17 bits: one every 128 KiB, after it."""


def pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The pieces of what `read` gives, which answers with at most as many bytes as asked, none at the end."""
    rest = b""
    while True:
        data = read(_READ)
        block = rest + data
        if not block:
            return
        view, at = memoryview(block), 0
        # A cut near the end of what was read could lie elsewhere once more is known.
        while len(block) - at >= MOST or (not data and at < len(block)):
            size = cut(view[at:], _GEAR, LEAST, NORMAL, MOST, _STRICT, _LOOSE)
            yield block[at : at + size]
            at += size
        rest = block[at:]
