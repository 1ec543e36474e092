"""One digest of everything an flist says (pure): names, attributes, chunks, metadata, router.

A Merkle tree over the file tree: the digest of a directory covers its attributes and the names and digests
of what it holds. It is the same in every container. Our flists carry it in the metadata key `merkle`, so that
a record that was changed or lost is found when the image is built, and signatures cover it.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from g8node.errors import InvalidArgument
from g8node.flist.tree import Flist, Node, walk
from g8node.wire.router import Router, format_router

MERKLE_KEY: Final = "merkle"
_DIGEST: Final = 32
_HEAD: Final = struct.Struct("<IIIqIQQQBI")
_SIZE: Final = struct.Struct("<I")


def merkle_root(flist: Flist) -> bytes:
    """BLAKE2b-256 over the tree, the metadata (but `merkle` itself) and the router."""
    return _root(tree_root(flist.root), flist.info, flist.router)


def _root(tree: bytes, info: Mapping[str, str], router: Router | None) -> bytes:
    pairs = sorted((key, value) for key, value in info.items() if key != MERKLE_KEY)
    parts = [word.encode("utf-8", "surrogatepass") for pair in pairs for word in pair]
    text = format_router(router) if router else ""
    return _hash(b"g8 flist root 1", [tree, text.encode(), *parts])


def sealed(flist: Flist) -> Flist:
    """The flist with its root in its metadata."""
    info = dict(flist.info) | {MERKLE_KEY: merkle_root(flist).hex()}
    return Flist(flist.root, info, flist.router, flist.version)


def check(flist: Flist) -> bytes:
    """The root; InvalidArgument when the flist says another."""
    return check_tree(tree_root(flist.root), flist.info, flist.router)


def check_tree(tree: bytes, info: Mapping[str, str], router: Router | None) -> bytes:
    """The same for an flist whose `tree_root` is known."""
    root = _root(tree, info, router)
    said = info.get(MERKLE_KEY)
    if said is not None and said != root.hex():
        raise InvalidArgument(
            f"the flist was changed: its entries have the root {root.hex()}, it says {said[:64]}"
        )
    return root


def tree_root(root: Node) -> bytes:
    """The digest of a tree. Hard links count: two names of one file differ from two equal files."""
    links = _link_groups(root)
    digests: dict[int, bytes] = {}
    # Children come after their parents in the walk: from its end on, every child is known.
    for node in reversed([node for _, node in walk(root)]):
        if id(node) not in digests:
            digests[id(node)] = _node(node, links.get(id(node), 0), digests)
    return digests[id(root)]


def _link_groups(root: Node) -> Mapping[int, int]:
    seen: set[int] = set()
    groups: dict[int, int] = {}
    for _, node in walk(root):
        if id(node) in seen:
            groups.setdefault(id(node), len(groups) + 1)
        seen.add(id(node))
    return groups


def _node(node: Node, link: int, digests: Mapping[int, bytes]) -> bytes:
    blocks = node.blocks if node.blocks.sizes else None
    major, minor = node.rdev
    size = node.size if node.is_file else 0
    codec = blocks.codec if blocks else 0
    head = _HEAD.pack(
        node.mode, node.uid, node.gid, node.mtime_s, node.mtime_ns, size, major, minor, codec, link
    )
    parts = [head, node.target]
    parts += [part for pair in sorted(node.xattrs.items()) for part in pair]
    if blocks:
        parts += [bytes(blocks.ids), bytes(blocks.keys), struct.pack(f"<{len(blocks)}I", *blocks.sizes)]
    for name, child in sorted((node.children or {}).items()):
        parts += [name, digests[id(child)]]
    return _hash(b"g8 flist entry 1", parts)


def _hash(purpose: bytes, parts: Iterable[bytes]) -> bytes:
    """Every part with its length in front: what stands in one cannot look like another."""
    state = hashlib.blake2b(digest_size=_DIGEST, person=purpose)
    for part in parts:
        state.update(_SIZE.pack(len(part)))
        state.update(part)
    return state.digest()
