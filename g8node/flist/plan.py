"""The image plan: which chunk lies where in the virtual image file, and its file on disk (load, save block).

The virtual file that the kernel mounts as EROFS is `[metadata][data area]`. The metadata is a local file
(`meta.erofs`); the data area is a row of slots, one per distinct chunk, each beginning on a 4 KiB boundary
and padded with zeros to the next one. `slots.bin` holds the slot table, all integers little-endian:

    header   8s magic "g8slots1", u32 slots, u32 names_bytes, u32 info_bytes, u64 metadata_size,
             32s BLAKE2b-256 of meta.erofs, 32s flist digest
    blocks   slots x u32   first 4 KiB block of the slot in the data area, ascending, first 0
    sizes    slots x u32   plain size of the chunk in bytes
    names_at slots x u32   offset in `names` of the name of one file that uses the chunk
    keyed    slots x u8    1: the key is a keyed hash (publisher's secret), so it cannot be checked here
    ids      slots x 32 bytes
    keys     slots x 32 bytes
    names    NUL-terminated paths, raw bytes, relative to the root
    info     JSON object of strings: the flist's free metadata (entrypoint, environ, ...)
    checksum BLAKE2b-256 of everything before it

`save` and `load` block: call them off the loop.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from g8node.errors import InvalidArgument, Unavailable
from g8node.ids import ChunkId
from g8node.wire.chunk import decode

BLOCK: Final = 4096
METADATA_NAME: Final = "meta.erofs"
SLOTS_NAME: Final = "slots.bin"
_MAGIC: Final = b"g8slots1"
_HEADER: Final = struct.Struct("<8sIIIQ32s32s")
_DIGEST: Final = 32


class Kind(IntEnum):
    """Where the bytes of a piece come from."""

    METADATA = 0
    CHUNK = 1
    ZERO = 2


class Piece(NamedTuple):
    """A run of bytes of the virtual file. `chunk` and `offset` (in the plain chunk, or in the metadata
    file) mean nothing for ZERO; `chunk` is -1 unless the kind is CHUNK."""

    kind: Kind
    chunk: int
    offset: int
    length: int


class ChunkRef(NamedTuple):
    """What is needed to fetch, decode and name the chunk of a slot."""

    id: ChunkId
    key: bytes
    plain_size: int
    file_name: bytes
    keyed: bool = False

    def decode(self, stored: bytes) -> bytes:
        """Verify and decode what a store gave for this id (in the cpu pool). InvalidArgument if wrong."""
        plain = decode(stored, self.id, self.key, self.plain_size, None if self.keyed else b"")
        if len(plain) != self.plain_size:
            raise InvalidArgument(
                f"chunk {self.id.hex()}: {len(plain)} plain bytes, the flist says {self.plain_size}"
            )
        return plain


@dataclass(frozen=True, slots=True)
class SlotTable:
    """Columns of the slot table, in slot order (see the module's header)."""

    blocks: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    names_at: array[int] = field(default_factory=lambda: array("I"))
    keyed: bytes | bytearray = b""
    ids: bytes | bytearray = b""
    keys: bytes | bytearray = b""
    names: bytes | bytearray = b""

    def __len__(self) -> int:
        return len(self.blocks)

    def end_block(self) -> int:
        """First block after the last slot."""
        return self.blocks[-1] + -(-self.sizes[-1] // BLOCK) if self.blocks else 0


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """The layout of one flist's virtual image file. Immutable; safe to use from any thread."""

    metadata_path: str
    metadata_size: int
    slots: SlotTable
    info: Mapping[str, str]
    """Free metadata of the flist (`entrypoint`, `environ`, ...), values as stored."""

    @property
    def size(self) -> int:
        """Size of the whole virtual file in bytes, a multiple of 4096."""
        return self.metadata_size + self.slots.end_block() * BLOCK

    @property
    def chunk_count(self) -> int:
        """Number of distinct chunks."""
        return len(self.slots)

    def plan(self, offset: int, length: int) -> Sequence[Piece]:
        """The pieces that make up [offset, offset+length), in order, clipped to the file's size."""
        end = min(offset + length, self.size)
        pieces: list[Piece] = []
        at = offset
        if at < min(self.metadata_size, end):
            stop = min(self.metadata_size, end)
            pieces.append(Piece(Kind.METADATA, -1, at, stop - at))
            at = stop
        if at >= end:
            return pieces
        slots = self.slots
        index = bisect_right(slots.blocks, (at - self.metadata_size) // BLOCK) - 1
        while at < end:
            start = self.metadata_size + slots.blocks[index] * BLOCK
            plain_end = start + slots.sizes[index]
            slot_end = -(-plain_end // BLOCK) * BLOCK
            if at < plain_end:
                stop = min(plain_end, end)
                pieces.append(Piece(Kind.CHUNK, index, at - start, stop - at))
                at = stop
            if at < min(slot_end, end):
                stop = min(slot_end, end)
                pieces.append(Piece(Kind.ZERO, -1, 0, stop - at))
                at = stop
            index += 1
        return pieces

    def chunk(self, index: int) -> ChunkRef:
        """Identity of the chunk in slot `index` (0-based, in image order)."""
        slots = self.slots
        at = index * 32
        start = slots.names_at[index]
        return ChunkRef(
            ChunkId(bytes(slots.ids[at : at + 32])),
            bytes(slots.keys[at : at + 32]),
            slots.sizes[index],
            bytes(slots.names[start : slots.names.index(b"\0", start)]),
            bool(slots.keyed[index]),
        )


def _column(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array("I", values)
        values.byteswap()
    return values.tobytes()


def _parse_column(data: bytes) -> array[int]:
    values = array("I")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def save(plan: ImagePlan, directory: str, *, metadata_digest: bytes, flist_digest: bytes) -> None:
    """Write slots.bin into the directory and flush it to disk. The metadata file is the caller's."""
    slots = plan.slots
    info = msgspec.json.encode(dict(plan.info))
    header = _HEADER.pack(
        _MAGIC, len(slots), len(slots.names), len(info), plan.metadata_size, metadata_digest, flist_digest
    )
    parts = [
        header,
        _column(slots.blocks),
        _column(slots.sizes),
        _column(slots.names_at),
        slots.keyed,
        slots.ids,
        slots.keys,
        slots.names,
        info,
    ]
    checksum = hashlib.blake2b(digest_size=_DIGEST)
    with open(os.path.join(directory, SLOTS_NAME), "wb") as out:
        for part in parts:
            checksum.update(part)
            out.write(part)
        out.write(checksum.digest())
        out.flush()
        os.fsync(out.fileno())


def load(directory: str, *, flist_digest: bytes) -> ImagePlan:
    """Read and check what `save` wrote. FileNotFoundError: not there. Unavailable: damaged, build it anew."""
    path = os.path.join(directory, SLOTS_NAME)
    with open(path, "rb") as source:
        data = source.read()
    if len(data) < _HEADER.size + _DIGEST:
        raise Unavailable(f"{path} is too short")
    if hashlib.blake2b(memoryview(data)[:-_DIGEST], digest_size=_DIGEST).digest() != data[-_DIGEST:]:
        raise Unavailable(f"{path} is damaged: wrong checksum")
    magic, count, names_bytes, info_bytes, metadata_size, metadata_digest, of = _HEADER.unpack_from(data)
    if magic != _MAGIC or of != flist_digest:
        raise Unavailable(f"{path} is of another format or another flist")
    at = _HEADER.size
    if len(data) != at + count * (12 + 1 + 64) + names_bytes + info_bytes + _DIGEST:
        raise Unavailable(f"{path} has a wrong size")
    metadata_path = os.path.join(directory, METADATA_NAME)
    _check_metadata(metadata_path, metadata_size, metadata_digest)
    blocks, sizes, names_at = (_parse_column(data[at + 4 * count * i :][: 4 * count]) for i in range(3))
    at += 12 * count
    keyed, at = data[at : at + count], at + count
    ids, at = data[at : at + 32 * count], at + 32 * count
    keys, at = data[at : at + 32 * count], at + 32 * count
    names, at = data[at : at + names_bytes], at + names_bytes
    info = msgspec.json.decode(data[at : at + info_bytes], type=dict[str, str])
    return ImagePlan(
        metadata_path, metadata_size, SlotTable(blocks, sizes, names_at, keyed, ids, keys, names), info
    )


def _check_metadata(path: str, size: int, digest: bytes) -> None:
    with open(path, "rb") as source:
        actual = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=_DIGEST)).digest()
        if source.tell() != size or actual != digest:
            raise Unavailable(f"{path} is damaged: wrong checksum")
