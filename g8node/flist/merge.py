"""Several flists as one, and the difference between two (pure).

`merge` is the Hub's rule, the first wins; `layer` is that of mounts, the last lies on top. Both unite
directories by name and neither knows whiteouts. Chunks are not touched: files keep their codecs.
"""

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from g8node.errors import InvalidArgument
from g8node.flist.merkle import MERKLE_KEY
from g8node.flist.tree import Flist, Node, walk
from g8node.wire.router import Router, merged


def merge(flists: Sequence[Flist]) -> Flist:
    """The first wins: its files hide later ones, its directories keep their attributes, its metadata."""
    return _united(flists)


def layer(flists: Sequence[Flist]) -> Flist:
    """The last wins: its files hide earlier ones, directories take its attributes, its metadata counts."""
    return _united(list(reversed(flists)))


def _united(flists: Sequence[Flist]) -> Flist:
    """By strength, the strongest first."""
    if not flists:
        raise InvalidArgument("nothing to unite")
    root = flists[0].root
    for weaker in flists[1:]:
        root = _over(root, weaker.root)
    routers = [flist.router for flist in flists if flist.router is not None]
    info = {key: value for key, value in flists[0].info.items() if key != MERKLE_KEY}
    return Flist(root, info, _router(routers))


def _router(routers: Sequence[Router]) -> Router | None:
    """One router alone keeps its names; several are asked one after the other."""
    distinct = [router for at, router in enumerate(routers) if router not in routers[:at]]
    if len(distinct) < 2:
        return distinct[0] if distinct else None
    return merged(distinct)


def _over(strong: Node, weak: Node) -> Node:
    """A new directory of both; no node of either is changed, subtrees are shared."""
    root = replace(strong, children=dict(strong.children or {}))
    stack = [(root, weak)]
    while stack:
        into, other = stack.pop()
        assert into.children is not None
        for name, node in (other.children or {}).items():
            known = into.children.get(name)
            if known is None:
                into.children[name] = node
            elif known.children is not None and node.children is not None:
                both = into.children[name] = replace(known, children=dict(known.children))
                stack.append((both, node))
    return root


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. `what`: added, removed, or the fields that changed."""

    path: bytes
    what: tuple[str, ...]


def diff(old: Flist, new: Flist) -> Iterator[Change]:
    """What one must do to `old` to get `new`, in the order of paths; metadata as path-less changes first."""
    for key in sorted(old.info.keys() | new.info.keys()):
        if key != MERKLE_KEY and old.info.get(key) != new.info.get(key):
            yield Change(b"", (f"metadata {key}",))
    before, after = dict(walk(old.root)), dict(walk(new.root))
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            yield Change(path, ("removed",))
        elif path not in before:
            yield Change(path, ("added",))
        elif changed := tuple(_differences(before[path], after[path])):
            yield Change(path, changed)


def _differences(old: Node, new: Node) -> Iterator[str]:
    if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
        yield "kind"
        return
    fields: Mapping[str, tuple[object, object]] = {
        "mode": (old.mode, new.mode),
        "owner": ((old.uid, old.gid), (new.uid, new.gid)),
        "mtime": ((old.mtime_s, old.mtime_ns), (new.mtime_s, new.mtime_ns)),
        "xattrs": (dict(old.xattrs), dict(new.xattrs)),
        "target": (old.target, new.target),
        "device": (old.rdev, new.rdev),
    }
    yield from (name for name, (one, other) in fields.items() if one != other)
    if old.is_file and _content(old) != _content(new):
        yield "content"


def _content(node: Node) -> tuple[object, ...]:
    # Keys are digests of the plain text; files of different codecs cannot be compared and count as changed.
    return (node.size, bytes(node.blocks.keys), node.blocks.sizes)
