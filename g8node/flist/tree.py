"""The file tree of an flist in memory, and its limits (pure)."""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from g8node.wire.flist import NO_BLOCKS, Blocks
from g8node.wire.router import Router


@dataclass(slots=True, eq=False)
class Node:
    """One inode. The same object under several names is a hard link."""

    mode: int
    """Full st_mode."""
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    mtime_ns: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    size: int = 0
    """Regular files: bytes."""
    blocks: Blocks = NO_BLOCKS
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    children: "dict[bytes, Node] | None" = None
    """Directories only."""

    @property
    def is_file(self) -> bool:
        """Regular file."""
        return stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Flist:
    """What an flist says: the tree, and its free metadata (entrypoint, environ, ...) as stored."""

    root: Node
    info: Mapping[str, str] = field(default_factory=dict)
    router: Router | None = None
    """Where the chunks are, when the flist says so."""
    version: str = "g8"
    """What it was read from: g8, v1, v2 or v3."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a stranger's flist is read before it is refused."""

    file_bytes: int = 256 << 20
    """The flist as it is stored."""
    unpacked_bytes: int = 256 << 20
    """Its archive unpacked, and the records in it: what reading takes of memory, about twice."""
    members: int = 10_000
    entries: int = 1_000_000
    chunks: int = 4_000_000
    """Chunk references: 2 TiB of files, holes counted."""
    depth: int = 1024
    info_bytes: int = 1 << 20


DEFAULT_LIMITS = Limits()


def walk(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Every name with its node, the root first (empty path), parents before children, names in byte order."""
    stack = [(b"", root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        if node.children:
            prefix = path + b"/" if path else b""
            stack.extend(
                (prefix + name, child) for name, child in sorted(node.children.items(), reverse=True)
            )


def copied(root: Node) -> Node:
    """An equal tree of inodes of its own; hard links within it stay some."""
    made = {id(node): replace(node) for _, node in walk(root)}
    for node in made.values():
        if node.children is not None:
            node.children = {name: made[id(child)] for name, child in node.children.items()}
    return made[id(root)]
