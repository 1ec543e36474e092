"""The chunk codec (pure): compress, encrypt, name; and back, trusting nothing.

    body   = 1 byte (0 raw, 1 zstd) || data
    key    = BLAKE2b-256(plain, keyed with the publisher's secret or nothing)
    nonce  = BLAKE2b-96(body, keyed with key)
    stored = nonce || AES-256-GCM(key, nonce, body)       tag (16 bytes) appended, no associated data
    id     = BLAKE2b-256(stored)

The nonce depends on the body: one key over two zstd outputs of the same plain text must not meet one nonce.
Golden vectors are in docs/formats/flist.md. `encode` and `decode` of a full chunk take milliseconds: call
them in the cpu pool.
"""

import hashlib
from typing import Final, NamedTuple

import cramjam
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId

CHUNK_SIZE: Final = 512 * 1024
"""Files are cut at this many bytes; the last piece is shorter."""
PLAIN_SIZE_MAX: Final = 16 << 20
SECRET_SIZE_MAX: Final = 64
ID_SIZE: Final = 32
KEY_SIZE: Final = 32
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
OVERHEAD: Final = NONCE_SIZE + 1 + TAG_SIZE
"""A stored chunk is never more than this longer than its plain text."""

_RAW: Final = b"\0"
_ZSTD: Final = b"\1"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_WINDOW_MAX: Final = 8 << 20


class Encoded(NamedTuple):
    """A chunk ready for a store. `key` belongs into the flist, never into the store."""

    id: ChunkId
    key: bytes
    stored: bytes


def chunk_id(stored: bytes) -> ChunkId:
    """The name of stored bytes."""
    return ChunkId(hashlib.blake2b(stored, digest_size=ID_SIZE).digest())


def encode(plain: bytes | memoryview, secret: bytes = b"", level: int = 3) -> Encoded:
    """Encode one chunk. Level 0 stores raw; so does anything that zstd cannot shrink.

    Equal plain text, secret, level and zstd version give equal ids. The secret has at most 64 bytes.
    """
    if len(secret) > SECRET_SIZE_MAX:
        raise InvalidArgument(f"publisher secret has {len(secret)} bytes, expected at most {SECRET_SIZE_MAX}")
    key = hashlib.blake2b(plain, digest_size=KEY_SIZE, key=secret).digest()
    packed = cramjam.zstd.compress(plain, level) if level else None
    body = _ZSTD + packed if packed is not None and len(packed) < len(plain) else _RAW + plain
    nonce = hashlib.blake2b(body, digest_size=NONCE_SIZE, key=key).digest()
    stored = nonce + AESGCM(key).encrypt(nonce, body, None)
    return Encoded(chunk_id(stored), key, stored)


def decode(
    stored: bytes, chunk: ChunkId, key: bytes, plain_size_max: int, secret: bytes | None = b""
) -> bytes:
    """Verify and decode: id first, then tag, then bounded decompression, then key.

    `secret` None skips the last check: a reader that was not given the publisher's secret cannot redo the
    keyed hash, and the tag already binds the plain text to the key. InvalidArgument: the bytes are not this
    chunk, or decode to more than plain_size_max bytes.
    """
    name = chunk.hex()
    if hashlib.blake2b(stored, digest_size=ID_SIZE).digest() != chunk:
        raise InvalidArgument(f"chunk {name}: stored bytes do not match the id")
    if len(key) != KEY_SIZE:
        raise InvalidArgument(f"chunk {name}: key has {len(key)} bytes, expected {KEY_SIZE}")
    if len(stored) < OVERHEAD:
        raise InvalidArgument(f"chunk {name}: {len(stored)} bytes are too few")
    if len(stored) > plain_size_max + OVERHEAD:
        raise InvalidArgument(f"chunk {name}: more than {plain_size_max} plain bytes")
    try:
        body = AESGCM(key).decrypt(stored[:NONCE_SIZE], memoryview(stored)[NONCE_SIZE:], None)
    except InvalidTag:
        raise InvalidArgument(f"chunk {name}: the key does not open it") from None
    plain = _decompress(body, plain_size_max, name)
    if secret is not None and hashlib.blake2b(plain, digest_size=KEY_SIZE, key=secret).digest() != key:
        raise InvalidArgument(f"chunk {name}: plain text does not match the key")
    return plain


def _decompress(body: bytes, plain_size_max: int, name: str) -> bytes:
    kind, data = body[:1], memoryview(body)[1:]
    if kind == _RAW:
        return bytes(data)
    if kind != _ZSTD:
        raise InvalidArgument(f"chunk {name}: unknown body type {body[0]}, expected 0 or 1")
    if _zstd_window(body[1:19]) > _WINDOW_MAX:
        raise InvalidArgument(f"chunk {name}: zstd window over {_WINDOW_MAX} bytes, or no zstd frame")
    plain = bytearray(plain_size_max)
    try:
        size = cramjam.zstd.decompress_into(data, plain)
    except cramjam.DecompressionError as error:
        raise InvalidArgument(f"chunk {name}: zstd: {error}, limit {plain_size_max} bytes") from None
    del plain[size:]
    return bytes(plain)


def _zstd_window(frame: bytes) -> int:
    """Memory that the frame's header asks for: a hostile one is refused first (RFC 8878, 3.1.1.1)."""
    if len(frame) < 6 or frame[:4] != _ZSTD_MAGIC:
        return _WINDOW_MAX + 1
    descriptor = frame[4]
    if not descriptor & 0x20:
        exponent, mantissa = frame[5] >> 3, frame[5] & 7
        return ((8 + mantissa) << (10 + exponent)) >> 3
    start = 5 + (0, 1, 2, 4)[descriptor & 3]
    size = (1, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(frame[start : start + size], "little")
