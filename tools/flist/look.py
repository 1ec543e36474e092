"""`g8 flist` ls, tree, stat, find, cat, get, info, diff: looking into flists (blocking, contents async)."""

import fnmatch
import hashlib
import os
import stat as stats
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from g8node.errors import AlreadyExists, InvalidArgument
from g8tools.flist.common import (
    FlistArgument,
    JsonOption,
    StoreOption,
    TokenOption,
    local,
    opened,
    read,
    router_lines,
)
from g8tools.g8 import console

if TYPE_CHECKING:
    from g8node.flist.tree import Flist, Node

PathArgument = Annotated[str, typer.Argument(help="A path in the flist.")]
_KINDS = {"f": stats.S_IFREG, "d": stats.S_IFDIR, "l": stats.S_IFLNK, "b": stats.S_IFBLK}
_KINDS |= {"c": stats.S_IFCHR, "p": stats.S_IFIFO, "s": stats.S_IFSOCK}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("ls")(list_)
    for command in (tree, stat, find, cat, get, info, diff):
        app.command()(command)


def list_(flist: FlistArgument, path: PathArgument = "/", json: JsonOption = False) -> None:
    """List every name in an flist, or below a path, as `ls -l` would."""
    from g8node.flist.read import find as node_at
    from g8tools.flist.contents import lines, long_format

    top = b"/".join(filter(None, os.fsencode(path).split(b"/")))
    found = list(lines(node_at(read(flist).root, top), top))
    console.show(found, json=json, text="\n".join(map(long_format, found)))


def tree(flist: FlistArgument, path: PathArgument = "/", json: JsonOption = False) -> None:
    """Draw the tree."""
    from g8node.flist.read import find as node_at
    from g8tools.flist.contents import safe

    root = node_at(read(flist).root, path)
    if json or console.is_json():
        console.show(_nested(root), json=True)
        return
    print(path)
    stack: list[tuple[str, list[tuple[bytes, Node]]]] = [("", _sorted(root))]
    while stack:
        indent, left = stack[-1]
        if not left:
            stack.pop()
            continue
        name, node = left.pop(0)
        arrow = f" -> {safe(node.target)}" if node.target else ""
        print(f"{indent}{'├── ' if left else '└── '}{safe(name)}{arrow}")
        if node.children:
            stack.append((indent + ("│   " if left else "    "), _sorted(node)))


def _sorted(node: "Node") -> "list[tuple[bytes, Node]]":
    return sorted((node.children or {}).items())


def _nested(root: "Node") -> dict[str, Any]:
    from g8tools.flist.contents import safe

    top: dict[str, Any] = {}
    stack = [(root, top)]
    while stack:
        node, into = stack.pop()
        for name, child in _sorted(node):
            below: dict[str, Any] = {}
            into[safe(name)] = below if child.children is not None else child.size
            if child.children is not None:
                stack.append((child, below))
    return top


def stat(flist: FlistArgument, path: PathArgument, json: JsonOption = False) -> None:
    """Everything about one path."""
    from g8node.flist.read import find as node_at
    from g8tools.flist.contents import line_of, safe

    node = node_at(read(flist).root, path)
    line = line_of(path.strip("/").encode("utf-8", "surrogateescape"), node)
    found = {
        "path": line.path,
        "mode": line.mode,
        "uid": line.uid,
        "gid": line.gid,
        "size": line.size,
        "mtime": f"{node.mtime_s}.{node.mtime_ns:09}",
        "target": line.target,
        "device": "{}:{}".format(*node.rdev) if any(node.rdev) else "",
        "xattrs": {safe(name): value.hex() for name, value in sorted(node.xattrs.items())},
        "codec": node.blocks.codec.name.lower() if node.blocks.sizes else "",
        "chunks": [bytes(node.blocks.ids)[at : at + 32].hex() for at in range(0, len(node.blocks.ids), 32)],
    }
    shown = [(key, value) for key, value in found.items() if isinstance(value, str | int)]
    text = console.fields([(key, str(value)) for key, value in shown] + [("chunks", str(len(node.blocks)))])
    console.show(found, json=json, text=text)


def find(
    flist: FlistArgument,
    name: Annotated[str, typer.Option(help="Pattern of the last name, as *.conf.")] = "*",
    kind: Annotated[str, typer.Option("--type", help="f, d, l, b, c, p or s.")] = "",
    larger: Annotated[int, typer.Option(min=0, help="Files of at least so many bytes.")] = 0,
    json: JsonOption = False,
) -> None:
    """Paths that fit, one a line."""
    from g8node.flist.tree import walk
    from g8tools.flist.contents import safe

    if kind and kind not in _KINDS:
        raise InvalidArgument(f"--type {kind}: expected one of {' '.join(_KINDS)}")
    found = [
        "/" + safe(path)
        for path, node in walk(read(flist).root)
        if fnmatch.fnmatchcase(safe(path.rpartition(b"/")[2]), name)
        and (not kind or stats.S_IFMT(node.mode) == _KINDS[kind])
        and (node.size if node.is_file else 0) >= larger
    ]
    console.show(found, json=json, text="\n".join(found))


def cat(
    flist: FlistArgument, path: PathArgument, store: StoreOption = "", token_file: TokenOption = None
) -> None:
    """Write a file's content to standard output."""
    from g8node.flist.read import content
    from g8node.flist.read import find as node_at

    async def run() -> None:
        found = read_now
        node = node_at(found.root, path)
        async with opened(store, found.router, token_file) as chunks:
            async for piece in content(path.encode("utf-8", "surrogateescape"), node, chunks):
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    read_now = read(flist)
    console.run_async(run())


def get(
    flist: FlistArgument,
    path: PathArgument,
    out: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    store: StoreOption = "",
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Copy a file or a folder out of an flist. Owners are kept when you are root."""
    from g8node.flist.read import find as node_at
    from g8node.flist.tree import walk
    from g8tools.flist.extract import extract

    if os.path.lexists(out):
        raise AlreadyExists(f"{out} exists")
    found = read(flist)
    node = node_at(found.root, path)

    async def run() -> int:
        async with opened(store, found.router, token_file) as chunks:
            total = sum({id(n): n.size for _, n in walk(node) if n.is_file}.values())
            with console.progress(f"get {path}", count_bytes=True) as bar:
                bar.total(total)
                return await extract(node, str(out), chunks, bar.advance)

    written = console.run_async(run())
    console.show({"path": str(out), "bytes": written}, json=json, text=f"{out}: {written} bytes")


def info(flist: FlistArgument, json: JsonOption = False) -> None:
    """What an flist is: format, sizes, digests, metadata, where its chunks are."""
    from g8node.flist.merkle import MERKLE_KEY, merkle_root

    with local(flist) as path:
        from g8node.flist.container import read_flist

        found = read_flist(path)
        with open(path, "rb") as source:
            digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
    shown = {
        "format": found.version,
        "digest": digest,
        "merkle": merkle_root(found).hex(),
        **_counted(found),
        "metadata": {key: value for key, value in found.info.items() if key != MERKLE_KEY},
        "stores": router_lines(found.router),
    }
    plain = [(key, str(value)) for key, value in shown.items() if isinstance(value, str | int)]
    plain += [(key, value) for key, value in found.info.items() if key != MERKLE_KEY]
    plain += [
        ("store", f"{line['pool']} {line['range']} {line['url']}") for line in router_lines(found.router)
    ]
    console.show(shown, json=json, text=console.fields(plain))


def _counted(flist: "Flist") -> dict[str, Any]:
    from g8node.flist.tree import walk

    kinds: Counter[str] = Counter()
    codecs: Counter[str] = Counter()
    chunks: set[bytes] = set()
    size = seen_size = 0
    seen: set[int] = set()
    for _, node in walk(flist.root):
        kinds[_kind(node)] += 1
        size += node.size if node.is_file else 0
        if id(node) in seen:
            continue
        seen.add(id(node))
        seen_size += node.size if node.is_file else 0
        codecs[node.blocks.codec.name.lower()] += len(node.blocks)
        ids = bytes(node.blocks.ids)
        chunks.update(ids[at : at + 32] for at in range(0, len(ids), 32))
    chunks.discard(bytes(32))
    kinds_found = {kind: kinds[kind] for kind in ("files", "directories", "links", "special")}
    used = ", ".join(name for name, count in codecs.items() if count)
    return {**kinds_found, "bytes": size, "distinct_bytes": seen_size, "chunks": len(chunks), "codecs": used}


def _kind(node: "Node") -> str:
    if node.is_file:
        return "files"
    if node.children is not None:
        return "directories"
    return "links" if stats.S_ISLNK(node.mode) else "special"


def diff(
    old: Annotated[str, typer.Argument(help="The flist before.")],
    new: Annotated[str, typer.Argument(help="The flist after.")],
    json: JsonOption = False,
) -> None:
    """What differs between two flists. Exit code 1 when something does."""
    from g8node.flist.merge import diff as compared
    from g8tools.flist.contents import safe

    found = [
        {"path": "/" + safe(change.path), "what": list(change.what)}
        for change in compared(read(old), read(new))
    ]
    text = "\n".join(f"{line['path']}  {', '.join(line['what'])}" for line in found)
    console.show(found, json=json, text=text)
    if found:
        raise typer.Exit(1)
