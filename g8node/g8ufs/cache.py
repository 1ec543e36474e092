"""The chunk cache of all mounts: a little memory over the segment log (async).

Memory holds what was just fetched or read, because the kernel asks for a 512 KiB chunk in pieces and small
files in groups; the page cache does the rest. Everything in it was verified.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from g8node.g8ufs.segments import Key, SegmentLog
from g8node.runtime import blocking, logs

log = logs.get("g8ufs.cache")

INLINE_BYTES: Final = 64 << 10
"""Larger chunks are read and checked in a thread (design rule 4.1)."""


class Recent:
    """Least-recently-used plain chunks, bounded by bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._size = 0
        self._chunks: OrderedDict[Key, bytes] = OrderedDict()

    def get(self, key: Key) -> bytes | None:
        plain = self._chunks.get(key)
        if plain is not None:
            self._chunks.move_to_end(key)
        return plain

    def add(self, key: Key, plain: bytes) -> None:
        if key in self._chunks or len(plain) > self._budget:
            return
        self._chunks[key] = plain
        self._size += len(plain)
        while self._size > self._budget:
            self._size -= len(self._chunks.popitem(last=False)[1])

    def clear(self) -> None:
        self._chunks.clear()
        self._size = 0


class ChunkCache:
    """Verified plain chunks by (id, key). A failing disk makes it forgetful, never wrong."""

    def __init__(self, segments: SegmentLog, recent_bytes: int) -> None:
        self._segments = segments
        self.recent = Recent(recent_bytes)
        self._complained = False

    @classmethod
    async def open(cls, directory: str, budget_bytes: int, *, recent_bytes: int = 8 << 20) -> "ChunkCache":
        """Raises Unavailable when another process uses the folder."""
        return cls(await blocking.run("disk", SegmentLog, directory, budget_bytes), recent_bytes)

    def has(self, chunk: bytes) -> bool:
        """Whether it is probably there, without any I/O."""
        return self._segments.has(chunk)

    def peek(self, key: Key) -> bytes | None:
        """The chunk if it is in memory and cheap to get; never waits. None: ask `get_many`."""
        plain = self.recent.get(key)
        if plain is None:
            try:
                plain = self._segments.read_now(key, INLINE_BYTES)
            except OSError:  # would wait, or the disk is bad: get_many sorts it out
                return None
        return plain

    async def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """What is cached, in the order asked."""
        found = [self.recent.get(key) for key in keys]
        absent = [at for at, plain in enumerate(found) if plain is None and self.has(keys[at].id)]
        if absent:
            read = await blocking.run("disk", self._segments.read_many, [keys[at] for at in absent])
            for at, plain in zip(absent, read, strict=True):
                found[at] = plain
                if plain is not None:
                    self.recent.add(keys[at], plain)
        return found

    async def add_many(self, chunks: Sequence[tuple[Key, bytes]]) -> None:
        """Keep verified chunks. Memory has them at once; returns when the disk has them or failed."""
        for key, plain in chunks:
            self.recent.add(key, plain)
        try:
            await blocking.run("disk", self._segments.append, chunks)
            self._complained = False
        except OSError as error:
            if not self._complained:
                log.warning("the chunk cache cannot be written; chunks are fetched again", error=str(error))
            self._complained = True

    async def pin(self, name: str, chunks: Sequence[tuple[bytes, int]]) -> None:
        """See SegmentLog.pin."""
        await blocking.run("disk", self._segments.pin, name, chunks)

    async def unpin(self, name: str) -> bool:
        return await blocking.run("disk", self._segments.unpin, name)

    async def clear(self) -> int:
        """Forget all that is not pinned; the bytes that became free."""
        self.recent.clear()
        return await blocking.run("disk", self._segments.clear)

    async def resize(self, budget_bytes: int) -> None:
        if budget_bytes != self._segments.budget_bytes:
            await blocking.run("disk", self._segments.resize, budget_bytes)

    @property
    def pins(self) -> list[str]:
        """Digests of the pinned flists."""
        return self._segments.pins.names()

    @property
    def budget_bytes(self) -> int:
        return self._segments.budget_bytes

    def shown(self) -> dict[str, Any]:
        """`{chunks, size_bytes, budget_bytes, pinned_chunks, pins}`; pins are digests of flists."""
        segments = self._segments
        return {
            "chunks": len(segments),
            "size_bytes": segments.size_bytes,
            "budget_bytes": segments.budget_bytes,
            "pinned_chunks": len(segments.pins),
            "pins": segments.pins.names(),
        }

    async def close(self) -> None:
        self.recent.clear()
        await blocking.run("disk", self._segments.close)
