"""Decorator over several stores: pools in order, and in each the stores that hold the id (async).

Reads ask the stores of the first pool that hold the id, one after the other, then those of the next pool;
a store that is not well is asked after those that are, and one that takes long is not waited for (`race`).
Writes go to every store that holds the id.
"""

import asyncio
import random
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from g8node.errors import InvalidArgument, NotFound
from g8node.ids import ChunkId
from g8node.store.base import Store, StoreError
from g8node.store.health import State, WatchedStore
from g8node.store.race import race
from g8node.wire.router import EVERY, Range

T = TypeVar("T")


class Shard(NamedTuple):
    """A store of a pool, the ids that it holds, and who knows how it does (nobody: well, never hurried)."""

    store: Store
    range: Range = EVERY
    watched: WatchedStore | None = None

    def holds(self, id: ChunkId) -> bool:
        """An id of 64 hex digits is placed by the digest that it spells."""
        if self.range == EVERY:
            return True
        if len(id) == 64 and all(digit in b"0123456789abcdef" for digit in id):
            return bytes.fromhex(id.decode()) in self.range
        return id in self.range

    @property
    def state(self) -> State:
        return self.watched.state if self.watched else State.OK

    def patience_s(self, count: int) -> float:
        return self.watched.patience_s(count) if self.watched else 0.0


class RoutedStore:
    """`mixed`: the order within a pool is drawn anew for every call, which spreads the load."""

    def __init__(self, pools: Sequence[Sequence[Shard]], *, mixed: bool = False) -> None:
        if not any(pools):
            raise InvalidArgument("a routed store needs at least one store")
        self._pools = pools
        self._mixed = mixed

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        """NotFound only when every store said so: one that did not answer may have the chunk."""
        shards = self._in_order()
        groups: dict[tuple[int, ...], list[ChunkId]] = {}
        for id in dict.fromkeys(ids):
            chain = tuple(at for at, shard in enumerate(shards) if shard.holds(id))
            groups.setdefault(chain, []).append(id)
        homeless = groups.pop((), [])
        answers: dict[ChunkId, bytes | StoreError] = {
            id: NotFound(f"chunk {id.hex()}: there is no store for such ids") for id in homeless
        }
        for got in await _all(_ask([shards[at] for at in chain], part) for chain, part in groups.items()):
            answers |= got
        return answers

    def _in_order(self) -> list[Shard]:
        """All shards as they are asked."""
        shards: list[Shard] = []
        for pool in self._pools:
            shards += random.sample(pool, len(pool)) if self._mixed else pool
        return sorted(shards, key=lambda shard: shard.state)

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """InvalidArgument, before anything is stored, for an id that no store holds."""
        parts = self._parts(chunks)
        await _all(shard.store.put_many({id: chunks[id] for id in part}) for shard, part in parts)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        """What at least one of the stores that should hold it lacks: `put_many` mends that."""
        found = await _all(shard.store.missing(part) for shard, part in self._parts(ids))
        return set().union(*found)

    def _parts(self, ids: Iterable[ChunkId]) -> list[tuple[Shard, list[ChunkId]]]:
        wanted = list(dict.fromkeys(ids))
        shards = [shard for pool in self._pools for shard in pool]
        parts = [(shard, [id for id in wanted if shard.holds(id)]) for shard in shards]
        if homeless := set(wanted).difference(*(part for _, part in parts)):
            raise InvalidArgument(f"chunk {homeless.pop().hex()}: there is no store for such ids")
        return [(shard, part) for shard, part in parts if part]

    async def close(self) -> None:
        for pool in self._pools:
            for shard in pool:
                await shard.store.close()


def in_order(stores: Sequence[Store]) -> RoutedStore:
    """Each store is asked for what those before it did not have."""
    return RoutedStore([[Shard(store)] for store in stores])


async def _ask(chain: Sequence[Shard], ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
    return await race([shard.store for shard in chain], ids, lambda at, count: chain[at].patience_s(count))


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once; the first failure ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            # A failure that came second was not asked for.
            [task.cancelled() or task.exception() for task in tasks]
