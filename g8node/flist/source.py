"""What the packer reads from: the contract of a source, and what its kinds share (pure)."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from g8node.errors import InvalidArgument
from g8node.flist.tree import Node
from g8node.wire.chunk import CHUNK_SIZE
from g8node.wire.cut import LEAST, pieces
from g8node.wire.erofs_xattr import encode_xattrs
from g8node.wire.flist import Blocks, Codec
from g8node.wire.ignore import Ignore


class Part(NamedTuple):
    """Plain bytes of one chunk of a file; chunks that never come are holes."""

    node: Node
    chunk: int
    data: bytes


@dataclass(frozen=True, slots=True)
class How:
    """What a source makes of files."""

    codec: Codec = Codec.G8
    by_content: bool = False
    """Cut files by their content instead of every 512 KiB."""
    ignore: Ignore = field(default_factory=lambda: Ignore(()))


class Source(Protocol):
    """A tree to pack. Blocking; one thread at a time. `root` is complete when `parts` has ended."""

    root: Node
    total_bytes: int | None
    """Sum of file sizes when it is known before the end."""
    info: Mapping[str, str]
    """Free metadata that the source knows of itself, complete when `parts` has ended."""

    def parts(self) -> Iterator[Part]:
        """Read every file once, in chunks, and complete the tree. Can be called once."""


def begin_file(node: Node, size: int, how: How) -> None:
    """Give the node its size and an all-hole chunk list, which the packer fills in.

    A file that is cut by its content gets its list from `cut_file`. A small one is one chunk either way, and
    cut like this it shares its pages in memory.
    """
    node.size = size
    if how.by_content and size > LEAST:
        node.blocks = Blocks(bytearray(), bytearray(), array("I"), how.codec, 0)
        return
    count = -(-size // CHUNK_SIZE)
    sizes = array("I", [CHUNK_SIZE]) * count
    if count:
        sizes[-1] = size - (count - 1) * CHUNK_SIZE
    node.blocks = Blocks(bytearray(32 * count), bytearray(32 * count), sizes, how.codec)


def cut_file(node: Node, read: Callable[[int], bytes]) -> Iterator[Part]:
    """The parts of a file that is cut by its content; `read` as in `wire.cut.pieces`."""
    blocks = node.blocks
    assert isinstance(blocks.ids, bytearray)
    assert isinstance(blocks.keys, bytearray)
    for index, data in enumerate(pieces(read)):
        blocks.ids += bytes(32)
        blocks.keys += bytes(32)
        blocks.sizes.append(len(data))
        yield Part(node, index, data)


def check_xattrs(xattrs: dict[bytes, bytes], path: bytes) -> dict[bytes, bytes]:
    """Refuse what the image could not hold, while the path is known."""
    try:
        encode_xattrs(xattrs)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path!r}: {error.message}") from None
    return xattrs
