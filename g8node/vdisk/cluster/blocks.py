"""Blocks by their number (async): what a vdisk's bytes are made of, and the plain way to keep them.

The original's plain layout has one hash a vdisk. An absent block is zeros, or the template's; so a block that
was zeroed over a template is kept as an empty value, which the original, too, reads as zeros.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from g8node.errors import Unavailable
from g8node.vdisk.cluster.fields import Fields
from g8node.vdisk.cluster.locks import Locks
from g8node.vdisk.cluster.template import Keeping, Template

Answer = bytes | Unavailable | None
"""A block's bytes (perhaps fewer than a block's, the rest being zeros), None for zeros, or why not."""


class Blocks(Protocol):
    """Blocks whose numbers the caller holds in `locks` when it changes them. Failures are by number."""

    locks: Locks

    @property
    def late(self) -> bool:
        """Whether some of them may take long to read."""

    def lane(self, block: int) -> int:
        """Blocks of one lane are likely to come from one server."""

    async def get(self, blocks: Sequence[int]) -> Mapping[int, Answer]: ...

    async def put(self, blocks: Mapping[int, bytes | memoryview]) -> Mapping[int, Exception]:
        """Failures. None of the blocks is all zeros."""

    async def drop(self, blocks: Iterable[int]) -> Mapping[int, Exception]:
        """Failures. They read as zeros afterwards."""

    async def present(self, blocks: Sequence[int]) -> list[bool]:
        """Whether each may be other than zeros. Unavailable."""

    async def flush(self) -> None:
        """Unavailable; what is not flushed then still is to be."""

    def inherit(self, before: "Blocks") -> None:
        """Take over what only the memory of the blocks before, which are closed, has."""

    def states(self) -> list[dict[str, Any]]:
        """Of every server."""

    async def close(self) -> None:
        """Without a flush."""


class PlainBlocks:
    """See the module. `keep`: what the template has, here too."""

    def __init__(self, mirror: Fields, template: Template | None, locks: Locks, *, keep: bool) -> None:
        self.mirror = mirror
        self.locks = locks
        self._template = template
        self._keep = keep
        self._keeping = Keeping(template)

    @property
    def late(self) -> bool:
        return self.mirror.late

    def lane(self, block: int) -> int:
        return self.mirror.lane(block)

    async def get(self, blocks: Sequence[int]) -> Mapping[int, Answer]:
        answers = await self.mirror.get(blocks)
        if self._template is None:
            return answers
        absent = [block for block, data in answers.items() if data is None]
        if absent:
            found = await self._template.get(absent)
            kept = {block: data for block, data in found.items() if isinstance(data, bytes)}
            if kept and self._keep:
                self._keeping.start(self._keep_here(kept))
            answers |= found
        return answers

    async def _keep_here(self, fetched: Mapping[int, bytes]) -> None:
        """Unless somebody has written there since."""
        blocks = list(fetched)
        async with self.locks.hold(blocks):
            now = await self.mirror.get(blocks)
            await self.mirror.put({one: data for one, data in fetched.items() if now[one] is None})

    async def put(self, blocks: Mapping[int, bytes | memoryview]) -> Mapping[int, Exception]:
        return await self.mirror.put(blocks)

    async def drop(self, blocks: Iterable[int]) -> Mapping[int, Exception]:
        if self._template is None:
            return await self.mirror.drop(blocks)
        return await self.mirror.put(dict.fromkeys(blocks, b""))

    async def present(self, blocks: Sequence[int]) -> list[bool]:
        if self._template is not None:
            return [True] * len(blocks)
        found = await self.mirror.present(blocks)
        for answer in found.values():
            if isinstance(answer, Unavailable):
                raise answer
        return [found[block] is True for block in blocks]

    async def flush(self) -> None:
        await self.mirror.flush()

    def inherit(self, before: Blocks) -> None:
        """Nothing: every change is on the servers."""

    def states(self) -> list[dict[str, Any]]:
        return self.mirror.states()

    async def close(self) -> None:
        await self._keeping.close()
        await self.mirror.close()
