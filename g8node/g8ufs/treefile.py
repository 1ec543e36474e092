"""The tree view of one flist (async): names and attributes from its metadata, content from its image file.

For kernels without EROFS. The same plan, cache and fetcher as the EROFS view; the metadata is in memory.
"""

from g8node.g8ufs.imagefile import ImageFile, Part
from g8node.linux.guard import off_loop
from g8node.wire.erofs_read import Extent, Inode, Reader

_SHIFT = 32


class TreeFile:
    """What an entry of the session serves in the tree view. Inodes carry the entry's number in front."""

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self.size = image.size
        self.lookups = 0
        """References of the kernel to inodes of this tree."""

    @off_loop
    def open(self) -> None:
        """Read the metadata."""
        with open(self._image.plan.metadata_path, "rb") as source:
            self.reader = Reader(source.read())

    def close(self) -> None:
        self._image.close()

    async def read(self, offset: int, length: int) -> Part:
        """Bytes of the image file."""
        return await self._image.read(offset, length)

    async def read_inode(self, inode: Inode, offset: int, length: int) -> Part:
        """Bytes of a file of the tree, clipped to its size."""
        extents = self.reader.extents(inode, offset, length)
        parts = [await self._part(extent) for extent in extents]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _part(self, extent: Extent) -> Part:
        if extent.at < 0:
            return bytes(extent.length)
        return await self._image.read(extent.at, extent.length)


def inode_number(entry: int, nid: int) -> int:
    """What FUSE knows an inode of a tree by."""
    return entry << _SHIFT | nid


def split(number: int) -> tuple[int, int]:
    """(entry, nid); the entry is 0 for what is no tree's."""
    return number >> _SHIFT, number & ((1 << _SHIFT) - 1)


def in_tree(number: int) -> bool:
    return number >> _SHIFT != 0
