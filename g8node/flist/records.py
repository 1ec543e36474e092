"""Between a file tree and the records of an flist (pure): `tree_records` writes, `read_tree` validates.

Reading follows directory keys from the root; records that nobody points at are ignored.
"""

import stat
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

from g8node.errors import InvalidArgument, NodeError
from g8node.flist.tree import DEFAULT_LIMITS, Limits, Node, walk
from g8node.wire.chunk import CHUNK_SIZE, PLAIN_SIZE_MAX
from g8node.wire.flist import (
    Acl,
    Directory,
    Entry,
    Extra,
    Kind,
    Special,
    acl_key,
    decode_acl,
    decode_directory,
    directory_key,
    encode_acl,
    encode_directory,
)

_SPECIALS: Final = {
    stat.S_IFSOCK: Special.SOCKET,
    stat.S_IFBLK: Special.BLOCK,
    stat.S_IFCHR: Special.CHARACTER,
    stat.S_IFIFO: Special.FIFO,
}
_MODES: Final = {special: mode for mode, special in _SPECIALS.items()}

_UNKNOWN: Final = Acl(0o400, 1000, 1000)
"""What the original's mounter makes of an access record that is not there."""

Record = tuple[str, bytes]


class Dialect(Enum):
    """How keys are made, and whether the records are strictly the original's: bytes, bytes, strict."""

    V1 = (32, 16, False)
    """v1's keys, and our fields appended: what we write by default."""
    V2 = (16, 8, True)
    """v2, for old readers."""

    def __init__(self, directory_bytes: int, acl_bytes: int, original: bool) -> None:
        self.directory_bytes = directory_bytes
        self.acl_bytes = acl_bytes
        self.original = original

    def directory_key(self, path: bytes) -> str:
        return directory_key(path, self.directory_bytes)


def tree_records(root: Node, dialect: Dialect = Dialect.V1) -> Iterator[Record]:
    """Key and message of every directory and access list."""
    writer = _Writer(_link_groups(root), dialect)
    for path, node in walk(root):
        if node.children is not None:
            yield dialect.directory_key(path), writer.directory(path, node)
    yield from writer.acls.items()


def _link_groups(root: Node) -> dict[int, int]:
    """Group numbers, from 1, of the nodes that have several names, by id()."""
    seen: set[int] = set()
    groups: dict[int, int] = {}
    for _, node in walk(root):
        if id(node) in seen and node.children is None:
            groups.setdefault(id(node), len(groups) + 1)
        seen.add(id(node))
    return groups


class _Writer:
    def __init__(self, groups: dict[int, int], dialect: Dialect) -> None:
        self._dialect = dialect
        self.acls: dict[str, bytes] = {}
        self._keys: dict[Acl, str] = {}
        self._groups = groups

    def directory(self, path: bytes, node: Node) -> bytes:
        parent = path.rpartition(b"/")[0]
        prefix = path + b"/" if path else b""
        entries = [self._entry(name, prefix, child) for name, child in sorted((node.children or {}).items())]
        key = self._dialect.directory_key(parent)
        record = Directory(path, key, self._acl(node), self._extra(node), entries)
        return encode_directory(record, original=self._dialect.original)

    def _acl(self, node: Node) -> str:
        acl = Acl(stat.S_IMODE(node.mode), node.uid, node.gid)
        key = self._keys.get(acl)
        if key is None:
            key = self._keys[acl] = acl_key(acl, self._dialect.acl_bytes)
            self.acls[key] = encode_acl(acl)
        return key

    def _extra(self, node: Node) -> Extra:
        group = self._groups.get(id(node), 0)
        return Extra(node.mtime_s, node.mtime_ns, group, xattrs=node.xattrs)

    def _entry(self, name: bytes, prefix: bytes, node: Node) -> Entry:
        entry = Entry(name, Kind.FILE, self._acl(node), self._extra(node), node.size)
        kind = stat.S_IFMT(node.mode)
        if kind == stat.S_IFDIR:
            entry.kind = Kind.DIRECTORY
            entry.directory = self._dialect.directory_key(prefix + name)
            entry.size = 4096
        elif kind == stat.S_IFREG:
            entry.blocks = node.blocks
        elif kind == stat.S_IFLNK:
            entry.kind = Kind.LINK
            entry.target = node.target
            entry.size = len(node.target)
        else:
            entry.kind = Kind.SPECIAL
            entry.special = _SPECIALS[kind]
            entry.device = node.rdev
        return entry


def read_tree(
    get: Callable[[str], bytes | None], limits: Limits = DEFAULT_LIMITS, dialect: Dialect = Dialect.V1
) -> Node:
    """The validated tree behind `get`, which answers a key's record. InvalidArgument names what is wrong."""
    return _Reader(get, limits, dialect).read()


class _Reader:
    def __init__(self, get: Callable[[str], bytes | None], limits: Limits, dialect: Dialect) -> None:
        self._dialect = dialect
        self._get = get
        self._limits = limits
        self._acls: dict[str, Acl] = {}
        self._links: dict[int, tuple[Entry, Node]] = {}
        self._entries = 0
        self._chunks = 0

    def read(self) -> Node:
        root_key = self._dialect.directory_key(b"")
        seen = {root_key}
        root, below = self._directory(root_key, b"")
        stack = [(b"", 1, below)]
        while stack:
            path, depth, children = stack.pop()
            if depth > self._limits.depth:
                raise InvalidArgument(f"directory {path[-100:]!r} is over {self._limits.depth} levels deep")
            for name, key, siblings in children:
                where = path + name + b"/"
                if key in seen:
                    raise InvalidArgument(f"directory {where!r} is reached twice: a cycle or a shared key")
                seen.add(key)
                node, below = self._directory(key, where)
                siblings[name] = node
                if below:
                    stack.append((where, depth + 1, below))
        return root

    def _directory(self, key: str, path: bytes) -> tuple[Node, list[tuple[bytes, str, dict[bytes, Node]]]]:
        """The node without its subdirectories, and those as (name, key, dict to put the node into)."""
        where = "/" + path.decode("utf-8", "backslashreplace")
        message = self._get(key)
        if message is None:
            raise InvalidArgument(f"directory {where}: record {key[:80]} is missing")
        try:
            record = decode_directory(message, where)
        except NodeError as error:
            raise InvalidArgument(f"directory {where}: {error}") from None
        self._entries += len(record.entries)
        if self._entries > self._limits.entries:
            raise InvalidArgument(f"flist has over {self._limits.entries} entries at {where}")
        children: dict[bytes, Node] = {}
        below = []
        node = self._node(record.acl, record.extra, stat.S_IFDIR, where)
        node.children = children
        for entry in record.entries:
            if entry.name in children:
                raise InvalidArgument(f"{where}: name {entry.name!r} occurs twice")
            if entry.kind == Kind.DIRECTORY:
                # Its place in the dict is taken now, so that a second one of that name is seen.
                children[entry.name] = node
                below.append((entry.name, entry.directory, children))
            else:
                children[entry.name] = self._leaf(entry, where)
        return node, below

    def _acl(self, key: str, where: str) -> Acl:
        acl = self._acls.get(key)
        if acl is None:
            message = self._get(key)
            if message is None and self._dialect.original:
                return _UNKNOWN
            if message is None:
                raise InvalidArgument(f"{where}: access record {key[:80]!r} is missing")
            acl = self._acls[key] = decode_acl(message)
        return acl

    def _node(self, acl_key: str, extra: Extra, kind: int, where: str) -> Node:
        acl = self._acl(acl_key, where)
        return Node(kind | acl.mode, acl.uid, acl.gid, extra.mtime_s, extra.mtime_ns, extra.xattrs)

    def _leaf(self, entry: Entry, where: str) -> Node:
        group = entry.extra.link_group
        if group and group in self._links:
            first, node = self._links[group]
            if not _same(first, entry):
                raise InvalidArgument(f"{where}{entry.name!r} differs from the file it is a hard link of")
            return node
        if entry.kind == Kind.FILE:
            node = self._node(entry.acl, entry.extra, stat.S_IFREG, where)
            self._check_blocks(entry, where)
            node.size, node.blocks = entry.size, entry.blocks
        elif entry.kind == Kind.LINK:
            node = self._node(entry.acl, entry.extra, stat.S_IFLNK, where)
            node.target, node.size = entry.target, len(entry.target)
        else:
            node = self._node(entry.acl, entry.extra, _MODES[entry.special], where)
            node.rdev = entry.device
        if group:
            self._links[group] = (entry, node)
        return node

    def _check_blocks(self, entry: Entry, where: str) -> None:
        blocks = entry.blocks
        if not blocks.sizes and not entry.size:
            return
        self._chunks += len(blocks)
        if self._chunks > self._limits.chunks:
            raise InvalidArgument(f"flist has over {self._limits.chunks} chunks at {where}{entry.name!r}")
        if blocks.block_size == 0:
            if min(blocks.sizes) < 1 or max(blocks.sizes) > PLAIN_SIZE_MAX or sum(blocks.sizes) != entry.size:
                raise InvalidArgument(f"{where}{entry.name!r}: chunk sizes do not add up to {entry.size}")
            return
        if blocks.block_size != CHUNK_SIZE:
            raise InvalidArgument(
                f"{where}{entry.name!r}: chunks of {blocks.block_size} bytes, expected {CHUNK_SIZE}"
            )
        last = entry.size - (len(blocks) - 1) * CHUNK_SIZE
        if not 0 < last <= CHUNK_SIZE:
            raise InvalidArgument(
                f"{where}{entry.name!r}: size {entry.size} does not go with {len(blocks)} chunks"
            )
        if blocks.sizes[-1] != last or blocks.sizes.count(CHUNK_SIZE) < len(blocks) - (last != CHUNK_SIZE):
            raise InvalidArgument(f"{where}{entry.name!r}: chunk sizes do not add up to {entry.size}")


def _same(first: Entry, other: Entry) -> bool:
    """Whether two entries can be names of one inode."""
    return _identity(first) == _identity(other)


def _identity(entry: Entry) -> tuple[object, ...]:
    extra, blocks = entry.extra, entry.blocks
    return (
        entry.kind,
        entry.acl,
        (extra.mtime_s, extra.mtime_ns, dict(extra.xattrs)),
        entry.size,
        (blocks.ids, blocks.keys, blocks.sizes, blocks.codec),
        entry.target,
        (entry.special, entry.device),
    )
