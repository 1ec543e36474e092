"""Chunk codecs of the original's three generations (pure): snappy inside, XXTEA or AES-GCM around it.

          v1                           v2                 v3
    key   SHA-256(plain)               BLAKE2b-128(plain) BLAKE2b-256(plain)
    body  snappy                       snappy             snappy
    boxed XXTEA, key = first 16        XXTEA, key = key   AES-256-GCM, nonce = key[:12],
          hex digits of key                               tag of 16 bytes at the end
    id    SHA-256(boxed)               BLAKE2b-128(boxed) BLAKE2b-256(boxed)
    kept  16 bytes that nobody reads,  boxed              boxed
          then boxed

Stores know a v1 chunk by the 64 hex digits of its id, the others by its bytes. Here ids and keys are bytes:
32, 16 and 32 of them. XXTEA: words are little-endian, the text is padded with zeros to whole words and its
length follows as one more word; the key is used as it is, NUL bytes included (libraries that take it for a
C string spoil 6 % of all chunks). Golden vectors are in docs/formats/flist.md.
"""

import hashlib
import struct
from typing import Final

import cramjam
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8node.wire.chunk import TAG_SIZE, Encoded
from g8node.wire.kernels import xxtea

V1_HEADER: Final = 16
V2_DIGEST: Final = 16
_NONCE: Final = 12


def xxtea_seal(plain: bytes, key: bytes) -> bytes:
    """Pad, append the length, encrypt."""
    padded = plain + bytes(-len(plain) % 4) + struct.pack("<I", len(plain))
    return xxtea(padded, key, False)


def xxtea_open(sealed: bytes | memoryview, key: bytes) -> bytes:
    """The reverse. InvalidArgument: no whole words, or a length that does not go with them."""
    if len(sealed) % 4 or len(sealed) < 8:
        raise InvalidArgument(f"{len(sealed)} bytes are no XXTEA text")
    words = xxtea(sealed, key, True)
    size = int.from_bytes(words[-4:], "little")
    room = len(words) - 4
    if not room - 4 < size <= room:
        raise InvalidArgument("the key does not open it")
    return words[:size]


def encode_v1(plain: bytes) -> Encoded:
    """A chunk as 2017 kept it. Its header is eight digits and a checksum that no reader looks at."""
    import zlib

    key = hashlib.sha256(plain).digest()
    boxed = xxtea_seal(_compress(plain), key.hex()[:16].encode())
    header = b"10000000" + f"{zlib.crc32(boxed):08x}".encode()
    return Encoded(ChunkId(hashlib.sha256(boxed).digest()), key, header + boxed)


def encode_v2(plain: bytes) -> Encoded:
    """A chunk of a sqlite flist."""
    key = hashlib.blake2b(plain, digest_size=V2_DIGEST).digest()
    boxed = xxtea_seal(_compress(plain), key)
    return Encoded(ChunkId(hashlib.blake2b(boxed, digest_size=V2_DIGEST).digest()), key, boxed)


def encode_v3(plain: bytes) -> Encoded:
    """A chunk of an .fl."""
    key = hashlib.blake2b(plain, digest_size=32).digest()
    boxed = AESGCM(key).encrypt(key[:_NONCE], _compress(plain), None)
    return Encoded(ChunkId(hashlib.blake2b(boxed, digest_size=32).digest()), key, boxed)


def decode_v1(stored: bytes, chunk: bytes, key: bytes, plain_size_max: int) -> bytes:
    """Verify id, open, unpack, verify key. InvalidArgument: not this chunk, or larger than expected."""
    boxed = memoryview(stored)[V1_HEADER:]
    _expect(hashlib.sha256(boxed).digest() == chunk, chunk, "stored bytes do not match the id")
    plain = _unboxed(boxed, key.hex()[:16].encode(), chunk, plain_size_max)
    _expect(hashlib.sha256(plain).digest() == key, chunk, "plain text does not match the key")
    return plain


def decode_v2(stored: bytes, chunk: bytes, key: bytes, plain_size_max: int) -> bytes:
    """As decode_v1."""
    matches = hashlib.blake2b(stored, digest_size=V2_DIGEST).digest() == chunk
    _expect(matches, chunk, "stored bytes do not match the id")
    plain = _unboxed(stored, key, chunk, plain_size_max)
    same = hashlib.blake2b(plain, digest_size=V2_DIGEST).digest() == key
    _expect(same, chunk, "plain text does not match the key")
    return plain


def decode_v3(stored: bytes, chunk: bytes, key: bytes, plain_size_max: int) -> bytes:
    """As decode_v1."""
    matches = hashlib.blake2b(stored, digest_size=32).digest() == chunk
    _expect(matches, chunk, "stored bytes do not match the id")
    _expect(len(stored) >= TAG_SIZE, chunk, f"{len(stored)} bytes are too few")
    try:
        body = AESGCM(key).decrypt(key[:_NONCE], stored, None)
    except InvalidTag:
        raise InvalidArgument(f"chunk {chunk.hex()}: the key does not open it") from None
    plain = _unpacked(body, chunk, plain_size_max)
    same = hashlib.blake2b(plain, digest_size=32).digest() == key
    _expect(same, chunk, "plain text does not match the key")
    return plain


def _expect(good: bool, chunk: bytes, problem: str) -> None:
    if not good:
        raise InvalidArgument(f"chunk {chunk.hex()}: {problem}")


def _compress(plain: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(plain))


def _unboxed(boxed: bytes | memoryview, key: bytes, chunk: bytes, plain_size_max: int) -> bytes:
    # Snappy makes nothing longer than this; more is work for nothing.
    most = 48 + plain_size_max * 7 // 6
    _expect(len(boxed) <= most, chunk, f"more than {plain_size_max} plain bytes")
    try:
        body = xxtea_open(boxed, key)
    except InvalidArgument as error:
        raise InvalidArgument(f"chunk {chunk.hex()}: {error.message}") from None
    return _unpacked(body, chunk, plain_size_max)


def _unpacked(body: bytes, chunk: bytes, plain_size_max: int) -> bytes:
    """Snappy says its size first: a lie is refused before memory is taken."""
    size = shift = 0
    for byte in body[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    _expect(size <= plain_size_max, chunk, f"more than {plain_size_max} plain bytes")
    plain = bytearray(size)
    try:
        written = cramjam.snappy.decompress_raw_into(body, plain) if size else 0
    except cramjam.DecompressionError as error:
        raise InvalidArgument(f"chunk {chunk.hex()}: snappy: {error}") from None
    _expect(written == size, chunk, f"unpacks to {written} bytes, says {size}")
    return bytes(plain)
