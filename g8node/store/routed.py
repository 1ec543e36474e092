"""Decorator over several stores: the first that has a chunk answers; the others are the fail-over (async)."""

from collections.abc import Mapping, Sequence

from g8node.errors import InvalidArgument, NotFound, Unavailable
from g8node.ids import ChunkId
from g8node.store.base import Store, StoreError


class RoutedStore:
    """Reads in the order given, asking each store only for what is still open; writes go to the first."""

    def __init__(self, stores: Sequence[Store]) -> None:
        if not stores:
            raise InvalidArgument("a routed store needs at least one store")
        self._stores = tuple(stores)

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        """NotFound only when every store said so: one that did not answer may have the chunk."""
        answers: dict[ChunkId, bytes | StoreError] = {}
        wanted = list(dict.fromkeys(ids))
        for store in self._stores:
            for id, got in (await store.get_many(wanted)).items():
                if isinstance(got, NotFound) and isinstance(answers.get(id), Unavailable):
                    continue
                answers[id] = got
            wanted = [id for id in wanted if not isinstance(answers.get(id), bytes)]
            if not wanted:
                break
        return answers

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        await self._stores[0].put_many(chunks)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """What the first store lacks: that is where `put_many` writes."""
        return await self._stores[0].missing(ids)

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
