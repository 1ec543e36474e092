"""The image plan: which chunk lies where in the virtual image file, and its file on disk (load, save block).

The virtual file that the kernel mounts as EROFS is `[metadata][data area]`. The metadata is a local file
(`meta.erofs`); the data area is a row of slots. Every distinct chunk of files cut at 512 KiB has one, which
begins on a 4 KiB boundary and is padded with zeros to the next one. A file cut by its content lies in one
piece: its chunks have slots of their own, one right after the other, the first on such a boundary.
`slots.bin` holds the slot table, all integers little-endian:

    header   8s magic "g8slots2", u32 slots, u32 names_bytes, u32 info_bytes, u64 metadata_size,
             32s BLAKE2b-256 of meta.erofs, 32s flist digest
    starts   slots x u64   offset of the slot in the data area, ascending, first 0
    sizes    slots x u32   plain size of the chunk in bytes
    names_at slots x u32   offset in `names` of the name of one file that uses the chunk
    codecs   slots x u8    wire.flist.Codec
    ids      slots x 32 bytes, in the form of wire/codecs.py
    keys     slots x 32 bytes, the same
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

from g8node.errors import Unavailable
from g8node.ids import ChunkId
from g8node.wire import codecs
from g8node.wire.flist import Codec
from g8node.wire.router import Router, parse_router

BLOCK: Final = 4096
METADATA_NAME: Final = "meta.erofs"
SLOTS_NAME: Final = "slots.bin"
_MAGIC: Final = b"g8slots2"
_HEADER: Final = struct.Struct("<8sIIIQ32s32s")
_DIGEST: Final = 32
ROUTER_KEY: Final = "router.yaml"
"""Key in `info` of the flist's router."""


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
    """What is needed to fetch, decode and name the chunk of a slot.

    `id` and `key` have 32 bytes whatever the codec: what caches and logs use. Stores are asked for
    `stored_as`.
    """

    id: ChunkId
    key: bytes
    plain_size: int
    file_name: bytes
    codec: Codec = Codec.G8

    @property
    def stored_as(self) -> ChunkId:
        """What a store knows the chunk by."""
        return codecs.stored_as(self.codec, self.id)

    def decode(self, stored: bytes) -> bytes:
        """Verify and decode what a store gave for this id (in the cpu pool). InvalidArgument if wrong."""
        return codecs.decode(self.codec, stored, self.id, self.key, self.plain_size)


@dataclass(frozen=True, slots=True)
class SlotTable:
    """Columns of the slot table, in slot order (see the module's header)."""

    starts: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    names_at: array[int] = field(default_factory=lambda: array("I"))
    codecs: bytes | bytearray = b""
    ids: bytes | bytearray = b""
    keys: bytes | bytearray = b""
    names: bytes | bytearray = b""

    def __len__(self) -> int:
        return len(self.starts)

    def end(self) -> int:
        """Size of the data area: the end of the last slot with its padding."""
        return _aligned(self.starts[-1] + self.sizes[-1]) if self.starts else 0


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """The layout of one flist's virtual image file. Immutable; safe to use from any thread."""

    metadata_path: str
    metadata_size: int
    slots: SlotTable
    info: Mapping[str, str]
    """Free metadata of the flist (`entrypoint`, `environ`, ...), values as stored, and its `router.yaml`."""

    @property
    def size(self) -> int:
        """Size of the whole virtual file in bytes, a multiple of 4096."""
        return self.metadata_size + self.slots.end()

    @property
    def router(self) -> Router | None:
        """Where the flist says that its chunks are. InvalidArgument: what it says makes no sense."""
        text = self.info.get(ROUTER_KEY)
        return None if text is None else parse_router(text)

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
        index = bisect_right(slots.starts, at - self.metadata_size) - 1
        while at < end:
            start = self.metadata_size + slots.starts[index]
            plain_end = start + slots.sizes[index]
            following = index + 1 < len(slots)
            slot_end = self.metadata_size + slots.starts[index + 1] if following else self.size
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
            Codec(slots.codecs[index]),
        )


def _aligned(offset: int) -> int:
    return -(-offset // BLOCK) * BLOCK


def _column(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def _parse_column(code: str, data: bytes) -> array[int]:
    values = array(code)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def save(plan: ImagePlan, directory: str, *, metadata_digest: bytes, flist_digest: bytes) -> None:
    """Write slots.bin into the directory. The metadata file is the caller's."""
    slots = plan.slots
    info = msgspec.json.encode(dict(plan.info))
    header = _HEADER.pack(
        _MAGIC, len(slots), len(slots.names), len(info), plan.metadata_size, metadata_digest, flist_digest
    )
    parts = [
        header,
        _column(slots.starts),
        _column(slots.sizes),
        _column(slots.names_at),
        slots.codecs,
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
    if len(data) != at + count * (16 + 1 + 64) + names_bytes + info_bytes + _DIGEST:
        raise Unavailable(f"{path} has a wrong size")
    metadata_path = os.path.join(directory, METADATA_NAME)
    _check_metadata(metadata_path, metadata_size, metadata_digest)
    starts, at = _parse_column("Q", data[at : at + 8 * count]), at + 8 * count
    sizes, names_at = (_parse_column("I", data[at + 4 * count * i :][: 4 * count]) for i in range(2))
    at += 8 * count
    kinds, at = data[at : at + count], at + count
    ids, at = data[at : at + 32 * count], at + 32 * count
    keys, at = data[at : at + 32 * count], at + 32 * count
    names, at = data[at : at + names_bytes], at + names_bytes
    info = msgspec.json.decode(data[at : at + info_bytes], type=dict[str, str])
    return ImagePlan(
        metadata_path, metadata_size, SlotTable(starts, sizes, names_at, kinds, ids, keys, names), info
    )


def _check_metadata(path: str, size: int, digest: bytes) -> None:
    with open(path, "rb") as source:
        actual = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=_DIGEST)).digest()
        if source.tell() != size or actual != digest:
            raise Unavailable(f"{path} is damaged: wrong checksum")
