"""Chunks in a dict: tests, and the store of a process that needs none on disk (async)."""

from collections.abc import Mapping, Sequence

from g8node.errors import NotFound
from g8node.ids import ChunkId
from g8node.store.base import StoreError


class MemoryStore:
    """Unbounded; never Unavailable."""

    def __init__(self, chunks: Mapping[ChunkId, bytes] | None = None) -> None:
        self.chunks: dict[ChunkId, bytes] = dict(chunks or {})

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        return {id: self.chunks.get(id) or NotFound(f"chunk {id.hex()} is not stored") for id in ids}

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        for id, stored in chunks.items():
            self.chunks.setdefault(id, stored)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return {id for id in ids if id not in self.chunks}

    async def close(self) -> None:
        """Nothing to give back."""
