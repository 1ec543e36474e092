"""Chunks and small trees for the tests of stores and g8ufs."""

import hashlib
import os
import random
from pathlib import Path

from g8node.flist.pack import pack
from g8node.flist.plan import ChunkRef
from g8node.ids import ChunkId
from g8node.store.local import LocalStore
from g8node.wire.chunk import encode

SIZES = (0, 1, 4095, 4096, 4097, 524287, 524288, 524289, 3 << 20)


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Half compressible, different for every seed."""
    half = random.Random(seed).randbytes(size - size // 2)
    return half + (b"%d " % seed * (size // 2))[: size // 2]


def scattered(dice: random.Random, whole: bytearray, count: int) -> list[tuple[int, memoryview]]:
    """Writes (offset, data) of up to 3000 bytes, done to `whole` already."""
    writes = []
    for _ in range(count):
        data = dice.randbytes(dice.randrange(1, 3000))
        at = dice.randrange(len(whole) - len(data))
        whole[at : at + len(data)] = data
        writes.append((at, memoryview(data)))
    return writes


def some_chunks(count: int, size: int = 1000) -> dict[ChunkId, bytes]:
    """Stored chunks by id."""
    encoded = (encode(some_bytes(size, seed)) for seed in range(count))
    return {one.id: one.stored for one in encoded}


def old_chunks(count: int, size: int = 1000, *, id_size: int = 16) -> dict[ChunkId, bytes]:
    """Stored chunks with ids as v2 flists (16 bytes) and v1 flists (64 hex digits) have them."""
    made = {}
    for seed in range(count):
        stored = some_bytes(size, seed)
        if id_size == 16:
            made[ChunkId(hashlib.blake2b(stored, digest_size=16).digest())] = stored
        else:
            made[ChunkId(hashlib.sha256(stored[16:]).hexdigest().encode())] = stored
    return made


def some_refs(count: int, size: int = 1000, first: int = 0) -> list[tuple[ChunkRef, bytes, bytes]]:
    """(what an image plan says of it, stored, plain)."""
    made = []
    for seed in range(first, first + count):
        plain = some_bytes(size, seed)
        one = encode(plain)
        made.append((ChunkRef(one.id, one.key, size, b"etc/file%d" % seed), one.stored, plain))
    return made


def make_tree(top: Path, *, small: int = 40) -> None:
    """Files of all interesting sizes, and a folder of small ones."""
    (top / "small").mkdir(parents=True)
    for size in SIZES:
        (top / f"size{size}").write_bytes(some_bytes(size, size))
    for number in range(small):
        (top / "small" / f"f{number:04d}").write_bytes(some_bytes(100 + number * 97 % 9000, 10_000 + number))
    (top / "link").symlink_to("size4097")


def digests(top: str | Path) -> dict[str, str]:
    """Content digest of every file and target of every link, by relative path."""
    found: dict[str, str] = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                value = "-> " + os.readlink(path)
            else:
                with open(path, "rb") as source:
                    value = hashlib.file_digest(source, "sha256").hexdigest()
            found[os.path.relpath(path, top)] = value
    return found


async def publish(tree: Path, folder: Path) -> Path:
    """Pack the tree: the flist's path; its chunks lie in folder/chunks."""
    flist = folder / "tree.flist"
    await pack(str(tree), str(flist), LocalStore(str(folder / "chunks")))
    return flist
