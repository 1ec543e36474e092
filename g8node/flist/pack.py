"""The packer (async): a directory, a tar archive or an OCI layout in, chunks in a store and an flist out.

A bounded pipeline: one thread reads batches of chunks, the cpu pool encodes them, and what the store lacks is
stored, several batches at once. Data in flight is bounded by `_BATCHES` times `_BATCH_BYTES`; the tree itself
(names, attributes, 64 bytes a chunk) is in memory.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from g8node.flist.container import read_flist, write_flist
from g8node.flist.image import build
from g8node.flist.merkle import sealed
from g8node.flist.source import How, Part, Source
from g8node.flist.source_dir import DirectorySource
from g8node.flist.source_oci import OciSource, is_layout
from g8node.flist.source_tar import TarSource
from g8node.flist.tree import Flist, Node, walk
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.store.base import Store
from g8node.wire.chunk import CHUNK_SIZE, Encoded, encode
from g8node.wire.flist import Codec
from g8node.wire.ignore import Ignore
from g8node.wire.router import Router

_BATCHES: Final = 4
_BATCH_BYTES: Final = 4 << 20
_BATCH_PARTS: Final = 512
_ZEROS: Final = bytes(CHUNK_SIZE)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pack has come; bytes are plain ones."""

    read_bytes: int = 0
    total_bytes: int | None = None
    chunks: int = 0
    new_chunks: int = 0
    new_bytes: int = 0
    """Stored size of the new chunks."""


@dataclass(frozen=True, slots=True)
class PackOptions:
    """How to pack."""

    secret: bytes = b""
    """Publisher's secret: chunks are then shared only among what was packed with it."""
    level: int = 3
    """zstd level; 0 stores raw."""
    info: Mapping[str, str] = field(default_factory=dict)
    """Free metadata: entrypoint, environ, readme, ... What the source itself says gives way to it."""
    by_content: bool = False
    """Cut files by their content instead of every 512 KiB."""
    ignore: Ignore = field(default_factory=lambda: Ignore(()))
    router: Router | None = None
    """Where readers find the chunks, to be written into the flist as it is."""
    progress: Callable[[Progress], None] | None = None
    """Called on the loop after every batch."""
    pool: blocking.Pool = "disk"
    """That reads the source: `path` for one that this process may serve itself."""


@dataclass(frozen=True, slots=True)
class PackResult:
    """What was packed."""

    path: str
    digest: str
    """Hex BLAKE2b-256 of the flist file."""
    entries: int
    """Names, the root included."""
    progress: Progress


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree whose chunks are stored; what `pack` makes before it writes."""

    root: Node
    info: Mapping[str, str]
    progress: Progress


async def pack(source: str, output: str, store: Store, options: PackOptions | None = None) -> PackResult:
    """Pack a directory, tar archive or OCI layout at `source` into the flist file `output`.

    The flist is written only when every chunk is stored. InvalidArgument for what cannot be packed, Conflict
    for a file that changed meanwhile, Unavailable from the store, OSError from the file system.
    """
    options = options or PackOptions()
    tree = await pack_tree(source, store, options)
    entries = await blocking.run("cpu", lambda: sum(1 for _ in walk(tree.root)))
    flist = Flist(tree.root, {**tree.info, **options.info}, options.router)
    digest = await blocking.run("cpu", _write, flist, output)
    return PackResult(output, digest, entries, tree.progress)


async def pack_tree(
    source: str, store: Store, options: PackOptions | None = None, *, single: bool = False
) -> Tree:
    """As `pack`, without the flist file. `single`: a tree of this one file, whatever it is."""
    options = options or PackOptions()
    how = How(Codec.G8_KEYED if options.secret else Codec.G8, options.by_content, options.ignore)
    opened = await blocking.run(options.pool, _open, source, how, single)
    packer = _Packer(store, options, opened.total_bytes)
    await packer.run(opened.parts())
    return Tree(opened.root, opened.info, packer.progress)


def _open(path: str, how: How, single: bool) -> Source:
    if single:
        return DirectorySource(path, how, single=True)
    if is_layout(path):
        return OciSource(path, how)
    return DirectorySource(path, how) if os.path.isdir(path) else TarSource(path, how)


def _write(flist: Flist, output: str) -> str:
    """Write the flist and read it as a node will, before it gets its name: what is packed can be mounted."""
    unchecked = f"{output}.{os.getpid()}.unchecked"
    try:
        write_flist(sealed(flist), unchecked)
        build(read_flist(unchecked))
        with open(unchecked, "rb") as source:
            digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
        os.replace(unchecked, output)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unchecked)
    return digest


class _Packer:
    def __init__(self, store: Store, options: PackOptions, total_bytes: int | None) -> None:
        self._store = store
        self._options = options
        self._slots = asyncio.Semaphore(_BATCHES)
        self._known: set[ChunkId] = set()
        self.progress = Progress(total_bytes=total_bytes)

    async def run(self, parts: Iterator[Part]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                while batch := await blocking.run(self._options.pool, _next_batch, parts):
                    await self._slots.acquire()
                    tasks.create_task(self._finish(batch))
        except ExceptionGroup as errors:
            raise _first(errors) from None

    async def _finish(self, batch: list[Part]) -> None:
        try:
            encoded = await blocking.run("cpu", self._encode, batch)
            fresh = {chunk.id: chunk.stored for chunk in encoded if chunk and chunk.id not in self._known}
            # Claimed before the store is asked: batches that come meanwhile neither store nor count them.
            self._known.update(fresh)
            missing = await self._store.missing(list(fresh)) if fresh else set()
            if missing:
                await self._store.put_many({chunk: fresh[chunk] for chunk in missing})
        finally:
            self._slots.release()
        now = self.progress
        self.progress = replace(
            now,
            read_bytes=now.read_bytes + sum(len(part.data) for part in batch),
            chunks=now.chunks + len(batch),
            new_chunks=now.new_chunks + len(missing),
            new_bytes=now.new_bytes + sum(len(fresh[chunk]) for chunk in missing),
        )
        if self._options.progress:
            self._options.progress(self.progress)

    def _encode(self, batch: list[Part]) -> list[Encoded | None]:
        """Encode and enter into the nodes' chunk lists; a chunk of zeros stays a hole."""
        return [self._encode_part(part) for part in batch]

    def _encode_part(self, part: Part) -> Encoded | None:
        blocks, at = part.node.blocks, 32 * part.chunk
        if blocks.block_size and part.data == _ZEROS[: len(part.data)]:
            return None
        chunk = encode(part.data, self._options.secret, self._options.level)
        assert isinstance(blocks.ids, bytearray)
        assert isinstance(blocks.keys, bytearray)
        blocks.ids[at : at + 32] = chunk.id
        blocks.keys[at : at + 32] = chunk.key
        return chunk


def _next_batch(parts: Iterator[Part]) -> list[Part]:
    batch: list[Part] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += len(part.data)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_PARTS:
            break
    return batch


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The failure that began it: a group of one is noise to a caller."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
