"""Deduplicated blocks (async): each content once, under its hash, for all vdisks of the cluster.

Content is on its servers before a block's hash names it, so a flush has only the hashes to write; they are
written after a while anyway, since a collection (`collect`) removes what no hash on a server names. A clone
of a template has the template's hashes; content that its own cluster does not have is read from the
template's and kept. Content that is nowhere, or is not what its hash says, is an error, never zeros.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.runtime import blocking, logs
from g8node.vdisk.cluster.blocks import Answer, Blocks
from g8node.vdisk.cluster.fields import Fields
from g8node.vdisk.cluster.layout import NO_HASH, SECTOR_HASHES, content_hash
from g8node.vdisk.cluster.locks import Locks
from g8node.vdisk.cluster.sectors import CACHE_BYTES, Sectors, clock
from g8node.vdisk.cluster.template import Keeping, Template

log = logs.get("vdisk")

FLUSH_S: Final = 30.0
"""Hashes are written so long after they changed, flush or not."""
_INLINE_BYTES: Final = 256 << 10
"""More than this is hashed by a thread."""


class ContentBlocks:
    """See the module. `mirror` has the vdisk's sectors as its hash. `keep`: content of the template, here."""

    def __init__(
        self,
        mirror: Fields,
        template: Template | None,
        locks: Locks,
        *,
        keep: bool,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.mirror = mirror
        self.locks = locks
        self._template = template
        self._keep = keep
        self._keeping = Keeping(template)
        self._sectors = Sectors(mirror, cache_bytes=cache_bytes)
        self._flushing: asyncio.Task[None] | None = None

    @property
    def late(self) -> bool:
        return self.mirror.late

    def lane(self, block: int) -> int:
        hash = self._sectors.peek(block)
        return self.mirror.lane(block // SECTOR_HASHES if hash is None else hash[0])

    async def get(self, blocks: Sequence[int]) -> Mapping[int, Answer]:
        hashes = await self._sectors.hashes(blocks)
        wanted = {one for one in hashes.values() if isinstance(one, bytes) and one != NO_HASH}
        contents = await self.contents(list(wanted))
        answers: dict[int, Answer] = {}
        for block, hash in hashes.items():
            if isinstance(hash, Unavailable):
                answers[block] = hash
            else:
                answers[block] = None if hash == NO_HASH else contents[hash]
        return answers

    async def contents(self, hashes: Sequence[bytes]) -> dict[bytes, Answer]:
        """By hash; never None."""
        found = await self.mirror.get_contents(hashes) if hashes else {}
        absent = [one for one, data in found.items() if data is None]
        if absent and self._template is not None:
            fetched = await self._template.get_contents(absent)
            found |= fetched
            kept = {one: data for one, data in fetched.items() if isinstance(data, bytes)}
            if kept and self._keep:
                self._keeping.start(self._keep_here(kept))
        return {one: _checked(one, data) for one, data in found.items()}

    async def _keep_here(self, contents: Mapping[bytes, bytes]) -> None:
        await self.mirror.put_contents(
            {one: data for one, data in contents.items() if content_hash(data) == one}
        )

    async def put(self, blocks: Mapping[int, bytes | memoryview]) -> Mapping[int, Exception]:
        if sum(map(len, blocks.values())) > _INLINE_BYTES:
            hashes = await blocking.run("cpu", _hashes, blocks)
        else:
            hashes = _hashes(blocks)
        contents = {hashes[block]: data for block, data in blocks.items()}
        since = clock()
        broken = await self.mirror.put_contents(contents)
        failures: dict[int, Exception] = {
            block: broken[hash] for block, hash in hashes.items() if hash in broken
        }
        done = {block: hash for block, hash in hashes.items() if hash not in broken}
        failures |= await self._sectors.change(done, since)
        self._flush_later()
        return failures

    def _flush_later(self) -> None:
        """Hashes do not stay here for long: a collection takes content that no server names after a while."""
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_soon(), name="flush of hashes")

    async def _flush_soon(self) -> None:
        try:
            await asyncio.sleep(FLUSH_S)
            await self._sectors.flush()
        except Unavailable as error:
            log.warning("hashes are not written yet", reason=str(error))
        finally:
            self._flushing = None

    async def drop(self, blocks: Iterable[int]) -> Mapping[int, Exception]:
        return await self._sectors.change(dict.fromkeys(blocks, NO_HASH))

    async def present(self, blocks: Sequence[int]) -> list[bool]:
        hashes = await self._sectors.hashes(blocks)
        for hash in hashes.values():
            if isinstance(hash, Unavailable):
                raise hash
        return [hashes[block] != NO_HASH for block in blocks]

    async def flush(self) -> None:
        await self._sectors.flush()
        await self.mirror.flush()

    def inherit(self, before: Blocks) -> None:
        if isinstance(before, ContentBlocks):
            self._sectors.inherit(before._sectors)  # noqa: SLF001 - of the same class
            self._flush_later()

    def states(self) -> list[dict[str, Any]]:
        return self.mirror.states()

    async def close(self) -> None:
        if (flushing := self._flushing) is not None:
            flushing.cancel()
            await asyncio.wait([flushing])
        await self._keeping.close()
        await self.mirror.close()


def _hashes(blocks: Mapping[int, bytes | memoryview]) -> dict[int, bytes]:
    return {block: content_hash(data) for block, data in blocks.items()}


def _checked(hash: bytes, data: Answer) -> Answer:
    if data is None:
        return Unavailable(
            f"content {hash.hex()} is not in the cluster", hint="is its template's cluster set?"
        )
    if isinstance(data, bytes) and content_hash(data) != hash:
        return Unavailable(f"content {hash.hex()} is damaged")
    return data
