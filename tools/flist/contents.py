"""What an flist holds: its chunks, and lines like those of `ls -l` (blocking)."""

import stat
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from g8node.flist.container import read_flist
from g8node.flist.tree import Flist, Node, walk
from g8node.ids import ChunkId
from g8node.wire.chunk import ID_SIZE
from g8node.wire.codecs import stored_as
from g8node.wire.flist import ABSENT_ID

_HOLE: Final = bytes(ID_SIZE)


class Line(msgspec.Struct, frozen=True):
    """One name of an flist. `path` and `target` are text with surrogates escaped for raw bytes."""

    path: str
    mode: str
    uid: int
    gid: int
    size: int
    mtime: int
    target: str = ""


def chunk_ids(path: str) -> list[ChunkId]:
    """Distinct chunks in the order of the tree. Reads and validates the whole flist: InvalidArgument."""
    return ids_of(read_flist(path))


def ids_of(flist: Flist) -> list[ChunkId]:
    """Distinct chunks in the order of the tree as stores know them, holes and forgotten ones left out."""
    found: dict[ChunkId, None] = {}
    for _, node in walk(flist.root):
        ids = bytes(node.blocks.ids)
        for at in range(0, len(ids), ID_SIZE):
            id = ids[at : at + ID_SIZE]
            if id not in (_HOLE, ABSENT_ID):
                found[stored_as(node.blocks.codec, id)] = None
    return list(found)


def lines(node: Node, top: bytes = b"") -> Iterator[Line]:
    """What is at the path `top`, and every name below it, parents first, names in byte order."""
    prefix = top + b"/" if top else b""
    return (line_of(prefix + path if path else top, below) for path, below in walk(node))


def line_of(path: bytes, node: Node) -> Line:
    """One name."""
    mode = stat.filemode(node.mode)
    return Line("/" + safe(path), mode, node.uid, node.gid, node.size, node.mtime_s, safe(node.target))


def long_format(line: Line) -> str:
    """As `ls -l` would write it."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(line.mtime))
    arrow = f" -> {line.target}" if line.target else ""
    return f"{line.mode} {line.uid:>5} {line.gid:>5} {line.size:>10} {when} {line.path}{arrow}"


def safe(raw: bytes) -> str:
    """A name as text that may be printed."""
    # No control character reaches a terminal from a stranger's flist.
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in raw.decode("utf-8", "backslashreplace")
    )


def count(root: Node) -> int:
    """Names below the root."""
    return sum(1 for _ in walk(root)) - 1
