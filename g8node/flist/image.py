"""From an flist file to a mountable image: EROFS metadata and the chunk plan, cached by digest (blocking).

The kernel parses only what this module wrote from validated records, never an image that came with an flist.
Cache layout: `<cache_dir>/<hex BLAKE2b-256 of the flist file>/{meta.erofs,slots.bin}`, each directory made
under a temporary name and renamed into place; format of slots.bin in `plan.py`. Must not run on the loop.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from g8node.errors import InvalidArgument, NodeError, Unavailable
from g8node.flist import plan as plans
from g8node.flist.compiled import compiled_image
from g8node.flist.container import open_flist
from g8node.flist.merkle import MERKLE_KEY, check_tree
from g8node.flist.merkle import check as check_root
from g8node.flist.plan import ChunkRef, ImagePlan, Kind, Piece, SlotTable
from g8node.flist.rocks import Database
from g8node.flist.tree import DEFAULT_LIMITS, Flist, Limits, Node, walk
from g8node.linux.guard import off_loop
from g8node.wire import erofs
from g8node.wire.flist import ABSENT_ID, Blocks, Codec
from g8node.wire.router import Router, format_router

__all__ = ["ChunkRef", "ImagePlan", "ImageRef", "Kind", "Piece", "build", "prepare"]

_HOLE_ID: Final = bytes(32)
NAMES_MAX: Final = 256 << 20
"""Bytes of the paths in a slot table: deep folders of many files would make much of a small flist."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A prepared image. Its files stay in the cache directory until someone removes the digest's folder."""

    digest: str
    """Hex BLAKE2b-256 of the flist file."""
    directory: str
    plan: ImagePlan


@off_loop
def prepare(flist_path: str, cache_dir: str, limits: Limits = DEFAULT_LIMITS) -> ImageRef:
    """Unpack, validate and build unless the cache has it.

    InvalidArgument names what is wrong with the flist; OSError for the file system; a damaged cache entry is
    rebuilt. Two callers at once do the work twice and share one result.
    """
    with open(flist_path, "rb") as source:
        digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=32)).digest()
    directory = os.path.join(cache_dir, digest.hex())
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, Unavailable):
        return ImageRef(digest.hex(), directory, plans.load(directory, flist_digest=digest))
    os.makedirs(cache_dir, exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f".{digest.hex()[:16]}-", dir=cache_dir)
    try:
        plan, metadata = _built(flist_path, limits, digest[:16])
        _write(plan, metadata, partial, digest)
        return ImageRef(digest.hex(), directory, _publish(plan, partial, directory, digest))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _built(path: str, limits: Limits, uuid: bytes) -> tuple[ImagePlan, bytearray]:
    """In C where that can, which is a tenth of the time."""
    found = open_flist(path, limits)
    try:
        if isinstance(found, Flist):
            return build(found, uuid=uuid)
        return build_compiled(found, limits, uuid) or build(found.read(limits), uuid=uuid)
    except NodeError as error:
        raise InvalidArgument(f"flist {path}: {error.message}", hint=error.hint) from None


def _write(plan: ImagePlan, metadata: bytearray, directory: str, digest: bytes) -> None:
    """Not synced: what a power cut tears has a wrong checksum, and is built again."""
    with open(os.path.join(directory, plans.METADATA_NAME), "wb") as out:
        out.write(metadata)
    metadata_digest = hashlib.blake2b(metadata, digest_size=32).digest()
    plans.save(plan, directory, metadata_digest=metadata_digest, flist_digest=digest)


def _publish(plan: ImagePlan, partial: str, directory: str, digest: bytes) -> ImagePlan:
    """Rename into place; another caller's good copy wins over ours, a damaged one gives way."""
    os.chmod(partial, 0o755)
    for _ in range(16):
        # Fails when somebody was faster; his is as good as ours unless it turns out to be damaged.
        with contextlib.suppress(OSError):
            os.rename(partial, directory)
            return replace(plan, metadata_path=os.path.join(directory, plans.METADATA_NAME))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, Unavailable):
            return plans.load(directory, flist_digest=digest)
        # Moved aside first and removed second: whoever has its files open can go on reading them.
        old = tempfile.mkdtemp(prefix=".old-", dir=os.path.dirname(directory))
        with contextlib.suppress(FileNotFoundError):
            os.rename(directory, os.path.join(old, "image"))
        shutil.rmtree(old, ignore_errors=True)
    raise Unavailable(f"cannot replace {directory}", hint="something else writes there")


def build(flist: Flist, *, uuid: bytes = bytes(16)) -> tuple[ImagePlan, bytearray]:
    """The plan (its metadata_path still empty) and the EROFS metadata of a validated tree."""
    slots = _Slots()
    inodes: dict[int, erofs.Inode] = {}
    for path, node in walk(flist.root):
        if id(node) not in inodes:
            inodes[id(node)] = _inode(path, node, slots)
    for _, node in walk(flist.root):
        if node.children is not None:
            inodes[id(node)].children = {name: inodes[id(child)] for name, child in node.children.items()}
    metadata = erofs.build(inodes[id(flist.root)], data_blocks=slots.next_block, uuid=uuid)
    info = _info(flist.info, flist.router, check_root(flist))
    return ImagePlan("", len(metadata), slots.table, info), metadata


def build_compiled(
    database: Database, limits: Limits = DEFAULT_LIMITS, uuid: bytes = bytes(16)
) -> tuple[ImagePlan, bytearray] | None:
    """The same from the records, without a tree of Python objects and without the GIL.

    None for what our packer does not write, for what is wrong, and where no compiler was. InvalidArgument:
    another Merkle root than the flist says, or too big an image.
    """
    made = compiled_image(database.records, database.prefix, limits, NAMES_MAX)
    if made is None:
        return None
    root = check_tree(made.tree, database.info, database.router)
    blocks = made.data_blocks
    erofs.write_superblock(
        made.metadata, root_nid=made.root_nid, inodes=made.inodes, data_blocks=blocks, uuid=uuid
    )
    info = _info(database.info, database.router, root)
    return ImagePlan("", len(made.metadata), made.slots, info), made.metadata


def _info(said: Mapping[str, str], router: Router | None, root: bytes) -> dict[str, str]:
    info = dict(said) | {MERKLE_KEY: root.hex()}
    info.pop(plans.ROUTER_KEY, None)
    if router is not None:
        info[plans.ROUTER_KEY] = format_router(router)
    return info


def _inode(path: bytes, node: Node, slots: _Slots) -> erofs.Inode:
    inode = erofs.Inode(
        node.mode,
        node.uid,
        node.gid,
        node.mtime_s,
        node.mtime_ns,
        node.xattrs,
        node.size if node.is_file else 0,
        target=node.target,
        rdev=node.rdev,
    )
    if node.blocks.sizes and node.blocks.block_size:
        inode.blocks = slots.place(path, node.blocks)
    elif node.blocks.sizes:
        inode.extent = slots.place_whole(path, node.blocks)
    try:
        erofs.check(inode)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path!r}: {error}") from None
    return inode


class _Slots:
    """Hands out slots of the data area: one per distinct chunk, in the order of first use."""

    def __init__(self) -> None:
        self.end = 0
        self.table = SlotTable(codecs=bytearray(), ids=bytearray(), keys=bytearray(), names=bytearray())
        self._known: dict[bytes, int] = {}

    @property
    def next_block(self) -> int:
        """First block behind all slots."""
        return -(-self.end // erofs.BLOCK)

    def place(self, path: bytes, blocks: Blocks) -> array[int]:
        """First block of every chunk of a file, HOLE for holes."""
        placed = array("I")
        name_at = -1
        for chunk in _chunks(path, blocks):
            if chunk.id == _HOLE_ID:
                placed.append(erofs.HOLE)
                continue
            slot = self._known.get(chunk.id)
            if slot is None:
                if name_at < 0:
                    name_at = self._name(path)
                slot = self._known[chunk.id] = self._add(chunk, name_at, aligned=True)
            elif not self._matches(slot, chunk):
                raise InvalidArgument(f"{path!r}: chunk {chunk.id.hex()} has another key or size elsewhere")
            placed.append(self.table.starts[slot] // erofs.BLOCK)
        return placed

    def place_whole(self, path: bytes, blocks: Blocks) -> int:
        """First block of a file whose chunks lie one right after the other."""
        name_at = self._name(path)
        first = self.next_block
        for index, chunk in enumerate(_chunks(path, blocks)):
            self._add(chunk, name_at, aligned=index == 0)
        return first

    def _name(self, path: bytes) -> int:
        names = self.table.names
        assert isinstance(names, bytearray)
        at = len(names)
        if at + len(path) >= NAMES_MAX:
            raise InvalidArgument(f"the paths of the files take over {NAMES_MAX} bytes")
        names.extend(path + b"\0")
        return at

    def _matches(self, slot: int, chunk: _Chunk) -> bool:
        table = self.table
        same = table.keys[32 * slot : 32 * slot + 32] == chunk.key and table.sizes[slot] == chunk.size
        return same and table.codecs[slot] == chunk.codec

    def _add(self, chunk: _Chunk, name_at: int, *, aligned: bool) -> int:
        table = self.table
        slot = len(table)
        if self.next_block >= erofs.HOLE or name_at >> 32:
            raise InvalidArgument("flist does not fit an image of 16 TiB")
        start = self.next_block * erofs.BLOCK if aligned else self.end
        table.starts.append(start)
        table.sizes.append(chunk.size)
        table.names_at.append(name_at)
        assert isinstance(table.ids, bytearray)
        assert isinstance(table.keys, bytearray)
        assert isinstance(table.codecs, bytearray)
        table.ids.extend(chunk.id)
        table.keys.extend(chunk.key)
        table.codecs.append(chunk.codec)
        self.end = start + chunk.size
        return slot


class _Chunk(NamedTuple):
    """One chunk of a file as the slot table knows it."""

    id: bytes
    key: bytes
    size: int
    codec: Codec


def _chunks(path: bytes, blocks: Blocks) -> Iterator[_Chunk]:
    ids, keys = bytes(blocks.ids), bytes(blocks.keys)
    for index, size in enumerate(blocks.sizes):
        id = ids[32 * index : 32 * index + 32]
        if id == ABSENT_ID:
            # A name that no store knows: reading it fails, and says in which file.
            id = hashlib.blake2b(path + b"\0absent %d" % size, digest_size=32).digest()
            yield _Chunk(id, bytes(32), size, Codec.ABSENT)
        else:
            yield _Chunk(id, keys[32 * index : 32 * index + 32], size, blocks.codec)
