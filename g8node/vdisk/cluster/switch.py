"""Blocks whose servers are replaced between two requests (async)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from g8node.errors import NodeError, Unavailable
from g8node.runtime import logs
from g8node.vdisk.cluster.blocks import Answer, Blocks

log = logs.get("vdisk")

_RETRY_S: Final = 1.0
_RETRY_MAX_S: Final = 30.0

Opening = Callable[[], Awaitable[Blocks]]


class SwitchedBlocks:
    """Blocks (see `blocks`) that pass everything on to those of now, with the same locks."""

    def __init__(self, blocks: Blocks) -> None:
        self.locks = blocks.locks
        self._blocks = blocks
        self._why = ""
        """Why the blocks of now are closed; empty while they are not."""
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ready = asyncio.Event()
        self._ready.set()
        self._wanted: Opening | None = None
        self._asked = asyncio.Event()
        self._switching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[Blocks]:
        while not self._ready.is_set():
            await self._ready.wait()
        if self._why:
            raise Unavailable(f"the vdisk's servers cannot be used: {self._why}")
        self._users += 1
        self._idle.clear()
        try:
            yield self._blocks
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    @property
    def late(self) -> bool:
        return self._blocks.late

    def lane(self, block: int) -> int:
        return self._blocks.lane(block)

    async def get(self, blocks: Sequence[int]) -> Mapping[int, Answer]:
        async with self._using() as now:
            return await now.get(blocks)

    async def put(self, blocks: Mapping[int, bytes | memoryview]) -> Mapping[int, Exception]:
        async with self._using() as now:
            return await now.put(blocks)

    async def drop(self, blocks: Iterable[int]) -> Mapping[int, Exception]:
        async with self._using() as now:
            return await now.drop(blocks)

    async def present(self, blocks: Sequence[int]) -> list[bool]:
        async with self._using() as now:
            return await now.present(blocks)

    async def flush(self) -> None:
        async with self._using() as now:
            await now.flush()

    def inherit(self, before: Blocks) -> None:
        self._blocks.inherit(before)

    def states(self) -> list[dict[str, Any]]:
        return self._blocks.states()

    # Replacing

    def switch(self, opening: Opening) -> None:
        """Use what `opening` gives instead, once nothing is under way; the last one asked for counts."""
        self._wanted = opening
        self._asked.set()
        if self._switching is None:
            self._switching = asyncio.create_task(self._switch(), name="switch of a vdisk's servers")
            self._switching.add_done_callback(self._switched)

    def _switched(self, task: "asyncio.Task[None]") -> None:
        self._switching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug in replacing a vdisk's servers", exc_info=error)

    async def _switch(self) -> None:
        self._ready.clear()
        pause_s = _RETRY_S
        try:
            await self._idle.wait()
            if not self._why:
                await self._blocks.close()
                self._why = "they are being replaced"
            while (opening := self._wanted) is not None:
                self._asked.clear()
                try:
                    blocks = await opening()
                except NodeError as error:
                    self._why = str(error)
                    log.error("servers of a vdisk cannot be used", reason=self._why, retry_s=pause_s)
                    self._ready.set()  # requests fail meanwhile
                    pause_s = await self._pause(pause_s)
                    continue
                if self._wanted is not opening:  # others are wanted by now: nobody has used these
                    await blocks.close()
                    continue
                blocks.inherit(self._blocks)
                self._blocks, self._why, self._wanted = blocks, "", None
        finally:
            self._ready.set()

    async def _pause(self, pause_s: float) -> float:
        """Until others are wanted, or for so long; the next pause."""
        try:
            await asyncio.wait_for(self._asked.wait(), pause_s)
        except TimeoutError:
            return min(2 * pause_s, _RETRY_MAX_S)
        return _RETRY_S

    async def close(self) -> None:
        if self._switching is not None:
            self._switching.cancel()
            await asyncio.wait([self._switching])
        await self._blocks.close()
