"""Blocks that somebody changes (async): nobody else changes them meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence


class Locks:
    """All blocks of a change are taken at once, so no two changes wait for each other."""

    def __init__(self) -> None:
        self._taken: dict[int, asyncio.Future[None]] = {}

    @contextlib.asynccontextmanager
    async def hold(self, blocks: Sequence[int]) -> AsyncIterator[None]:
        while (taken := next((self._taken[one] for one in blocks if one in self._taken), None)) is not None:
            await asyncio.shield(taken)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._taken.update(dict.fromkeys(blocks, done))
        try:
            yield
        finally:
            for one in blocks:
                del self._taken[one]
            done.set_result(None)
