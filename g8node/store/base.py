"""The contract of a chunk store (pure)."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from g8node.errors import NotFound, Unavailable
from g8node.ids import ChunkId

StoreError = NotFound | Unavailable


class Store(Protocol):
    """Content-addressed chunks: the id is BLAKE2b-256 of the stored bytes, so a chunk never changes.

    Every call takes many ids, because work that arrived together is served as one batch. A store does not
    retry, verify, cache or limit: decorators do (`retrying`, `verified`, `cached`, `limited`, `routed`).
    """

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        """One answer per distinct id, in one batch. NotFound is final, Unavailable may be retried."""

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Store all of them; present ones are left alone. Raises Unavailable; then some may be stored."""

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """The ids that the store does not hold. Raises Unavailable."""

    async def close(self) -> None:
        """Give connections and threads back; the store is not used afterwards."""
