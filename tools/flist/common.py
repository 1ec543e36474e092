"""What the commands of `g8 flist` share: opening flists, choosing stores, paths (async)."""

import contextlib
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from g8tools.g8 import console

if TYPE_CHECKING:
    from g8node.flist.pack import Progress
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", callback=console.json_asked)]


@contextlib.contextmanager
def local(flist: str) -> Iterator[str]:
    """The flist as a file: itself, or a download that is gone afterwards."""
    if "://" not in flist:
        yield flist
        return
    from g8node.g8ufs.downloads import Downloads

    with tempfile.TemporaryDirectory(prefix="g8-flist-") as folder:
        yield console.run_async(Downloads(folder, size_max_bytes=1 << 30).fetch(flist))


def check_out(out: Path) -> None:
    """Whether a file can be written there, before long work. OSError names it."""
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out))


def read(flist: str) -> "Flist":
    """The validated flist."""
    from g8node.flist.container import read_flist

    with local(flist) as path:
        return read_flist(path)


@contextlib.asynccontextmanager
async def opened(
    store: str, router: "Router | None", token_file: Path | None = None
) -> "AsyncIterator[Store | None]":
    """The store that was given, else those of the flist's router; None without.

    An flist comes from strangers: as on a node, the pools that it says are to be filled are not.
    """
    from g8node.store.stores import Stores
    from g8node.wire.router import Router
    from g8tools.hub.cli_common import read_token, store_address

    if store:
        chosen = Stores().open(store_address(store), token=read_token(token_file))
    elif router is not None:
        chosen = Stores().open(Router(router.pools, router.lookup))
    else:
        yield None
        return
    try:
        yield chosen
    finally:
        await chosen.close()


@contextlib.contextmanager
def packing(what: str) -> "Iterator[Callable[[Progress], None]]":
    """A progress bar; the packer tells it how far it has come."""
    with console.progress(what, count_bytes=True) as bar:
        before = 0

        def told(now: "Progress") -> None:
            nonlocal before
            if now.total_bytes is not None:
                bar.total(now.total_bytes)
            bar.advance(now.read_bytes - before)
            before = now.read_bytes

        yield told


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
