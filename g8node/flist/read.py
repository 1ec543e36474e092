"""The bytes of files in an flist, from a store (async)."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from g8node.errors import InvalidArgument, NodeError, NotFound
from g8node.flist.plan import ChunkRef
from g8node.flist.tree import Node
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.store.base import Store
from g8node.wire.flist import ABSENT_ID, Blocks, Codec

HOLE: Final = bytes(32)
_BATCH: Final = 8


def find(root: Node, path: str | bytes) -> Node:
    """The node at a path; symlinks are not followed. NotFound names it."""
    raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    node: Node | None = root
    for name in raw.split(b"/"):
        if name and node is not None:
            node = (node.children or {}).get(name)
    if node is None:
        raise NotFound(f"{raw.decode('utf-8', 'backslashreplace')} is not in the flist")
    return node


def refs(path: bytes, blocks: Blocks) -> Iterator[ChunkRef]:
    """The chunks of a file, holes among them with an id of zeros."""
    ids, keys = bytes(blocks.ids), bytes(blocks.keys)
    for at, size in enumerate(blocks.sizes):
        cut = slice(32 * at, 32 * at + 32)
        codec = Codec.ABSENT if ids[cut] == ABSENT_ID else blocks.codec
        yield ChunkRef(ChunkId(ids[cut]), keys[cut], size, path, codec)


async def plain(wanted: Sequence[ChunkRef], store: Store | None) -> list[bytes]:
    """Fetch and decode. InvalidArgument without a store; NotFound or Unavailable of the first that fails."""
    stored = [ref for ref in wanted if ref.id != HOLE]
    if stored and store is None:
        raise InvalidArgument("the chunks are needed, and no store is known", hint="give --store")
    answers = await store.get_many([ref.stored_as for ref in stored]) if store else {}
    return await blocking.run("cpu", _decoded, wanted, answers)


def _decoded(wanted: Sequence[ChunkRef], answers: Mapping[ChunkId, bytes | NodeError]) -> list[bytes]:
    plains = []
    for ref in wanted:
        if ref.id == HOLE:
            plains.append(bytes(ref.plain_size))
            continue
        answer = answers[ref.stored_as]
        if not isinstance(answer, bytes):
            raise answer
        plains.append(ref.decode(answer))
    return plains


async def content(path: bytes, node: Node, store: Store | None) -> AsyncIterator[bytes]:
    """A regular file, piece by piece. InvalidArgument for anything else."""
    if not node.is_file:
        raise InvalidArgument(f"{path.decode('utf-8', 'backslashreplace')} is no regular file")
    left = refs(path, node.blocks)
    while batch := list(islice(left, _BATCH)):
        for piece in await plain(batch, store):
            yield piece
