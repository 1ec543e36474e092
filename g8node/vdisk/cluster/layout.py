"""Where the original put what in its servers (pure): keys, hashes, sectors of hashes, the choice of a server.

    nondedup:<vdisk>   hash: block number -> the block               on server  block number
    lba:<vdisk>        hash: sector number -> 128 hashes of 32 bytes on server  sector number
    <32 bytes>         the content with that BLAKE2b-256             on server  first byte of the hash

The number goes modulo the servers there are. Where that server is gone for good (RIP), jump consistent
hashing (Lamping and Veach) of the number picks another; when that is gone too, of the number plus one, ...
vdisk ids may hold colons: a key is never split, only its known beginning is taken off.

In a Redis Cluster, which the original did not know, `nondedup:<vdisk>` is 1,024 hashes with the names
`nondedup:{<n>:<vdisk>}`: field i is in that of n = i mod 1024; the same with `lba:`.
"""

import hashlib
from collections.abc import Container
from typing import Final

from g8node.errors import Unavailable

HASH_BYTES: Final = 32
SECTOR_HASHES: Final = 128
SECTOR_BYTES: Final = SECTOR_HASHES * HASH_BYTES
NO_HASH: Final = bytes(HASH_BYTES)
NO_SECTOR: Final = bytes(SECTOR_BYTES)
PARTS: Final = 1024
MARK: Final = b"g8node"
"""The field that every part in a Redis Cluster has."""
_MASK: Final = (1 << 64) - 1
_MULTIPLIER: Final = 2862933555777941757


def plain_key(vdisk: str) -> str:
    return f"nondedup:{vdisk}"


def sectors_key(vdisk: str) -> str:
    return f"lba:{vdisk}"


def part_key(key: str, index: int) -> bytes:
    """The hash of a Redis Cluster that has a field of the original's hash `key`.

    What stands between braces decides on the slot, and begins with the number: no id gets all its parts into
    one slot.
    """
    kind, _, vdisk = key.partition(":")
    return f"{kind}:{{{index % PARTS}:{vdisk}}}".encode()


def content_hash(block: bytes | bytearray | memoryview) -> bytes:
    return hashlib.blake2b(block, digest_size=HASH_BYTES).digest()


def jump(key: int, buckets: int) -> int:
    """The bucket of a key, as Lamping and Veach have it."""
    key &= _MASK
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        key = (key * _MULTIPLIER + 1) & _MASK
        following = int((bucket + 1) * (float(1 << 31) / float((key >> 33) + 1)))
    return bucket


def server_of(index: int, count: int, gone: Container[int] = ()) -> int:
    """Which of `count` servers has the block, sector or content of a number; those `gone` are never picked.

    Raises Unavailable when all are gone.
    """
    server = index % count
    if server not in gone:
        return server
    if all(one in gone for one in range(count)):
        raise Unavailable("all servers of the cluster are gone")
    while (server := jump(index, count)) in gone:
        index += 1
    return server
