"""A collection of one pool of a folder, paced (async); its steps are in collect.py.

A damaged vdisk does not keep the others from being collected: what its index names is kept, whatever it was.
Where even that cannot be read, nothing is given back, since nobody knows what it refers to.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from g8node.errors import NodeError
from g8node.runtime import blocking, logs
from g8node.vdisk.collect import Collection
from g8node.vdisk.folder import Folder
from g8node.vdisk.pool import Pool
from g8node.vdisk.pools import parts_of

log = logs.get("vdisk")


async def collect(folder: Folder, name: str, bytes_s: int) -> dict[str, Any]:
    """What became of the pool: bytes `freed` and `kept`, and the `problem`, if there was one."""
    size, domain = parts_of(name)
    row: dict[str, Any] = {
        "block_size": size,
        "encrypted": bool(domain),
        "freed": 0,
        "kept": 0,
        "problem": "",
    }
    try:
        pool = await blocking.run("vdisk", folder.pools.acquire, name)
        try:
            await _Paced(folder, name, pool, bytes_s, row).run()
        finally:
            await blocking.run("vdisk", folder.pools.release, name)
    except (NodeError, OSError) as error:
        row["problem"] = str(error)
    if row["problem"]:
        log.error("content is not collected, or not all of it", pool=name, reason=row["problem"])
    return row


class _Paced:
    """One run; `row` is filled in."""

    def __init__(self, folder: Folder, name: str, pool: Pool, bytes_s: int, row: dict[str, Any]) -> None:
        self._folder = folder
        self._name = name
        self._bytes_s = bytes_s
        self._row = row
        self._pool = pool
        self._work = Collection(pool)

    async def _step(self, moved: int) -> None:
        await asyncio.sleep(moved / self._bytes_s if self._bytes_s else 0)

    async def run(self) -> None:
        work = self._work
        try:
            await blocking.run("vdisk", work.begin)
            await self._mark()
            await blocking.run("vdisk", work.settle)
            for first, count in work.groups():
                await self._step(await blocking.run("vdisk", work.sweep, first, count))
            await blocking.run("vdisk", work.drop_segments)
            for bucket in range(work.buckets()):
                await self._step(await blocking.run("vdisk", work.drop_hints, bucket))
        finally:
            work.end()
            size = self._pool.block_size
            self._row.update(freed=work.freed * size, kept=work.kept * size)

    async def _mark(self) -> None:
        numbers, damaged = await blocking.run("vdisk", self._folder.numbers, self._name)
        for number in numbers:
            await self._walk(functools.partial(self._work.mark, number))
        kept = []
        for vdisk in damaged:
            mapping = await blocking.run("vdisk", self._folder.stray, vdisk)
            if mapping is None:
                continue
            kept.append(vdisk)
            try:
                await self._walk(functools.partial(self._work.mark_stray, mapping))
            finally:
                await blocking.run("vdisk", mapping.close)
        if kept:
            self._row["problem"] = f"vdisk {kept[0]!r} is damaged: what its index names is kept"

    async def _walk(self, mark: Callable[[int], tuple[int | None, int]]) -> None:
        at: int | None = 0
        while at is not None:
            at, moved = await blocking.run("vdisk", mark, at)
            await self._step(moved)
