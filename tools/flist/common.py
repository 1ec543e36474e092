"""What the commands of `g8 flist` share: opening flists, choosing stores, paths (async)."""

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from g8tools.g8 import console

if TYPE_CHECKING:
    from g8node.flist.tree import Flist
    from g8node.store.base import Store
    from g8node.wire.router import Router

FlistArgument = Annotated[
    str, typer.Argument(help="The flist: a path, file:// or http(s)://.", metavar="FLIST")
]
StoreOption = Annotated[
    str, typer.Option(metavar="DIR|URL", help="Where the chunks are; default: where the flist says.")
]
TokenOption = Annotated[Path | None, typer.Option(help="Token for a Hub.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextlib.contextmanager
def local(flist: str) -> Iterator[str]:
    """The flist as a file: itself, or a download that is gone afterwards."""
    if "://" not in flist:
        yield flist
        return
    from g8node.g8ufs.downloads import Downloads

    with tempfile.TemporaryDirectory(prefix="g8-flist-") as folder:
        yield console.run_async(Downloads(folder, size_max_bytes=1 << 30).fetch(flist))


def read(flist: str) -> "Flist":
    """The validated flist."""
    from g8node.flist.container import read_flist

    with local(flist) as path:
        return read_flist(path)


def store_url(store: str) -> str:
    """A store as the command line has it: a URL, or a folder."""
    return store if "://" in store else f"dir://{os.path.abspath(store)}"


@contextlib.asynccontextmanager
async def opened(
    store: str, router: "Router | None", token_file: Path | None = None
) -> "AsyncIterator[Store | None]":
    """The store that was given, else those of the flist's router in their order; None when there are none."""
    from g8node.store.locate import open_store
    from g8node.store.routed import RoutedStore
    from g8node.store.verified import VerifiedStore
    from g8tools.hub.cli import read_token

    urls = [store_url(store)] if store else _urls(router)
    token = read_token(token_file) if store else ""
    stores: list[Any] = [open_store(url, token=token) for url in urls]
    try:
        if len(stores) > 1:
            yield RoutedStore([VerifiedStore(one) for one in stores])
        else:
            yield stores[0] if stores else None
    finally:
        for one in stores:
            await one.close()


def _urls(router: "Router | None") -> list[str]:
    if router is None:
        return []
    return list(dict.fromkeys(rule.url for pool in router.lookup for rule in router.pools[pool]))


def router_lines(router: "Router | None") -> list[dict[str, str]]:
    """The router for people, without passwords."""
    from g8node.wire.router import without_credentials

    if router is None:
        return []
    return [
        {"pool": pool, "range": str(rule.range) or "all", "url": without_credentials(rule.url)}
        for pool in router.lookup
        for rule in router.pools[pool]
    ]
