"""Reading back the EROFS metadata that `erofs` wrote (pure): for showing a tree without the kernel's EROFS.

Only images of our own writer are read, so that their bounds are not checked again: what is wrong raises
IndexError, struct.error or ValueError. An inode is named by its nid (offset / 32) as in the image.
"""

import stat
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from g8node.wire.erofs import BLOCK, CHUNK, HOLE
from g8node.wire.erofs_xattr import decode_xattrs

_ROOT_AT: Final = 1024 + 14
_INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT: Final = struct.Struct("<QHBB")
_SLOT: Final = 32
_LAYOUT: Final = 0x0E
_INLINE, _CHUNKED = 2 << 1, 4 << 1


class Inode(NamedTuple):
    """One inode; sizes in bytes."""

    nid: int
    mode: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    rdev: int
    layout: int
    head: int
    """Where the xattrs end."""
    union: int


class Extent(NamedTuple):
    """A run of a file's bytes: where it is in the virtual image file, or -1 for zeros."""

    at: int
    length: int


class Reader:
    """The tree in one metadata area."""

    def __init__(self, image: bytes) -> None:
        self._image = image
        (self.root,) = struct.unpack_from("<H", image, _ROOT_AT)

    def inode(self, nid: int) -> Inode:
        at = nid * _SLOT
        layout, icount, mode, _, size, union, _, uid, gid, seconds, ns, nlink = _INODE.unpack_from(
            self._image, at
        )
        head = at + _INODE.size + (12 + (icount - 1) * 4 if icount else 0)
        rdev = union if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        mtime_ns = seconds * 1_000_000_000 + ns
        return Inode(nid, mode, size, uid, gid, mtime_ns, nlink, rdev, layout & _LAYOUT, head, union)

    def entries(self, folder: Inode, start: int = 0) -> Iterator[tuple[int, bytes, int]]:
        """(position, name, nid) of a folder's names, . and .. among them, from a position on."""
        per_block = BLOCK // _DIRENT.size
        for block in range(start // per_block, -(-folder.size // BLOCK)):
            names = self._block(folder, block)
            for index, (name, nid) in enumerate(names):
                position = block * per_block + index
                if position >= start:
                    yield position, name, nid

    def lookup(self, folder: Inode, name: bytes) -> int | None:
        """The nid of a name: blocks are in name order."""
        low, high = 0, -(-folder.size // BLOCK) - 1
        while low <= high:
            middle = (low + high) // 2
            names = self._block(folder, middle)
            if name < names[0][0]:
                high = middle - 1
            elif name > names[-1][0]:
                low = middle + 1
            else:
                return dict(names).get(name)
        return None

    def target(self, link: Inode) -> bytes:
        at = self._data_at(link)
        return self._image[at : at + link.size]

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        return decode_xattrs(self._image[inode.nid * _SLOT + _INODE.size : inode.head])

    def extents(self, file: Inode, offset: int, length: int) -> list[Extent]:
        """Where the bytes of [offset, offset+length) are, clipped to the file's size."""
        end = min(offset + length, file.size)
        if file.layout != _CHUNKED:
            return [Extent(file.union * BLOCK + offset, end - offset)] if end > offset else []
        found = []
        while offset < end:
            index, inside = divmod(offset, CHUNK)
            part = min(CHUNK - inside, end - offset)
            (block,) = struct.unpack_from("<I", self._image, file.head + 4 * index)
            found.append(Extent(-1 if block == HOLE else block * BLOCK + inside, part))
            offset += part
        return found

    def _data_at(self, inode: Inode) -> int:
        return inode.head if inode.layout == _INLINE else inode.union * BLOCK

    def _block(self, folder: Inode, block: int) -> list[tuple[bytes, int]]:
        at = self._data_at(folder) + block * BLOCK
        data = self._image[at : at + min(BLOCK, folder.size - block * BLOCK)]
        (_, first, _, _) = _DIRENT.unpack_from(data)
        heads = [_DIRENT.unpack_from(data, 12 * index) for index in range(first // 12)]
        ends = [head[1] for head in heads[1:]] + [len(data)]
        return [(data[head[1] : end].rstrip(b"\0"), head[0]) for head, end in zip(heads, ends, strict=True)]
