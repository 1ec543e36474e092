"""`g8 fs …` (blocking): files of a node and of containers.

A path of the node is written as it is, one inside a container as CONTAINER:PATH. For `cp`, where one side is
local, the node's side has a colon as well: `:PATH`.
"""

import contextlib
import os
import posixpath
import stat as bits
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from g8node.errors import InvalidArgument, NotFound
from g8tools.g8 import console
from g8tools.g8.frame import Node, command, group

if TYPE_CHECKING:
    from g8tools.g8.flow import Blocking
    from g8tools.g8.managers.filesystem import Filesystem

    Files = Filesystem[Blocking]

_PATIENT_S: Final = 60.0

Path = Annotated[str, typer.Argument(metavar="[CONTAINER:]PATH", help="On the node, or inside a container.")]


class Place(NamedTuple):
    """A side of a copy. `container` is None for a local one, "" for the node."""

    container: str | None
    path: str

    @property
    def is_std(self) -> bool:
        return self.container is None and self.path == "-"


def place(text: str) -> Place:
    """`PATH`, `:PATH` or `CONTAINER:PATH`."""
    container, colon, path = text.partition(":")
    if not colon or "/" in container:
        return Place(None, text)
    if not path:
        raise InvalidArgument(f"{text}: expected a path after the colon")
    return Place(container, path)


def _remote(node: Node, text: str) -> "tuple[Files, str]":
    """The files that a path of `ls` and the like is about, and the path there."""
    where = place(text)
    inside: Any = node.inside(where.container or "")
    if node.timeout is None:
        inside.timeout = _PATIENT_S
    return inside.filesystem, where.path


def ls(
    node: Node,
    path: Path = "/",
    long: Annotated[bool, typer.Option("--long", "-l", help="With permissions and sizes.")] = False,
) -> None:
    """List a folder."""
    files, path = _remote(node, path)
    rows = files.list(path)
    if not long:
        names = [f"{row['name']}/" if row["is_dir"] else str(row["name"]) for row in rows]
        node.show(rows, "\n".join(names))
        return
    table = [("MODE", "SIZE", "NAME")]
    table += [(_mode(row), console.amount(row["size"]), str(row["name"])) for row in rows]
    node.show(rows, console.table(table, right=frozenset({1})))


def _mode(row: dict[str, Any]) -> str:
    kind = bits.S_IFDIR if row["is_dir"] else bits.S_IFREG
    return bits.filemode(kind | int(row["mode"]))


def stat(node: Node, path: Path) -> None:
    """Show size and permissions."""
    files, path = _remote(node, path)
    row = entry(files, path)
    if row is None:
        raise NotFound(f"{path}: no such file or folder")
    pairs = [
        ("path", path),
        ("type", "folder" if row["is_dir"] else "file"),
        ("size", f"{row['size']} ({console.amount(row['size'])})"),
        ("mode", f"{int(row['mode']):04o} {_mode(row)}"),
    ]
    node.show({"path": path, **row}, console.fields(pairs))


def entry(files: "Files", path: str) -> dict[str, Any] | None:
    """What the folder above says of a path; None when it is not there."""
    path = posixpath.normpath(posixpath.join("/", path))
    if path == "/":
        return {"name": "/", "size": 0, "mode": 0o755, "is_dir": True}
    if not files.exists(posixpath.dirname(path)):
        return None
    name = posixpath.basename(path)
    return next((row for row in files.list(posixpath.dirname(path)) if row["name"] == name), None)


def cat(node: Node, path: Path) -> None:
    """Print a file."""
    files, path = _remote(node, path)
    if node.json:
        import io

        text = io.BytesIO()
        files.download(path, text)
        node.show({"path": path, "text": text.getvalue().decode("utf-8", "replace")})
        return
    files.download(path, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def rm(
    node: Node,
    path: Path,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders too.")] = False,
) -> None:
    """Remove a file, or with -r a folder."""
    files, path = _remote(node, path)
    row = entry(files, path)
    if row is None:
        raise NotFound(f"{path}: no such file or folder")
    if row["is_dir"] and not recursive:
        raise InvalidArgument(f"{path}: is a folder", hint="-r")
    files.remove(path)
    node.done(path=path)


def mkdir(node: Node, path: Path) -> None:
    """Make a folder and those above it."""
    files, path = _remote(node, path)
    files.mkdir(path)
    node.done(path=path)


def mv(
    node: Node,
    path: Path,
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="A path in the same place.")],
) -> None:
    """Rename within one file system."""
    files, path = _remote(node, path)
    files.move(path, destination)
    node.done(path=path, destination=destination)


def chmod(
    node: Node,
    mode: Annotated[str, typer.Argument(metavar="MODE", help="Octal, as 755.")],
    path: Path,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="All that is below, too.")] = False,
) -> None:
    """Set permissions."""
    try:
        number = int(mode, 8)
    except ValueError:
        raise InvalidArgument(f"{mode}: expected octal digits, as 755") from None
    files, path = _remote(node, path)
    files.chmod(path, number, recursive)
    node.done(path=path, mode=number)


def chown(
    node: Node,
    owner: Annotated[str, typer.Argument(metavar="USER:GROUP", help="Names that the node knows.")],
    path: Path,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="All that is below, too.")] = False,
) -> None:
    """Set owner and group."""
    user, colon, name = owner.partition(":")
    if not (user and colon and name):
        raise InvalidArgument(f"{owner}: expected USER:GROUP")
    files, path = _remote(node, path)
    files.chown(path, user, name, recursive)
    node.done(path=path, user=user, group=name)


def cp(
    node: Node,
    source: Annotated[str, typer.Argument(metavar="FROM", help="Local, or [CONTAINER]:PATH; - is stdin.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Local, or [CONTAINER]:PATH; - is stdout.")],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders too.")] = False,
) -> None:
    """Copy files to or from a node.

    `g8 fs cp ./motd :/etc/motd`, `g8 fs cp -r 3:/var/log .` from container 3.
    """
    one, other = place(source), place(target)
    if (one.container is None) == (other.container is None):
        raise InvalidArgument(
            "cp: expected one local side, and one with a colon", hint=":/path is the node's"
        )
    files, _ = _remote(node, source if one.container is not None else target)
    if one.container is None:
        copies = _uploads(files, one, other.path, recursive=recursive)
    else:
        copies = _downloads(files, one.path, other, recursive=recursive)
    count = total = 0
    for label, size, work in copies:
        if other.is_std:
            work(lambda _count: None)
            continue
        with console.progress(label, count_bytes=True) as bar:
            if size:
                bar.total(size)
            work(bar.advance)
        count, total = count + 1, total + size
    node.done(files=count, bytes=total)


Copy = tuple[str, int, Any]


def _uploads(files: "Files", local: Place, remote: str, *, recursive: bool) -> Iterator[Copy]:
    if local.is_std:
        yield "stdin", 0, lambda told: files.upload(remote, sys.stdin.buffer, told)
        return
    source = os.path.abspath(local.path)
    size = os.stat(local.path).st_size  # says what is wrong with the path
    if remote.endswith("/") or _is_folder(files, remote):
        remote = posixpath.join(remote, os.path.basename(source))
    if not os.path.isdir(source):
        yield os.path.basename(source), size, lambda told: files.upload_file(remote, source, told)
        return
    _must(recursive, local.path)
    for folder, _, names in os.walk(source):
        below = os.path.relpath(folder, source)
        there = posixpath.normpath(posixpath.join(remote, below))
        files.mkdir(there)
        for name in sorted(names):
            here, end = os.path.join(folder, name), posixpath.join(there, name)
            if os.path.isfile(here):
                label = os.path.normpath(os.path.join(below, name))
                yield label, os.stat(here).st_size, _upload(files, end, here)


def _upload(files: "Files", remote: str, local: str) -> Any:
    return lambda told: files.upload_file(remote, local, told)


def _downloads(files: "Files", remote: str, local: Place, *, recursive: bool) -> Iterator[Copy]:
    if local.is_std:
        yield remote, 0, lambda told: files.download(remote, sys.stdout.buffer, told)
        return
    name = posixpath.basename(remote.rstrip("/")) or "root"
    target = os.path.join(local.path, name) if os.path.isdir(local.path) else local.path
    if _is_folder(files, remote):
        _must(recursive, remote)
        yield from _download_folder(files, remote, target, "")
        return
    row = entry(files, remote)
    size = int(row["size"]) if row else 0
    yield name, size, lambda told: files.download_file(remote, target, told)


def _download_folder(files: "Files", remote: str, local: str, label: str) -> Iterator[Copy]:
    os.makedirs(local, exist_ok=True)
    for row in files.list(remote):
        name = str(row["name"])
        if "/" in name or name in ("", ".", ".."):
            raise InvalidArgument(f"the node lists {name!r} in {remote}")
        there, here = posixpath.join(remote, name), os.path.join(local, name)
        below = posixpath.join(label, name)
        if row["is_dir"]:
            yield from _download_folder(files, there, here, below)
        else:
            yield below, int(row["size"]), _download(files, there, here)


def _download(files: "Files", remote: str, local: str) -> Any:
    return lambda told: files.download_file(remote, local, told)


def _is_folder(files: "Files", path: str) -> bool:
    from g8tools.g8.client import ResultError

    with contextlib.suppress(ResultError):
        files.list(path)
        return True
    return False


def _must(recursive: bool, path: str) -> None:
    if not recursive:
        raise InvalidArgument(f"{path}: is a folder", hint="-r")


def register(app: typer.Typer) -> None:
    """Put these commands into the tool."""
    files = group(app, "fs", "Files of a node and of its containers.")
    for function in (ls, cat, cp, rm, mv, mkdir, stat, chmod, chown):
        command(files, function.__name__)(function)
