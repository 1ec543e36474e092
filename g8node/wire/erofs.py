"""EROFS image writer (pure): an inode tree in, the metadata area of an uncompressed image out.

Theory of operation. The image is `[metadata][data area]`; only the metadata is made here, the data area is a
row of 4 KiB blocks that the caller lays out and files point into. Metadata is, in this order:

    0       1024 zero bytes, superblock (128 bytes, checksummed)
    1152    inodes, each on a 32-byte slot (its nid = offset / 32), followed by its xattrs and then by
            either its block map (regular files, u32 per 512 KiB, all ones = hole) or, when it fits into the
            same 4 KiB block, its inline data (directories and symlink targets)
    ...     4 KiB blocks of directories and symlinks that do not fit inline

All inodes are extended ones (64 bytes): 32-bit owners, nanosecond times. Pass one walks the tree and gives
every inode its place, pass two writes. Directory blocks hold entries sorted by name bytes, `.` and `..`
included, because the kernel searches them by bisection. Facts: Linux fs/erofs/erofs_fs.h and
Documentation/filesystems/erofs.rst; only features that Linux 5.15 knows are used.
"""

import itertools
import stat
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from g8node.errors import InvalidArgument
from g8node.wire.erofs_xattr import encode_xattrs, xattrs_size
from g8node.wire.kernels import crc32c

BLOCK: Final = 4096
CHUNK: Final = 512 * 1024
HOLE: Final = 0xFFFFFFFF
"""Block map entry of a chunk that reads as zeros."""
METADATA_MAX: Final = 1 << 30
NAME_MAX: Final = 255

_SUPER_AT: Final = 1024
_SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_MAGIC: Final = 0xE0F5E1E2
_COMPAT: Final = 0x1 | 0x2  # superblock checksum; times are mtimes
_INCOMPAT: Final = 0x4  # chunk-based files
_INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT: Final = struct.Struct("<QHBB")
_SLOT: Final = 32
_EXTENDED: Final = 1
_FLAT_PLAIN, _FLAT_INLINE, _CHUNK_BASED = 0 << 1, 2 << 1, 4 << 1
_CHUNK_FORMAT: Final = 7  # log2(CHUNK / BLOCK); without the bit for 8-byte indexes: 4-byte block map
_FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


@dataclass(slots=True, eq=False)
class Inode:
    """One inode. The same object under several names is a hard link; nlink is counted by `build`."""

    mode: int
    """Full st_mode."""
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    mtime_ns: int = 0
    """0..999,999,999, added to mtime_s."""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    size: int = 0
    """Regular files only."""
    blocks: Sequence[int] = ()
    """Regular files: for each 512 KiB chunk the first block in the data area, or HOLE."""
    extent: int = -1
    """Regular files that lie in one piece: its first block in the data area, instead of `blocks`."""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    children: "dict[bytes, Inode] | None" = None
    """Directories: names without `.` and `..`."""
    position: int = field(default=-1, repr=False)
    nlink: int = field(default=0, repr=False)
    layout: int = field(default=0, repr=False)
    tail: int = field(default=-1, repr=False)
    """Where the inline data or the first block lies; chosen by `build`."""


@dataclass(slots=True)
class _Directory:
    inode: Inode
    parent: Inode
    names: list[bytes]
    cuts: list[int]
    """Index of the first name of each block, then len(names)."""
    size: int


class _Layout:
    """Pass one: a place for everything. Nothing is written before the sizes are known."""

    def __init__(self) -> None:
        self.order: list[Inode] = []
        self.directories: list[_Directory] = []
        self.position = _SUPER_AT + _SUPER.size
        self.plain: list[tuple[Inode, int]] = []

    def add_tree(self, root: Inode) -> None:
        """Directories depth first; the other children right after their directory, in name order."""
        stack = [(root, root)]
        while stack:
            inode, parent = stack.pop()
            self._add_directory(inode, parent)
            below = []
            assert inode.children is not None
            for _, child in sorted(inode.children.items()):
                if child.children is not None:
                    below.append((child, inode))
                elif child.position < 0:
                    self._add_leaf(child)
                child.nlink += 1
            inode.nlink += 1 + len(below)
            stack.extend(reversed(below))
        root.nlink += 1

    def finish(self) -> int:
        """Place what did not fit inline; the size of the metadata in bytes, whole blocks."""
        block = -(-self.position // BLOCK)
        for inode, size in self.plain:
            inode.tail = block * BLOCK
            block += -(-size // BLOCK)
        if block * BLOCK > METADATA_MAX:
            raise InvalidArgument(f"image metadata has {block * BLOCK} bytes, limit {METADATA_MAX}")
        return block * BLOCK

    def _add_directory(self, inode: Inode, parent: Inode) -> None:
        if inode.position >= 0:
            raise InvalidArgument("a directory has two names, expected one")
        names = sorted((b".", b"..", *(inode.children or ())))
        cuts, used = [0], 0
        for index, name in enumerate(names):
            used += _DIRENT.size + len(name)
            if used > BLOCK:
                cuts.append(index)
                used = _DIRENT.size + len(name)
        size = (len(cuts) - 1) * BLOCK + used
        cuts.append(len(names))
        self.directories.append(_Directory(inode, parent, names, cuts, size))
        inode.size = size
        self._place(inode, size)

    def _add_leaf(self, inode: Inode) -> None:
        if stat.S_ISREG(inode.mode):
            self._place_chunked(inode)
            return
        inode.size = len(inode.target)
        self._place(inode, inode.size)

    def _start(self) -> int:
        # The kernel copies an inode that straddles two blocks; not making one is cheaper.
        at = self.position
        return at if at % BLOCK + _INODE.size <= BLOCK else -(-at // BLOCK) * BLOCK

    def _place(self, inode: Inode, size: int) -> None:
        head = _INODE.size + xattrs_size(inode.xattrs)
        at = self._start()
        inode.layout = _FLAT_PLAIN
        if size and head % BLOCK + size <= BLOCK:
            # Inline data must not straddle a block boundary: begin the inode on the next one if it would.
            if (at + head) // BLOCK != (at + head + size - 1) // BLOCK:
                at = -(-at // BLOCK) * BLOCK
            inode.layout = _FLAT_INLINE
            inode.tail = at + head
            head += size
        elif size:
            self.plain.append((inode, size))
        self._take(inode, at, head)

    def _place_chunked(self, inode: Inode) -> None:
        head = _INODE.size + xattrs_size(inode.xattrs)
        at = self._start()
        inode.layout = _CHUNK_BASED if inode.blocks else _FLAT_PLAIN
        inode.tail = at + head
        self._take(inode, at, head + 4 * len(inode.blocks))

    def _take(self, inode: Inode, at: int, size: int) -> None:
        inode.position = at
        self.position = -(-(at + size) // _SLOT) * _SLOT
        self.order.append(inode)


class _Writer:
    """Pass two: every byte at the place that pass one chose."""

    def __init__(self, size: int) -> None:
        self.image = bytearray(size)
        self.data_block = size // BLOCK

    def inode(self, inode: Inode, number: int) -> None:
        icount, xattrs = encode_xattrs(inode.xattrs)
        _INODE.pack_into(
            self.image,
            inode.position,
            inode.layout | _EXTENDED,
            icount,
            inode.mode,
            0,
            inode.size,
            self._union(inode),
            number,
            inode.uid,
            inode.gid,
            inode.mtime_s,
            inode.mtime_ns,
            inode.nlink,
        )
        at = inode.position + _INODE.size
        self.image[at : at + len(xattrs)] = xattrs
        if inode.target:
            self.image[inode.tail : inode.tail + inode.size] = inode.target
        elif inode.blocks:
            self._block_map(inode)

    def _union(self, inode: Inode) -> int:
        """The field i_u of an inode, whose meaning depends on its type and layout."""
        if inode.layout == _CHUNK_BASED:
            return _CHUNK_FORMAT
        if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            return encode_device(*inode.rdev)
        if inode.extent >= 0:
            return self.data_block + inode.extent
        if inode.layout == _FLAT_PLAIN and inode.size:
            return inode.tail // BLOCK
        return 0

    def _block_map(self, inode: Inode) -> None:
        first = self.data_block
        blocks = array("I", [HOLE if block == HOLE else block + first for block in inode.blocks])
        if sys.byteorder == "big":
            blocks.byteswap()
        data = blocks.tobytes()
        self.image[inode.tail : inode.tail + len(data)] = data

    def directory(self, directory: _Directory) -> None:
        children = directory.inode.children or {}
        known = {b".": directory.inode, b"..": directory.parent}
        at = directory.inode.tail
        pack = _DIRENT.pack
        cuts = directory.cuts
        for first, last in itertools.pairwise(cuts):
            names = directory.names[first:last]
            name_at = _DIRENT.size * len(names)
            parts = []
            for name in names:
                child = children.get(name) or known[name]
                parts.append(pack(child.position // _SLOT, name_at, _FILE_TYPES[child.mode & 0o170000], 0))
                name_at += len(name)
            self.image[at : at + name_at] = b"".join(parts + names)
            at += BLOCK


def write_superblock(
    image: bytearray, *, root_nid: int, inodes: int, data_blocks: int, uuid: bytes = bytes(16)
) -> None:
    """Into metadata that is complete but for it. InvalidArgument: the image is too big."""
    blocks = len(image) // BLOCK + data_blocks
    if blocks >= HOLE:
        raise InvalidArgument(f"image has {blocks} blocks, limit {HOLE - 1}")
    fields = [_COMPAT, BLOCK.bit_length() - 1, 0, root_nid, inodes, 0, 0, blocks, 0, 0]
    tail = [_INCOMPAT, 0, 0, 0, 0, 0, 0, 0, 0]
    _SUPER.pack_into(image, _SUPER_AT, _MAGIC, 0, *fields, uuid, b"", *tail)
    # Covers the rest of the first block.
    checksum = crc32c(memoryview(image)[_SUPER_AT:BLOCK])
    struct.pack_into("<I", image, _SUPER_AT + 4, checksum)


def build(root: Inode, *, data_blocks: int, uuid: bytes = bytes(16)) -> bytearray:
    """The metadata area of an image: whole 4 KiB blocks, the data area begins right behind it.

    Every inode must have passed `check`. Fills in the inodes' placement fields, so a tree can be built once
    only. InvalidArgument: the whole is too big, or a directory has two names.
    """
    if root.children is None:
        raise InvalidArgument("the root is no directory")
    layout = _Layout()
    layout.add_tree(root)
    writer = _Writer(layout.finish())
    for number, inode in enumerate(layout.order, 1):
        writer.inode(inode, number)
    for directory in layout.directories:
        writer.directory(directory)
    nid = root.position // _SLOT
    write_superblock(writer.image, root_nid=nid, inodes=len(layout.order), data_blocks=data_blocks, uuid=uuid)
    return writer.image


def check(inode: Inode) -> None:
    """Refuse an inode that EROFS cannot hold, for a caller that can name it. Names are not looked at."""
    kind = stat.S_IFMT(inode.mode)
    if kind not in _FILE_TYPES:
        raise InvalidArgument(f"mode {inode.mode:#o} has no file type that EROFS knows")
    if kind == stat.S_IFREG and inode.extent < 0 and len(inode.blocks) != -(-inode.size // CHUNK):
        raise InvalidArgument(f"file of {inode.size} bytes has {len(inode.blocks)} chunks")
    if kind == stat.S_IFLNK and (not 0 < len(inode.target) < BLOCK or b"\0" in inode.target):
        raise InvalidArgument(f"symlink target of {len(inode.target)} bytes, expected 1 to 4095 without NUL")
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        encode_device(*inode.rdev)
    if inode.xattrs:
        encode_xattrs(inode.xattrs)


def encode_device(major: int, minor: int) -> int:
    """Linux's 32-bit device number: 12 bits of major, 20 of minor (new_encode_dev)."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise InvalidArgument(f"device number {major}:{minor} does not fit Linux's 12 and 20 bits")
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
