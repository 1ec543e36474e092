"""`g8 hub serve`, `push`, `pull` and `profile` (blocking); the rest is in `cli_changes`."""

import base64
from pathlib import Path
from typing import Annotated, Final

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import console
from g8tools.g8.frame import Node, command
from g8tools.hub import cli_changes
from g8tools.hub.cli_common import Json, TokenFile, read_token, store_address

app = typer.Typer(
    help="Publish flists on a Hub, fetch them, serve one.", no_args_is_help=True, rich_markup_mode=None
)

_PROFILE_S: Final = 60.0


@app.command()
def serve(
    data: Annotated[Path, typer.Option(help="Folder for flists and chunks; made if absent.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 picks one.")] = "127.0.0.1:5555",
    token_file: Annotated[
        Path | None, typer.Option(help="Lines token[:user]; without it the Hub is read-only.")
    ] = None,
    chunks_file: Annotated[
        Path | None, typer.Option(help="Addresses of the stores for chunks, instead of a folder in DATA.")
    ] = None,
) -> None:
    """Serve flists and chunks over HTTP until SIGTERM."""
    from g8node.runtime import logs
    from g8tools.g8.connection import parse_address
    from g8tools.hub import app as hub

    logs.configure()
    chunks = chunks_file.read_text("utf-8") if chunks_file else ""
    if chunks_file and not chunks.strip():
        raise InvalidArgument(f"{chunks_file}: no address in it")
    host, port = parse_address(listen, default_port=5555, lowest_port=0)
    with hub.listen(host, port) as listener:
        console.run_async(hub.serve(data, listener, token_file, chunks))


@app.command()
def push(
    flist: Annotated[Path, typer.Argument(help="The flist file.")],
    hub: Annotated[str, typer.Option(metavar="URL", help="The Hub.")],
    repo: Annotated[str, typer.Option(help="Repository to publish in.")],
    name: Annotated[str, typer.Option(help="Name there; the file's own if left out.")] = "",
    chunks: Annotated[
        str, typer.Option(metavar="DIR|URL", help="Store that has its chunks, as in docs/stores.md.")
    ] = "",
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Upload the chunks that the Hub lacks, FLIST.sig and FLIST.profile if they are there, then the flist."""
    from g8node.store.stores import Stores
    from g8tools.hub import names, transfer
    from g8tools.hub.client import HubClient

    if chunks and "://" not in chunks and not Path(chunks).is_dir():
        raise InvalidArgument(f"--chunks {chunks}: expected a folder")
    full = name or flist.name
    full = names.flist(full if full.endswith(names.SUFFIX) else full + names.SUFFIX)
    token = read_token(token_file)

    async def work() -> transfer.Report:
        source = Stores().open(store_address(chunks)) if chunks else None
        try:
            async with HubClient(hub, token) as client:
                with console.progress(f"push {full}: chunks") as bar:
                    return await transfer.push(
                        client, str(flist), source, names.repository(repo), full, bar.total, bar.advance
                    )
        finally:
            if source is not None:
                await source.close()

    report = console.run_async(work())
    console.show(report, json=json, text=f"{report.flist} {report.digest}")


@app.command()
def pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="http(s)://HUB/REPOSITORY/NAME.flist")],
    out: Annotated[Path, typer.Argument(help="Where the flist goes.")],
    chunks: Annotated[
        str, typer.Option(metavar="DIR|URL", help="Store for its chunks; `chunks` beside OUT if left out.")
    ] = "",
    json: Json = False,
) -> None:
    """Download an flist, its .sig and .profile, and the chunks that the folder lacks; all is verified."""
    from g8node.store.stores import Stores
    from g8tools.hub import transfer
    from g8tools.hub.client import HubClient, split_url

    base, repository, name = split_url(url)
    where = store_address(chunks or str(out.parent / "chunks"))

    async def work() -> transfer.Report:
        target = Stores().open(where)
        try:
            async with HubClient(base) as client:
                with console.progress(f"pull {name}: chunks") as bar:
                    return await transfer.pull(
                        client, repository, name, str(out), target, bar.total, bar.advance
                    )
        finally:
            await target.close()

    report = console.run_async(work())
    console.show(report, json=json, text=f"{report.flist} {report.digest}")


def profile(
    node: Node,
    url: Annotated[str, typer.Argument(metavar="URL", help="http(s)://HUB/REPOSITORY/NAME.flist")],
    token_file: TokenFile = None,
) -> None:
    """Take from a node what a start of this flist reads first, and keep it on the Hub for all nodes."""
    from g8tools.hub.client import HubClient, split_url

    base, repository, name = split_url(url)
    found = node.patient(_PROFILE_S).json("g8ufs.profile", {"flist": url})

    async def work() -> None:
        async with HubClient(base, read_token(token_file)) as client:
            await client.put_beside(repository, name, "profile", base64.b64decode(found["profile"]))

    console.run_async(work())
    shown = {"flist": url, "digest": found["digest"], "chunks": found["chunks"]}
    node.show(shown, f"{url}: {found['chunks']} chunks first")


command(app, "profile")(profile)
cli_changes.register(app)
