"""`g8 flist`: pack, and the commands of the other modules (blocking)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from g8node.errors import InvalidArgument
from g8tools.flist import change, look, stores, trust
from g8tools.flist.common import check_out, packing
from g8tools.g8 import console

if TYPE_CHECKING:
    from g8node.flist.pack import PackOptions, PackResult
    from g8node.wire.router import Router

app = typer.Typer(help="Make flists and look into them.", no_args_is_help=True, rich_markup_mode=None)


look.register(app)
change.register(app)
stores.register(app)
trust.register(app)


@app.command()
def pack(
    source: Annotated[
        Path, typer.Argument(help="A folder, a tar archive (gz, bz2, xz, zst too) or an OCI image layout.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.flist", help="The flist to write.")],
    store: Annotated[
        list[str],
        typer.Option(metavar="DIR|URL", help="Where the chunks go: every store given gets them."),
    ],
    token_file: Annotated[Path | None, typer.Option(help="Token for a Hub.")] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="Publisher's secret: keeps equal files of strangers apart.")
    ] = None,
    info: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Free metadata, as entrypoint=/init.")
    ] = None,
    level: Annotated[int, typer.Option(min=0, max=19, help="zstd level; 0 stores raw.")] = 3,
    split: Annotated[str, typer.Option(help="fixed: every 512 KiB; cdc: by content.")] = "fixed",
    ignore_file: Annotated[
        list[Path] | None, typer.Option(help="Patterns to leave out, as in .gitignore; may be repeated.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="One more pattern.")] = None,
    router_file: Annotated[Path | None, typer.Option(help="router.yaml to write into the flist.")] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(metavar="[XX-XX=]URL", help="A store that readers find the chunks in; may be repeated."),
    ] = None,
    keep_credentials: Annotated[
        bool, typer.Option("--keep-credentials", help="Leave passwords and tokens in the routes.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.", callback=console.json_asked)] = False,
) -> None:
    """Pack a tree into an flist file and its chunks."""
    from g8node.flist.pack import PackOptions
    from g8node.wire.ignore import Ignore
    from g8tools.hub.cli_common import read_token, store_address

    if not source.exists():
        raise InvalidArgument(f"{source}: no such file or folder")
    check_out(out)
    wrong = next((pair for pair in info or [] if not all(pair.partition("=")[:2])), None)
    if wrong is not None:
        raise InvalidArgument(f"--info {wrong}: expected KEY=VALUE")
    if split not in ("fixed", "cdc"):
        raise InvalidArgument(f"--split {split}: expected fixed or cdc")
    patterns = [line for path in ignore_file or [] for line in path.read_bytes().splitlines()]
    options = PackOptions(
        secret=_secret(secret_file) if secret_file else b"",
        level=level,
        info=dict(pair.split("=", 1) for pair in info or []),
        by_content=split == "cdc",
        ignore=Ignore([*patterns, *(ignore or [])]),
        router=_router(router_file, route or [], keep_credentials),
    )
    where = " ".join(map(store_address, store))
    done = console.run_async(_pack(source, out, where, read_token(token_file), options))
    moved = done.progress
    console.show(
        {
            "flist": str(out),
            "digest": done.digest,
            "entries": done.entries,
            "chunks": moved.chunks,
            "new_chunks": moved.new_chunks,
            "new_bytes": moved.new_bytes,
        },
        json=json,
        text=f"{out} {done.digest}: {done.entries} entries, {moved.read_bytes} bytes, {moved.chunks} chunks,"
        f" {moved.new_chunks} of them new ({moved.new_bytes} bytes stored)",
    )


def _secret(file: Path) -> bytes:
    """What an empty file would leave unkeyed is refused."""
    if not (secret := file.read_bytes().strip()):
        raise InvalidArgument(f"--secret-file {file}: expected a secret of 1 to 64 bytes, found none")
    return secret


def _router(file: Path | None, routes: list[str], keep_credentials: bool) -> "Router | None":
    """What the flist is to say of its stores; without credentials, unless they are wanted."""
    from g8node.wire.router import merged, of_stores, parse_router, parse_store, stripped

    routers = [parse_router(file.read_bytes())] if file else []
    if routes:
        routers.append(of_stores(map(parse_store, routes)))
    if not routers:
        return None
    router = routers[0] if len(routers) == 1 else merged(routers)
    return router if keep_credentials else stripped(router)


async def _pack(source: Path, out: Path, where: str, token: str, options: "PackOptions") -> "PackResult":
    from dataclasses import replace

    from g8node.flist.pack import pack as packed
    from g8node.store.stores import Stores

    target = Stores().open(where, token=token)
    try:
        with packing(f"pack {source}") as told:
            return await packed(str(source), str(out), target, replace(options, progress=told))
    finally:
        await target.close()
