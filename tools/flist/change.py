"""`g8 flist` merge, layer, convert and edit: new flists from old ones (blocking, contents async)."""

import json as text
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from g8node.errors import AlreadyExists, InvalidArgument
from g8tools.flist.common import (
    FlistArgument,
    JsonOption,
    StoreOption,
    TokenOption,
    check_out,
    opened,
    packing,
    read,
)
from g8tools.g8 import console

if TYPE_CHECKING:
    from g8node.flist.container import Format
    from g8node.flist.convert import Converted
    from g8node.flist.tree import Flist, Node

edit_app = typer.Typer(help="Change an flist in place.", no_args_is_help=True, rich_markup_mode=None)
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="The flist to write.")]
Sources = Annotated[list[str], typer.Argument(metavar="FLIST...", help="Two flists or more.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FLIST", help="The flist file to change.")]
FromArgument = Annotated[str, typer.Argument(metavar="FROM", help="A path in the flist.")]
ToArgument = Annotated[
    str, typer.Argument(metavar="TO", help="Its new path in the flist; the folder must be there.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
LossyOption = Annotated[bool, typer.Option("--lossy", help="Leave out what the format cannot hold.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(merge)
    app.command()(layer)
    app.command()(convert)
    edit_app.command()(put)
    edit_app.command("rm")(remove)
    edit_app.command("mv")(move)
    edit_app.command("cp")(copy)
    edit_app.command()(chmod)
    edit_app.command("set")(set_)
    app.add_typer(edit_app, name="edit")


def merge(out: OutArgument, flists: Sources, json: JsonOption = False) -> None:
    """Unite flists; of files with one name the FIRST wins, as on the Hub."""
    from g8node.flist.merge import merge as united

    _write(united([read(flist) for flist in _several(flists)]), out, json)


def layer(out: OutArgument, flists: Sources, json: JsonOption = False) -> None:
    """Unite flists; of files with one name the LAST wins, as layers of a mount."""
    from g8node.flist.merge import layer as united

    _write(united([read(flist) for flist in _several(flists)]), out, json)


def _several(flists: list[str]) -> list[str]:
    if len(flists) < 2:
        raise InvalidArgument("expected two flists or more")
    return flists


def _write(flist: "Flist", out: Path, json: bool) -> None:
    from g8node.flist.container import write_flist
    from g8node.flist.merkle import sealed
    from g8tools.flist.contents import count

    write_flist(sealed(flist), str(out))
    entries = count(flist.root)
    console.show({"flist": str(out), "entries": entries}, json=json, text=f"{out}: {entries} entries")


def convert(
    flist: FlistArgument,
    out: OutArgument,
    to: Annotated[str, typer.Option("--to", help="g8, v2 (sqlite in a tar) or v3 (.fl).")] = "g8",
    store: StoreOption = "",
    into: Annotated[str, typer.Option(metavar="DIR|URL", help="Where new chunks go; default: --store.")] = "",
    lossy: LossyOption = False,
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Write an flist in another format; chunks are encoded anew where it needs others."""
    form = _format(to)
    check_out(out)
    found = read(flist)
    done = console.run_async(_convert(found, out, form, store, into, lossy, token_file))
    lines = [f"{out}: {form}, {done.chunks} chunks encoded anew"]
    lines += _left_out(done)
    value = {"flist": str(out), "format": form, "chunks": done.chunks, "lost": done.losses}
    console.show(value, json=json, text="\n".join(lines))


def _left_out(done: "Converted") -> list[str]:
    return [f"left out: {kind}: {', '.join(paths)}" for kind, paths in done.losses.items()]


def _format(name: str) -> "Format":
    from g8node.flist.container import FORMATS

    for form in FORMATS:
        if form == name:
            return form
    raise InvalidArgument(f"--to {name}: expected one of {', '.join(FORMATS)}")


async def _convert(
    flist: "Flist", out: Path, form: "Format", store: str, into: str, lossy: bool, token_file: Path | None
) -> "Converted":
    from g8node.flist.convert import convert as converted

    async with (
        opened(store, flist.router, token_file) as source,
        opened(into or store, None, token_file) as target,
    ):
        with console.progress(f"convert to {form}") as bar:
            before = 0

            def told(done: int, total: int) -> None:
                nonlocal before
                bar.total(total)
                bar.advance(done - before)
                before = done

            return await converted(
                flist, str(out), form, source=source, target=target, lossy=lossy, progress=told
            )


def put(
    flist: FileArgument,
    source: Annotated[Path, typer.Argument(help="A file or folder of this machine.")],
    path: Annotated[str, typer.Argument(help="Its path in the flist; its folder must be there.")],
    store: Annotated[str, typer.Option(metavar="DIR|URL", help="Where the chunks go.")],
    force: ForceOption = False,
    lossy: LossyOption = False,
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Put a file or folder into an flist."""
    found = read(str(flist))
    folder, name = _free_place(found.root, path, force)

    async def run() -> "Node":
        from g8node.flist.pack import PackOptions, pack_tree

        async with opened(store, None, token_file) as chunks:
            assert chunks is not None
            with packing(f"put {path}") as told:
                options = PackOptions(progress=told)
                return (await pack_tree(str(source), chunks, options, single=not source.is_dir())).root

    if not os.path.lexists(source):  # a link may lead to what only the container has
        raise InvalidArgument(f"{source}: no such file or folder")
    root = console.run_async(run())
    folder[name] = root if source.is_dir() else next(iter((root.children or {}).values()))
    _rewrite(found, flist, store, json, f"put {path}", lossy=lossy)


def remove(
    flist: FileArgument,
    path: Annotated[str, typer.Argument(help="A path in the flist.")],
    recursive: Annotated[bool, typer.Option("-r", help="A folder with all that is in it.")] = False,
    lossy: LossyOption = False,
    json: JsonOption = False,
) -> None:
    """Take a path out of an flist. Its chunks stay in the store."""
    from g8node.flist.read import find

    found = read(str(flist))
    folder, name = _place(found.root, path)
    node = find(found.root, path)
    if node.children and not recursive:
        raise InvalidArgument(f"{path} is a folder that is not empty", hint="-r takes all of it")
    del folder[name]
    _rewrite(found, flist, "", json, f"rm {path}", lossy=lossy)


def move(
    flist: FileArgument,
    old: FromArgument,
    new: ToArgument,
    force: ForceOption = False,
    lossy: LossyOption = False,
    json: JsonOption = False,
) -> None:
    """Give a file or folder of an flist another path."""
    found = read(str(flist))
    folder, name = _place(found.root, old)
    node = _not_into_itself(found.root, old, new)
    into, other = _free_place(found.root, new, force)
    del folder[name]
    into[other] = node
    _rewrite(found, flist, "", json, f"mv {old} {new}", lossy=lossy)


def copy(
    flist: FileArgument,
    old: FromArgument,
    new: ToArgument,
    force: ForceOption = False,
    lossy: LossyOption = False,
    json: JsonOption = False,
) -> None:
    """Copy a file or folder within an flist; its chunks are there already."""
    from g8node.flist.tree import copied

    found = read(str(flist))
    node = _not_into_itself(found.root, old, new)
    into, other = _free_place(found.root, new, force)
    into[other] = copied(node)
    _rewrite(found, flist, "", json, f"cp {old} {new}", lossy=lossy)


def _not_into_itself(root: "Node", old: str, new: str) -> "Node":
    """What is at the old path."""
    from g8node.flist.read import find

    one, other = (tuple(filter(None, path.split("/"))) for path in (old, new))
    if other[: len(one)] == one:
        raise InvalidArgument(f"{new} is {old} or in it")
    return find(root, old)


def chmod(
    flist: FileArgument,
    mode: Annotated[str, typer.Argument(help="Octal, as 0755.")],
    path: Annotated[str, typer.Argument(help="A path in the flist.")],
    owner: Annotated[str, typer.Option(metavar="UID:GID", help="Change the owner too.")] = "",
    lossy: LossyOption = False,
    json: JsonOption = False,
) -> None:
    """Change a path's permission bits."""
    from g8node.flist.read import find

    if not mode or len(mode) > 5 or mode.strip("01234567"):
        raise InvalidArgument(f"mode {mode}: expected up to four octal digits")
    found = read(str(flist))
    node = find(found.root, path)
    node.mode = node.mode & ~0o7777 | int(mode, 8) & 0o7777
    if owner:
        uid, _, gid = owner.partition(":")
        if not (uid.isdigit() and gid.isdigit() and max(int(uid), int(gid)) < 1 << 32):
            raise InvalidArgument(f"--owner {owner}: expected UID:GID, two numbers")
        node.uid, node.gid = int(uid), int(gid)
    _rewrite(found, flist, "", json, f"chmod {path}", lossy=lossy)


def set_(
    flist: FileArgument,
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="An empty value takes it out.")],
    lossy: LossyOption = False,
    json: JsonOption = False,
) -> None:
    """Change free metadata, as entrypoint or environ."""
    from g8node.flist.tree import Flist

    found = read(str(flist))
    info = dict(found.info)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidArgument(f"{pair}: expected KEY=VALUE")
        info[key] = value
        if not value:
            del info[key]
    changed = Flist(found.root, info, found.router, found.version)
    _rewrite(changed, flist, "", json, "metadata changed", lossy=lossy)


def _free_place(root: "Node", path: str, force: bool) -> "tuple[dict[bytes, Node], bytes]":
    """As `_place`, of a name that is not there, or may be replaced."""
    folder, name = _place(root, path)
    if name in folder and not force:
        raise AlreadyExists(f"{path} exists", hint="--force replaces it")
    return folder, name


def _place(root: "Node", path: str) -> "tuple[dict[bytes, Node], bytes]":
    """The folder's names, and the name in it."""
    from g8node.flist.read import find
    from g8node.wire.flist import check_name

    folder, _, name = path.strip("/").rpartition("/")
    node = find(root, folder)
    if node.children is None:
        raise InvalidArgument(f"{folder} is no folder")
    raw = os.fsencode(name)
    check_name(raw, path)
    return node.children, raw


def _rewrite(flist: "Flist", path: Path, store: str, json: bool, done: str, *, lossy: bool) -> None:
    """In the format that it had; what v1 was becomes ours."""
    form = _format("g8" if flist.version == "v1" else flist.version)
    made = console.run_async(_convert(flist, path, form, store, "", lossy, None))
    value: dict[str, Any] = {"flist": str(path), "format": form, "done": done, "lost": made.losses}
    lines = [f"{path}: {text.dumps(done)[1:-1]}", *_left_out(made)]
    console.show(value, json=json, text="\n".join(lines))
