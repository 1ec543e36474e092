"""The contract of a chunk store (pure)."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from g8node.errors import NotFound, Unavailable
from g8node.ids import ChunkId

StoreError = NotFound | Unavailable

STORED_SIZE_MAX: Final = (16 << 20) + 64
"""The largest stored chunk. A store that holds more under an id is Unavailable for that id."""

ID_SIZE_MAX: Final = 64


class Store(Protocol):
    """Content-addressed chunks: the id is a digest of the stored bytes, so a chunk never changes.

    Ids have 1 to 64 bytes: 32 (BLAKE2b-256: our flists and `.fl`), 16 (v2), 64 hex digits (v1). Every call
    takes many ids, because work that arrived together is served as one batch; empty chunks do not exist. A
    store does not retry, verify, cache or limit: decorators do (`retrying`, `verified`, `cached`, `limited`,
    `routed`). Cancelling is safe at any point: the store stays usable, and nothing is half stored.
    """

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        """One answer per distinct id, in one batch. NotFound is final, Unavailable may be retried."""

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Store all of them; present ones are left alone. Raises Unavailable; then some may be stored.

        A store that may refuse to be written to also raises PermissionDenied.
        """

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """The ids that the store does not hold. Raises Unavailable."""

    async def close(self) -> None:
        """Give connections and threads back; the store is not used afterwards."""
