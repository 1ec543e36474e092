"""One table of all chunk codecs (pure): what an flist's `Codec` means for encoding, decoding and names.

Inside the node every id and every key is 32 bytes; what a store knows the chunk by is `stored_as`. Ids and
keys of v2, which have 16 bytes, are padded with zeros; those of v1 are the bytes of the hex digits.
"""

import hashlib
from typing import Final

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8node.wire import chunk as own
from g8node.wire import oldchunk as old
from g8node.wire.chunk import Encoded
from g8node.wire.flist import Codec

_PAD: Final = bytes(own.ID_SIZE - old.V2_DIGEST)


def stored_as(codec: Codec, id: bytes) -> ChunkId:
    """What stores call the chunk: 32 bytes, 16 bytes (v2) or 64 hex digits (v1)."""
    if codec == Codec.V2:
        return ChunkId(id[: old.V2_DIGEST])
    if codec == Codec.V1:
        return ChunkId(id.hex().encode())
    return ChunkId(id)


def is_stored_as(name: bytes, stored: bytes) -> bool:
    """Whether these are the bytes that a store must have under this name: its length tells the codec."""
    if len(name) == old.V2_DIGEST:
        return hashlib.blake2b(stored, digest_size=old.V2_DIGEST).digest() == name
    if len(name) == 64:
        return hashlib.sha256(memoryview(stored)[old.V1_HEADER :]).hexdigest().encode() == name
    return hashlib.blake2b(stored, digest_size=own.ID_SIZE).digest() == name


def decode(codec: Codec, stored: bytes, id: bytes, key: bytes, plain_size: int) -> bytes:
    """Verify and decode what a store gave. InvalidArgument: wrong bytes, or not plain_size of them."""
    if codec == Codec.ABSENT:
        raise InvalidArgument("the flist does not say which chunk this is")
    if codec in (Codec.G8, Codec.G8_KEYED):
        secret = None if codec == Codec.G8_KEYED else b""
        plain = own.decode(stored, ChunkId(id), key, plain_size, secret)
    elif codec == Codec.V2:
        plain = old.decode_v2(stored, id[: old.V2_DIGEST], key[: old.V2_DIGEST], plain_size)
    else:
        plain = (old.decode_v1 if codec == Codec.V1 else old.decode_v3)(stored, id, key, plain_size)
    if len(plain) != plain_size:
        raise InvalidArgument(f"chunk {id.hex()}: {len(plain)} plain bytes, the flist says {plain_size}")
    return plain


def encode(codec: Codec, plain: bytes, secret: bytes = b"", level: int = 3) -> Encoded:
    """Encode with the id and key as the node has them; a store gets it under `stored_as` of the id."""
    if codec in (Codec.G8, Codec.G8_KEYED):
        return own.encode(plain, secret, level)
    if codec == Codec.V2:
        made = old.encode_v2(plain)
        return Encoded(ChunkId(made.id + _PAD), made.key + _PAD, made.stored)
    if codec == Codec.V3:
        return old.encode_v3(plain)
    if codec == Codec.V1:
        return old.encode_v1(plain)
    raise InvalidArgument(f"chunks of codec {codec.name} cannot be written")
