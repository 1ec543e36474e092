"""`g8 flist` check, prefetch and mount: an flist and its chunks (async)."""

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from g8node.errors import InvalidArgument
from g8tools.flist.common import FlistArgument, JsonOption, StoreOption, TokenOption, opened, read
from g8tools.g8 import console

if TYPE_CHECKING:
    from g8node.flist.plan import ImagePlan
    from g8node.flist.tree import Flist
    from g8node.ids import ChunkId
    from g8node.store.base import Store

_BATCH = 32


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (check, prefetch, mount):
        app.command()(command)


def check(
    flist: FlistArgument,
    store: StoreOption = "",
    content: Annotated[bool, typer.Option("--content", help="Fetch and verify every byte.")] = False,
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Is every chunk of an flist in the store? Exit code 1 when not."""
    from g8node.flist.verify import verify
    from g8tools.flist.contents import safe

    found = read(flist)
    plan = _plan(found)

    async def run() -> tuple[int, list[dict[str, str]]]:
        async with opened(store, found.router, token_file) as chunks:
            with console.progress(f"check {flist}") as bar:
                bar.total(plan.chunk_count)
                done = await verify(plan, _needed(chunks, plan), content=content, progress=bar.advance)
        findings = [
            {"chunk": one.id.hex(), "file": "/" + safe(one.file_name), "problem": one.problem}
            for one in done.findings
        ]
        return done.chunks, findings

    count, findings = console.run_async(run())
    lines = [f"{one['file']}: {one['chunk']}: {one['problem']}" for one in findings]
    lines.append(f"{flist}: {count} chunks, {len(findings)} of them wrong or missing")
    console.show({"chunks": count, "findings": findings}, json=json, text="\n".join(lines))
    if findings:
        raise typer.Exit(1)


def _plan(flist: "Flist") -> "ImagePlan":
    from g8node.flist.image import build

    return build(flist)[0]


def _needed(store: "Store | None", plan: "ImagePlan") -> "Store":
    from g8node.store.memory import MemoryStore

    if store is None and plan.chunk_count:
        raise InvalidArgument("the flist does not say where its chunks are", hint="give --store")
    return store or MemoryStore()


def prefetch(
    flist: FlistArgument,
    into: Annotated[str, typer.Option(metavar="DIR|URL", help="The store to fill.")],
    store: StoreOption = "",
    token_file: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Copy every chunk of an flist that the other store lacks, verified on the way."""
    found = read(flist)
    plan = _plan(found)

    async def run() -> int:
        async with (
            opened(store, found.router, token_file) as source,
            opened(into, None, token_file) as target,
        ):
            assert target is not None
            with console.progress(f"prefetch {flist}") as bar:
                bar.total(plan.chunk_count)
                return await _copy(plan, _needed(source, plan), target, bar)

    copied = console.run_async(run())
    value = {"chunks": plan.chunk_count, "copied": copied, "into": into}
    console.show(value, json=json, text=f"{into}: {copied} of {plan.chunk_count} chunks were new")


async def _copy(plan: "ImagePlan", source: "Store", target: "Store", bar: console.Progress) -> int:
    from g8node.runtime import blocking
    from g8node.wire.codecs import is_stored_as

    copied = 0
    refs = (plan.chunk(index) for index in range(plan.chunk_count))
    names: Iterator[ChunkId] = iter(ref.stored_as for ref in refs)
    while batch := list(islice(names, _BATCH)):
        missing = await target.missing(batch)
        answers = await source.get_many(sorted(missing)) if missing else {}
        for name, answer in answers.items():
            if not isinstance(answer, bytes):
                raise answer
            if not await blocking.run("cpu", is_stored_as, name, answer):
                raise InvalidArgument(f"the store gave a wrong chunk for {name.hex()}")
        if answers:
            await target.put_many(
                {name: answer for name, answer in answers.items() if isinstance(answer, bytes)}
            )
        copied += len(answers)
        bar.advance(len(batch))
    return copied


def mount(
    flist: Annotated[str, typer.Argument(help="The flist: /path, file:// or http(s)://.", metavar="FLIST")],
    target: Annotated[Path, typer.Argument(help="The folder to mount it at.")],
    store: StoreOption = "",
    cache: Annotated[Path | None, typer.Option(help="Chunk cache that outlives the mount.")] = None,
) -> None:
    """Mount an flist read-only, without a node, until Ctrl-C or SIGTERM. Needs root."""
    from g8tools.hub.cli_common import store_address

    place = flist if "://" in flist else str(Path(flist).absolute())
    with tempfile.TemporaryDirectory(prefix="g8-mount-") as folder:
        kept = str(cache.absolute()) if cache else f"{folder}/cache"
        console.run_async(
            _mount(place, target.absolute(), store_address(store) if store else "", folder, kept)
        )


async def _mount(flist: str, target: Path, store: str, run: str, cache: str) -> None:
    from g8node.g8ufs.mounts import Mounts
    from g8node.runtime import blocking

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    mounts = Mounts(run=run, cache=cache)
    await mounts.start()
    try:
        await mounts.attach(flist, str(target), storage=store)
        print("mount starts", flush=True)  # what supervisors of the original's mounter wait for
        await ended.wait()
    finally:
        await mounts.close()
        blocking.close()
