"""The v3 container, `.fl`: inodes, symlink targets, chunks, tags and routes in sqlite tables (blocking)."""

import os
import stat
from array import array
from collections.abc import Iterator
from typing import Any, Final

from g8node.errors import InvalidArgument
from g8node.flist.sqlite import Database, new_database, read_info, text
from g8node.flist.tree import Flist, Limits, Node, walk
from g8node.wire.chunk import CHUNK_SIZE
from g8node.wire.flist import Blocks, Codec, check_name, complete
from g8node.wire.router import Range, Router, Rule, checked_url

_ROOT: Final = 1
_COLUMNS: Final = "ino, parent, name, size, uid, gid, mode, rdev, mtime"
_KINDS: Final = (
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK,
)  # fmt: skip
_SCHEMA: Final = """
CREATE TABLE inode (ino INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name VARCHAR(255), size INTEGER,
    uid INTEGER, gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
CREATE INDEX parents ON inode (parent);
CREATE INDEX names ON inode (name);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE INDEX block_ino ON block (ino);
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));
"""


def read_fl(data: bytes, limits: Limits) -> Flist:
    """The flist in the bytes of an .fl file."""
    with Database(data, limits) as db:
        nodes, children = _inodes(db, limits)
        _targets(db, nodes, limits)
        _blocks(db, nodes, limits)
        info = read_info(db, "tag", limits) if "tag" in db.tables else {}
        router = _routes(db) if "route" in db.tables else None
    if _ROOT not in nodes or nodes[_ROOT].children is None:
        raise InvalidArgument("no root directory: inode 1")
    _link(nodes, children, limits)
    return Flist(nodes[_ROOT], info, router, "v3")


def _inodes(db: Database, limits: Limits) -> tuple[dict[int, Node], dict[int, list[tuple[bytes, int]]]]:
    nodes: dict[int, Node] = {}
    children: dict[int, list[tuple[bytes, int]]] = {}
    for ino, parent, name, size, uid, gid, mode, rdev, mtime in db.rows("inode", _COLUMNS, limits.entries):
        where = f"inode {ino}"
        for field, value in (("uid", uid), ("gid", gid), ("mode", mode)):
            if not isinstance(value, int) or not 0 <= value < 1 << 32:
                raise InvalidArgument(f"{where}: {field} is {value!r}, expected 32 bits")
        node = Node(mode, uid, gid, mtime_s=_number(mtime, where, "mtime", signed=True))
        kind = stat.S_IFMT(mode)
        if kind not in _KINDS or mode >> 16 or ino in nodes:
            raise InvalidArgument(f"{where}: mode {mode:o} is none, or the inode is there twice")
        if kind == stat.S_IFDIR:
            node.children = {}
        elif kind == stat.S_IFREG:
            node.size = _number(size, where, "size")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            number = _number(rdev, where, "rdev")
            node.rdev = (os.major(number), os.minor(number))
        nodes[ino] = node
        if ino != _ROOT:
            children.setdefault(parent, []).append((_name(name, where), ino))
    return nodes, children


def _number(value: Any, where: str, field: str, *, signed: bool = False) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or (value < 0 and not signed):
        raise InvalidArgument(f"{where}: {field} is {value!r}, expected a number")
    return value


def _name(name: Any, where: str) -> bytes:
    if not isinstance(name, bytes):
        raise InvalidArgument(f"{where}: name is no text")
    check_name(name, where)
    return name


def _targets(db: Database, nodes: dict[int, Node], limits: Limits) -> None:
    if "extra" not in db.tables:
        return
    for ino, data in db.rows("extra", "ino, data", limits.entries):
        node = nodes.get(ino)
        if node is not None and stat.S_ISLNK(node.mode) and isinstance(data, bytes):
            node.target = data
            node.size = len(data)


def _blocks(db: Database, nodes: dict[int, Node], limits: Limits) -> None:
    if "block" in db.tables:
        for ino, id, key in db.rows("block", "ino, id, key", limits.chunks):
            node = nodes.get(ino)
            if node is None or not node.is_file:
                continue
            if not isinstance(id, bytes) or not isinstance(key, bytes) or len(id) != 32 or len(key) != 32:
                raise InvalidArgument(f"inode {ino}: chunk id or key is not of 32 bytes")
            if not node.blocks.sizes:
                node.blocks = Blocks(bytearray(), bytearray(), array("I"), Codec.V3)
            assert isinstance(node.blocks.ids, bytearray)
            assert isinstance(node.blocks.keys, bytearray)
            node.blocks.ids += id
            node.blocks.keys += key
            node.blocks.sizes.append(CHUNK_SIZE)
    for ino, node in nodes.items():
        if node.is_file and node.size and not node.blocks.sizes:
            node.blocks = Blocks(bytearray(), bytearray(), array("I"), Codec.V3)
        if node.is_file and (node.size or node.blocks.sizes):
            complete(node.blocks, node.size, f"inode {ino}")


def _routes(db: Database) -> Router | None:
    rules = []
    for start, end, url in db.rows("route", "start, end, url", 1024):
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end < 256):
            raise InvalidArgument(f"route {start!r} to {end!r}: expected two bytes, ascending")
        rules.append(Rule(Range(bytes([start]), bytes([end])), checked_url(text(url, "route: url"))))
    return Router({"stores": tuple(rules)}, ("stores",)) if rules else None


def _link(nodes: dict[int, Node], children: dict[int, list[tuple[bytes, int]]], limits: Limits) -> None:
    """Hang every inode below its parent, from the root down; what the root does not reach is left out."""
    stack = [(_ROOT, 1)]
    while stack:
        ino, depth = stack.pop()
        if depth > limits.depth:
            raise InvalidArgument(f"inode {ino} is over {limits.depth} levels deep")
        folder = nodes[ino].children
        assert folder is not None
        for name, child in children.get(ino, ()):
            if name in folder:
                raise InvalidArgument(f"inode {ino}: name {name!r} occurs twice")
            folder[name] = nodes[child]
            if nodes[child].children is not None:
                stack.append((child, depth + 1))


def write_fl(flist: Flist, path: str) -> None:
    """Write an .fl. The tree must hold nothing that it cannot (convert.losses)."""
    if os.path.exists(path):
        os.unlink(path)
    with new_database(path, _SCHEMA) as db:
        inos: dict[bytes, int] = {}
        for ino, (place, node) in enumerate(walk(flist.root), _ROOT):
            parent, _, name = place.rpartition(b"/")
            inos[place] = ino
            row = (ino, inos[parent] if ino > _ROOT else 0, name if ino > _ROOT else b"/", node.size)
            rdev = os.makedev(*node.rdev) if any(node.rdev) else 0
            times = (max(node.mtime_s, 0), max(node.mtime_s, 0))
            values = (*row, node.uid, node.gid, node.mode, rdev, *times)
            db.execute("INSERT INTO inode VALUES (?, ?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?)", values)
            if stat.S_ISLNK(node.mode):
                db.execute("INSERT INTO extra VALUES (?, CAST(? AS TEXT))", (ino, node.target))
            db.executemany("INSERT INTO block VALUES (?, ?, ?)", _block_rows(ino, node))
        db.executemany("INSERT INTO tag VALUES (?, ?)", sorted(flist.info.items()))
        router = flist.router or Router({}, ())
        for pool in router.lookup:
            rows = [(*_bytes(rule.range), rule.url) for rule in router.pools[pool]]
            db.executemany("INSERT INTO route VALUES (?, ?, ?)", rows)


def _block_rows(ino: int, node: Node) -> Iterator[tuple[int, bytes, bytes]]:
    ids, keys = bytes(node.blocks.ids), bytes(node.blocks.keys)
    if ids and node.blocks.codec != Codec.V3:
        raise InvalidArgument(f"chunks of codec {node.blocks.codec.name} cannot stand in an .fl")
    for at in range(0, len(ids), 32):
        yield ino, ids[at : at + 32], keys[at : at + 32]


def _bytes(range: Range) -> tuple[int, int]:
    """The range of first bytes that holds all of it: one too many is asked in vain, none is missed."""
    return (range.first[0], range.last[0]) if range.first else (0, 255)
