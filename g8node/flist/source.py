"""What the packer reads from: the contract of a source, and what its kinds share (pure)."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from g8node.errors import InvalidArgument
from g8node.flist.tree import Node
from g8node.wire.chunk import CHUNK_SIZE
from g8node.wire.erofs_xattr import encode_xattrs
from g8node.wire.flist import Blocks, Codec


class Part(NamedTuple):
    """Plain bytes of one chunk of a file; chunks that never come are holes."""

    node: Node
    chunk: int
    data: bytes


class Source(Protocol):
    """A tree to pack. Blocking; one thread at a time. `root` is complete when `parts` has ended."""

    root: Node
    total_bytes: int | None
    """Sum of file sizes when it is known before the end."""

    def parts(self) -> Iterator[Part]:
        """Read every file once, in chunks, and complete the tree. Can be called once."""


def begin_file(node: Node, size: int, codec: Codec) -> None:
    """Give the node its size and an all-hole chunk list, which the packer fills in."""
    count = -(-size // CHUNK_SIZE)
    sizes = array("I", [CHUNK_SIZE]) * count
    if count:
        sizes[-1] = size - (count - 1) * CHUNK_SIZE
    node.size = size
    node.blocks = Blocks(bytearray(32 * count), bytearray(32 * count), sizes, codec)


def check_xattrs(xattrs: dict[bytes, bytes], path: bytes) -> dict[bytes, bytes]:
    """Refuse what the image could not hold, while the path is known."""
    try:
        encode_xattrs(xattrs)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path!r}: {error.message}") from None
    return xattrs
