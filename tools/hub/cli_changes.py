"""`g8 hub` promote, rename, remove, link, tag and untag: changes of one's own repository (blocking)."""

from typing import Annotated

import typer

from g8node.errors import PermissionDenied
from g8tools.g8 import console
from g8tools.hub.cli_common import Json, TokenFile, read_token

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="http(s)://HUB/REPOSITORY/NAME.flist")]
NewArgument = Annotated[
    str, typer.Argument(metavar="NAME.flist", help="The name in the repository of the token's user.")
]
TagArgument = Annotated[str, typer.Argument(help="The tag in the repository of the token's user.")]
NameOption = Annotated[str, typer.Option(help="Its name in the tag; the flist's own if left out.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (promote, rename, remove, link, tag, untag):
        app.command()(command)


def promote(url: UrlArgument, name: NewArgument, token_file: TokenFile = None, json: Json = False) -> None:
    """Publish an flist that is on a Hub in one's own repository too, with its signature and profile."""
    _change("POST", url, "/promote/{repository}/{name}/{new}", token_file, json, f"{name}: {url}", new=name)


def rename(url: UrlArgument, name: NewArgument, token_file: TokenFile = None, json: Json = False) -> None:
    """Give one's own flist or link another name; an flist that has it is replaced."""
    _change("POST", url, "/{name}/rename/{new}", token_file, json, f"{url}: {name} now", own=True, new=name)


def remove(url: UrlArgument, token_file: TokenFile = None, json: Json = False) -> None:
    """Take one's own flist or link off a Hub. Chunks stay."""
    _change("DELETE", url, "/{name}", token_file, json, f"{url}: removed", own=True)


def link(url: UrlArgument, name: NewArgument, token_file: TokenFile = None, json: Json = False) -> None:
    """Make a name in one's own repository stand for an flist, whatever is published there."""
    _change(
        "POST", url, "/{new}/crosslink/{repository}/{name}", token_file, json, f"{name} -> {url}", new=name
    )


def tag(
    url: UrlArgument,
    tag: TagArgument,
    name: NameOption = "",
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Put an flist under a tag of one's own repository: HUB/REPOSITORY/tags/TAG/NAME.flist."""
    path = "/{tag}/{new}/tag/{repository}/{name}"
    _change("POST", url, path, token_file, json, f"{url}: tagged {tag}", new=name, tag=tag)


def untag(
    url: UrlArgument,
    tag: TagArgument,
    name: NameOption = "",
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Take an flist out of a tag of one's own repository."""
    path = "/{tag}/{new}/tag/{repository}/{name}"
    _change("DELETE", url, path, token_file, json, f"{url}: no longer tagged {tag}", new=name, tag=tag)


def _change(
    call: str,
    url: str,
    path: str,
    token_file: TokenFile,
    json: bool,
    done: str,
    *,
    own: bool = False,
    new: str = "",
    tag: str = "",
) -> None:
    """Have the Hub make a change; `own`: the URL must be of the repository of the token's user."""
    from g8tools.hub import names
    from g8tools.hub.client import HubClient, split_url

    base, repository, name = split_url(url)
    fields = {"repository": repository, "name": name, "new": names.flist(new or name)}
    fields |= {"tag": names.tag(tag)} if tag else {}

    async def work() -> None:
        async with HubClient(base, read_token(token_file)) as client:
            if own and (user := await client.user()) != repository:
                raise PermissionDenied(
                    f"{url} is not in the repository of the token's user, {user or 'nobody'}"
                )
            await client.change(call, path.format(**fields))

    console.run_async(work())
    console.show({"url": url, "done": done}, json=json, text=done)
