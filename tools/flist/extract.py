"""Writing a tree of an flist into the local file system (async)."""

import os
import stat
from collections.abc import Callable
from typing import BinaryIO, Final

from g8node.flist.read import content
from g8node.flist.tree import Node, walk
from g8node.runtime import blocking
from g8node.store.base import Store
from g8node.wire.chunk import CHUNK_SIZE

_ZEROS: Final = bytes(CHUNK_SIZE)


async def extract(root: Node, out: str, store: Store | None, advance: Callable[[int], None]) -> int:
    """Write the node, and what is below it, to a path that must not exist; the number of bytes written.

    Attributes are set when all is there. Owners and devices need root; without it they are left out.
    """
    made: dict[int, str] = {}
    later: list[tuple[str, Node]] = []
    written = 0
    for path, node in walk(root):
        target = os.path.join(out, os.fsdecode(path)) if path else out
        if id(node) in made:
            await blocking.run("disk", os.link, made[id(node)], target, follow_symlinks=False)
            continue
        made[id(node)] = target
        later.append((target, node))
        if node.is_file:
            written += await _write(target, path, node, store, advance)
        else:
            await blocking.run("disk", _make, target, node)
    for target, node in reversed(later):
        await blocking.run("disk", _attributes, target, node)
    return written


async def _write(
    target: str, path: bytes, node: Node, store: Store | None, advance: Callable[[int], None]
) -> int:
    written = 0
    file = await blocking.run("disk", open, target, "xb")
    try:
        async for piece in content(path, node, store):
            await blocking.run("disk", _put, file, piece)
            written += len(piece)
            advance(len(piece))
        await blocking.run("disk", file.truncate, written)
    finally:
        await blocking.run("disk", file.close)
    return written


def _put(file: BinaryIO, piece: bytes) -> None:
    """What is all zeros becomes a hole: a small flist may have large ones."""
    if piece == _ZEROS[: len(piece)]:
        file.seek(len(piece), os.SEEK_CUR)
    else:
        file.write(piece)


def _make(target: str, node: Node) -> None:
    if node.children is not None:
        os.mkdir(target, 0o700)
    elif stat.S_ISLNK(node.mode):
        os.symlink(node.target, os.fsencode(target))
    elif os.geteuid() == 0 or stat.S_ISFIFO(node.mode):
        os.mknod(target, node.mode, os.makedev(*node.rdev))


def _attributes(target: str, node: Node) -> None:
    if not os.path.lexists(target):
        return
    if os.geteuid() == 0:
        os.chown(target, node.uid, node.gid, follow_symlinks=False)
        for name, value in node.xattrs.items():
            os.setxattr(target, os.fsdecode(name), value, follow_symlinks=False)
    if not stat.S_ISLNK(node.mode):
        os.chmod(target, stat.S_IMODE(node.mode))
    when = node.mtime_s * 1_000_000_000 + node.mtime_ns
    os.utime(target, ns=(when, when), follow_symlinks=False)
