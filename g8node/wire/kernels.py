"""Inner loops: compiled (`_kernels.c`) where the package was built with a compiler, else in Python (pure).

Both answer alike (tests/unit/wire/test_kernels.py). The Python ones are a thousand times slower: good for a
few small chunks, not for a node that lives on old flists.
"""

import hashlib
import struct
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

__all__ = ["COMPILED", "blake2b_each", "blank", "crc32c", "cut", "xxtea"]

_DELTA: Final = 0x9E3779B9
_MASK: Final = 0xFFFFFFFF

Buffer = bytes | bytearray | memoryview


def slow_xxtea(data: Buffer, key: Buffer, backwards: bool) -> bytes:
    """XXTEA over little-endian words, at least two of them; the key is used as it is."""
    if len(key) != 16 or len(data) % 4 or len(data) < 8:
        raise ValueError("xxtea: expected a key of 16 bytes and at least two words")
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    _rounds(words, struct.unpack("<4I", key), backwards)
    return struct.pack(f"<{len(words)}I", *words)


def _rounds(v: list[int], key: tuple[int, ...], backwards: bool) -> None:
    count = len(v)
    rounds = 6 + 52 // count
    order = range(count - 1, -1, -1) if backwards else range(count)
    for turn in range(1, rounds + 1):
        total = (rounds + 1 - turn if backwards else turn) * _DELTA & _MASK
        e = total >> 2 & 3
        for p in order:
            y, z = v[(p + 1) % count], v[p - 1]
            mixed = ((z >> 5 ^ y << 2 & _MASK) + (y >> 3 ^ z << 4 & _MASK)) ^ (
                (total ^ y) + (key[p & 3 ^ e] ^ z)
            )
            v[p] = (v[p] - mixed if backwards else v[p] + mixed) & _MASK


def slow_cut(data: Buffer, gear: Buffer, least: int, normal: int, most: int, strict: int, loose: int) -> int:
    """Length of the first piece of data: the gear hash, rolling from `least`, has no bit of the mask set.

    The mask is `strict` up to `normal` and `loose` after it; `most` bytes are always enough (FastCDC,
    USENIX ATC 2016). `gear` holds 256 little-endian words of 64 bits.
    """
    if len(gear) != 2048 or not 0 <= least <= normal <= most:
        raise ValueError("cut: expected 256 words and ascending sizes")
    table = struct.unpack("<256Q", gear)
    end = min(len(data), most)
    hash = 0
    for at in range(least, end):
        hash = (hash << 1) + table[data[at]] & 0xFFFFFFFFFFFFFFFF
        if not hash & (strict if at < normal else loose):
            return at + 1
    return end


def _crc_table() -> "array[int]":
    table = array("L")
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE: Final = _crc_table()


def slow_crc32c(data: Buffer) -> int:
    """CRC-32C (Castagnoli) begun with all ones and not inverted at the end, as EROFS stores it."""
    crc = _MASK
    for byte in bytes(data):
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def slow_blake2b_each(data: list[Buffer], key: bytes) -> list[bytes]:
    """The 32 bytes of BLAKE2b of each, with a key of at most 64 bytes, or an empty one."""
    return [hashlib.blake2b(one, digest_size=32, key=key).digest() for one in data]


COMPILED = True
if TYPE_CHECKING:
    xxtea: Callable[[Buffer, Buffer, bool], bytes]
    cut: Callable[[Buffer, Buffer, int, int, int, int, int], int]
    crc32c: Callable[[Buffer], int]
    blank: Callable[[int], bytearray]
    blake2b_each: Callable[[list[Buffer], bytes], list[bytes]]
else:
    try:
        from g8node.wire._kernels import blake2b_each, blank, crc32c, cut, xxtea
    except ImportError:
        COMPILED = False
        xxtea, cut, crc32c, blank = slow_xxtea, slow_cut, slow_crc32c, bytearray
        blake2b_each = slow_blake2b_each
