"""The entries of a content pool's log (pure): 64 bytes for each slot, whether or not it holds a block.

An entry says what became of a vdisk's blocks: SET gives one block the content of the slot `ref`, which is the
entry's own slot when the content is new; CLEAR makes `ref` blocks from `block` on read as zeros. The
checksum covers the slot, so that an entry is valid only where it was written. An entry lies within one
sector of 512 bytes: a power loss leaves it old or new. DEAD stands where content is about to be given back.
"""

import struct
import zlib
from typing import Final, NamedTuple

ENTRY: Final = 64
SET: Final = 1
CLEAR: Final = 2
DEAD: Final = 3

_BODY: Final = struct.Struct("<IQQQ32s")
_CRC: Final = struct.Struct("<I")
_ZERO: Final = bytes(ENTRY)


class Entry(NamedTuple):
    """`vdisk` is its number; `digest` is BLAKE2b-256 of the content, zeros for CLEAR."""

    kind: int
    vdisk: int
    block: int
    ref: int
    digest: bytes


def pack(slot: int, kind: int, vdisk: int, block: int, ref: int, digest: bytes) -> bytes:
    body = _BODY.pack(kind, vdisk, block, ref, digest)
    return _CRC.pack(zlib.crc32(body, slot & 0xFFFFFFFF)) + body


def dead(slot: int, *, content: bool) -> bytes:
    """`content`: there is a block to give back."""
    return pack(slot, DEAD, 0, 0, slot if content else 0, bytes(32))


def unpack(slot: int, data: bytes) -> Entry | None:
    """None for what is no entry of that slot."""
    if data == _ZERO or len(data) != ENTRY:
        return None
    if _CRC.unpack_from(data)[0] != zlib.crc32(data[4:], slot & 0xFFFFFFFF):
        return None
    return Entry(*_BODY.unpack_from(data, 4))
