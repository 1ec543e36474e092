"""The image of an flist made in C (`wire/_flist.c`), where that was compiled (pure)."""

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from g8node.flist.plan import SlotTable
from g8node.flist.tree import Limits
from g8node.wire.flist import directory_key

_Made = tuple[bytearray, int, int, int, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]

COMPILED = True
if TYPE_CHECKING:
    image: Callable[[dict[bytes, bytes], bytes, bytes, bytes, int, int, int, int], _Made | None]
else:
    try:
        from g8node.wire._flist import image
    except ImportError:
        COMPILED = False

        def image(*_):
            return None


_ROOT_KEY: Final = directory_key(b"").encode()
_SEED: Final = b"".join(hash(word).to_bytes(8, "little", signed=True) for word in (b"one", b"two"))
"""As hard to guess as the seed of the interpreter's own hashes."""


class Image(NamedTuple):
    """What `flist/image.py::build` works out."""

    metadata: bytearray
    """Without its superblock."""
    root_nid: int
    inodes: int
    data_blocks: int
    tree: bytes
    """`merkle.tree_root`."""
    slots: SlotTable


def compiled_image(
    records: dict[bytes, bytes], prefix: bytes, limits: Limits, names_max: int
) -> Image | None:
    """None unless every record is as our packer writes it: then nothing is known of what is wrong."""
    made = image(records, prefix, _ROOT_KEY, _SEED, limits.entries, limits.chunks, limits.depth, names_max)
    if made is None:
        return None
    metadata, nid, inodes, blocks, tree, starts, sizes, names_at, *rest = made
    columns = array("Q", starts), array("I", sizes), array("I", names_at)
    return Image(metadata, nid, inodes, blocks, tree, SlotTable(*columns, *rest))
