"""Decorator: never hand out, and never store, bytes whose digest is not their id (async)."""

from collections.abc import Mapping, Sequence
from typing import Final

from g8node.errors import InvalidArgument, Unavailable
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.store.base import Store, StoreError
from g8node.wire.codecs import is_stored_as

_INLINE_BYTES: Final = 64 << 10


class VerifiedStore:
    """A wrong chunk is Unavailable: the bytes may be right at the next try or on another replica."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        answers = await self._inner.get_many(ids)
        stored = {id: got for id, got in answers.items() if isinstance(got, bytes)}
        for id in await _wrong(stored):
            answers[id] = Unavailable(
                f"chunk {id.hex()}: the store holds other bytes", hint="another replica may be good"
            )
        return answers

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Raises InvalidArgument, before anything is stored, when a name does not fit its bytes."""
        for id in await _wrong(chunks):
            raise InvalidArgument(f"chunk {id.hex()}: the bytes have another digest")
        await self._inner.put_many(chunks)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return await self._inner.missing(ids)

    async def close(self) -> None:
        await self._inner.close()


async def _wrong(chunks: Mapping[ChunkId, bytes]) -> list[ChunkId]:
    if sum(map(len, chunks.values())) <= _INLINE_BYTES:
        return _check(chunks)
    return await blocking.run("cpu", _check, chunks)


def _check(chunks: Mapping[ChunkId, bytes]) -> list[ChunkId]:
    return [id for id, stored in chunks.items() if not is_stored_as(id, stored)]
