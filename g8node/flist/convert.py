"""From one format to another: what would be lost, and chunks encoded anew where the format needs it (async).

v2 and v3 are written for other people's readers: what those cannot see counts as lost, and is refused unless
the caller accepts it.
"""

import asyncio
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from g8node.errors import FailedPrecondition, InvalidArgument
from g8node.flist.container import Format, write_flist
from g8node.flist.merkle import MERKLE_KEY, sealed
from g8node.flist.read import HOLE, plain, refs
from g8node.flist.tree import Flist, Node, walk
from g8node.runtime import blocking
from g8node.store.base import Store
from g8node.wire import codecs
from g8node.wire.chunk import CHUNK_SIZE, Encoded
from g8node.wire.flist import ABSENT_ID, Blocks, Codec

_CODECS: Final[dict[Format, Codec]] = {"v2": Codec.V2, "v3": Codec.V3}
_SECONDS_MAX: Final = (1 << 32) - 1
_BATCH: Final = 16
_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class Converted:
    """What was done."""

    losses: dict[str, list[str]]
    """What kind of thing was lost, with the first paths that had it."""
    chunks: int
    """Chunks that were encoded anew."""


def losses(flist: Flist, form: Format) -> dict[str, list[str]]:
    """What the format cannot hold: kind of loss, and the first paths. Empty for ours."""
    found: dict[str, list[str]] = {}
    if form == "g8":
        return found
    seen: set[int] = set()
    for path, node in walk(flist.root):
        for kind in _lost(path, node, form):
            _note(found, kind, path)
        if id(node) in seen and node.children is None:
            _note(found, "hard links", path)
        seen.add(id(node))
    return found


def _note(found: dict[str, list[str]], kind: str, path: bytes) -> None:
    paths = found.setdefault(kind, [])
    if len(paths) < _LISTED:
        paths.append("/" + path.decode("utf-8", "backslashreplace"))


def _lost(path: bytes, node: Node, form: Format) -> Iterator[str]:
    if node.xattrs:
        yield "extended attributes"
    if node.mtime_ns:
        yield "nanoseconds"
    if not 0 <= node.mtime_s <= _SECONDS_MAX:
        yield "times before 1970 or after 2106"
    if not _is_text(path.rpartition(b"/")[2]) or not _is_text(node.target):
        yield "names that are not UTF-8"
    if ABSENT_ID in bytes(node.blocks.ids):
        yield "sizes of files that lack chunks"
    if form == "v2" and not path and (node.mode & 0o7777, node.uid, node.gid) != (0o755, 0, 0):
        yield "attributes of the root, which the original's tools do not keep"


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


async def convert(
    flist: Flist,
    output: str,
    form: Format,
    *,
    source: Store | None = None,
    target: Store | None = None,
    lossy: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Converted:
    """Write the flist as `form`. Chunks of another codec are read from `source`, encoded, put into `target`.

    FailedPrecondition: something would be lost, and `lossy` is not set; InvalidArgument: chunks must be
    encoded anew, and there is no store. Nothing is written unless all went well. `progress` gets chunks.
    """
    lost = await blocking.run("cpu", losses, flist, form)
    if lost and not lossy:
        raise FailedPrecondition(
            f"{form} cannot hold: {', '.join(f'{kind} ({paths[0]})' for kind, paths in lost.items())}",
            hint="--lossy leaves it out",
        )
    work = Flist(_copy(flist.root), dict(flist.info), flist.router)
    codec = _CODECS.get(form)
    count = 0
    if codec is not None:
        _drop_absent(work.root)
        count = await _Recoder(codec, source, target, progress).run(work.root)
        work = Flist(work.root, {k: v for k, v in work.info.items() if k != MERKLE_KEY}, work.router)
    else:
        work = await blocking.run("cpu", sealed, work)
    await blocking.run("cpu", write_flist, work, output, form)
    return Converted(lost, count)


def _copy(root: Node) -> Node:
    """The tree with nodes of its own; hard links stay."""
    copies: dict[int, Node] = {}

    def copied(node: Node) -> Node:
        known = copies.get(id(node))
        if known is None:
            known = copies[id(node)] = replace(node, children=None if node.children is None else {})
        return known

    for _, node in walk(root):
        into = copied(node)
        for name, child in (node.children or {}).items():
            assert into.children is not None
            into.children[name] = copied(child)
    return copies[id(root)]


def _drop_absent(root: Node) -> None:
    """Shorten files that lack chunks to what is there."""
    for _, node in walk(root):
        ids = bytes(node.blocks.ids)
        kept = next((at for at in range(0, len(ids), 32) if ids[at : at + 32] == ABSENT_ID), len(ids)) // 32
        if kept < len(node.blocks):
            old = node.blocks
            node.blocks = Blocks(ids[: 32 * kept], bytes(old.keys)[: 32 * kept], old.sizes[:kept], old.codec)
            node.size = sum(node.blocks.sizes)


class _Recoder:
    """Gives every file chunks of one codec, at 512 KiB each."""

    def __init__(
        self, codec: Codec, source: Store | None, target: Store | None, progress: Callable[[int, int], None]
    ) -> None:
        self._codec = codec
        self._source = source
        self._target = target
        self._progress = progress
        self._done = 0

    async def run(self, root: Node) -> int:
        files: dict[int, tuple[bytes, Node]] = {}
        for path, node in walk(root):
            if node.blocks.sizes and (node.blocks.codec != self._codec or HOLE in _ids(node.blocks)):
                files.setdefault(id(node), (path, node))
        total = sum(len(node.blocks) for _, node in files.values())
        for path, node in files.values():
            node.blocks = await self._file(path, node, total)
        return self._done

    async def _file(self, path: bytes, node: Node, total: int) -> Blocks:
        if self._target is None:
            raise InvalidArgument(
                f"chunks of {node.blocks.codec.name} must become {self._codec.name}", hint="give --store"
            )
        made = Blocks(bytearray(), bytearray(), array("I"), self._codec)
        rest = b""
        wanted = list(refs(path, node.blocks))
        for at in range(0, len(wanted), _BATCH):
            plains = await plain(wanted[at : at + _BATCH], self._source)
            rest += b"".join(plains)
            last = at + _BATCH >= len(wanted)
            whole = len(rest) if last else len(rest) // CHUNK_SIZE * CHUNK_SIZE
            await self._put(made, [rest[n : n + CHUNK_SIZE] for n in range(0, whole, CHUNK_SIZE)])
            rest = rest[whole:]
            self._done += len(plains)
            self._progress(self._done, total)
        return made

    async def _put(self, made: Blocks, plains: Sequence[bytes]) -> None:
        assert self._target is not None
        halves = [plains[0::2], plains[1::2]]
        both = await asyncio.gather(*(blocking.run("cpu", self._encode, half) for half in halves))
        encoded = [both[n % 2][n // 2] for n in range(len(plains))]
        fresh = {codecs.stored_as(self._codec, one.id): one.stored for one in encoded}
        missing = await self._target.missing(list(fresh)) if fresh else set()
        if missing:
            await self._target.put_many({id: fresh[id] for id in missing})
        assert isinstance(made.ids, bytearray)
        assert isinstance(made.keys, bytearray)
        for one, piece in zip(encoded, plains, strict=True):
            made.ids += one.id
            made.keys += one.key
            made.sizes.append(len(piece))

    def _encode(self, plains: Sequence[bytes]) -> list[Encoded]:
        return [codecs.encode(self._codec, plain) for plain in plains]


def _ids(blocks: Blocks) -> set[bytes]:
    ids = bytes(blocks.ids)
    return {ids[at : at + 32] for at in range(0, len(ids), 32)}
