"""The owner of a process's chunk stores: one set of connections a store, and how each does (async).

`open` takes what people and flists say: addresses (`[xx-xx=]url`, separated by spaces) asked in this
order, or a router's pools. What is opened twice is one store. Every store is watched and has bounded
requests; where there are several, each one's bytes are checked, so that a store that holds wrong ones is
passed over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8node.runtime import logs
from g8node.store.base import Store, StoreError
from g8node.store.cached import CachedStore
from g8node.store.health import State, StoreStatistics, WatchedStore
from g8node.store.limited import LimitedStore
from g8node.store.locate import connect
from g8node.store.retrying import RetryingStore
from g8node.store.routed import RoutedStore, Shard
from g8node.store.verified import VerifiedStore
from g8node.wire.router import Router, Rule, merged, of_stores, parse_store, without_credentials

log = logs.get("store")

STORES_MAX: Final = 256


class _Shared:
    """A store and how many use it."""

    def __init__(self, key: object, store: Store, watched: WatchedStore | None = None) -> None:
        self.key = key
        self.store = store
        self.watched = watched
        self.users = 0


class _Lease:
    """One user's face of a shared store; `close` gives it back, the last one closes it."""

    def __init__(self, shared: _Shared, table: dict[Any, _Shared]) -> None:
        shared.users += 1
        self._shared: _Shared | None = shared
        self._inner = shared.store
        self._table = table

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        return await self._inner.get_many(ids)

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        await self._inner.put_many(chunks)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return await self._inner.missing(ids)

    def release(self) -> Store | None:
        """Give it back; the store to close, if this was the last user."""
        shared, self._shared = self._shared, None
        if shared is None:
            return None
        shared.users -= 1
        if shared.users:
            return None
        self._table.pop(shared.key, None)
        return shared.store

    async def close(self) -> None:
        store = self.release()
        if store is not None:
            await store.close()


class Stores:
    """`retries`: attempts of a read or write that no store answered."""

    def __init__(self, *, retries: int = 3, slow_s: float = 2.0, probe_s: float = 1.0) -> None:
        self._retries = retries
        self._slow_s = slow_s
        self._probe_s = probe_s
        self._leaves: dict[Any, _Shared] = {}
        self.listeners: list[Callable[[StoreStatistics], None]] = []
        """Called when a store's state has changed."""

    def open(self, where: str | Router, *, token: str = "") -> Store:
        """The store, connected to on first use. InvalidArgument names what is wrong with an address.

        `token` is for Hubs. The caller closes it; the stores of others live on.
        """
        if isinstance(where, str):
            where = merged([of_stores([parse_store(word)]) for word in where.split()])
        opened: list[_Lease] = []
        try:
            return RetryingStore(self._routed(where, token, opened), attempts=self._retries)
        except InvalidArgument:
            # Nothing is connected yet: what was opened is just forgotten.
            for lease in opened:
                lease.release()
            raise

    def _routed(self, router: Router, token: str, opened: list[_Lease]) -> Store:
        rules = [rule for name in (*router.lookup, *router.cache) for rule in router.pools[name]]
        if not rules:
            raise InvalidArgument("chunk store: expected at least one address")
        is_checked = len({rule.url for rule in rules}) > 1
        behind = [name for name in router.lookup if name not in router.cache]
        caches = list(router.cache) if behind else []

        def pools(names: Sequence[str]) -> RoutedStore:
            shards = [
                [self._shard(rule, token, is_checked, opened) for rule in router.pools[name]]
                for name in names
            ]
            return RoutedStore(shards, mixed=True)

        far = pools(behind or router.lookup)
        return CachedStore(far, pools(caches)) if any(router.pools[name] for name in caches) else far

    def _shard(self, rule: Rule, token: str, is_checked: bool, opened: list[_Lease]) -> Shard:
        shared = self._leaf(rule.url, token)
        lease = _Lease(shared, self._leaves)
        opened.append(lease)
        return Shard(VerifiedStore(lease) if is_checked else lease, rule.range, shared.watched)

    def _leaf(self, url: str, token: str) -> _Shared:
        shared = self._leaves.get((url, token))
        if shared is None:
            if len(self._leaves) >= STORES_MAX:
                raise InvalidArgument(f"chunk store: {STORES_MAX} are open already")
            watched = WatchedStore(
                connect(url, token=token),
                without_credentials(url),
                slow_s=self._slow_s,
                probe_s=self._probe_s,
                told=self._told,
            )
            shared = self._leaves[url, token] = _Shared((url, token), LimitedStore(watched), watched)
        return shared

    def statistics(self) -> list[StoreStatistics]:
        """The stores that are open, oldest first."""
        return [shared.watched.statistics() for shared in self._leaves.values() if shared.watched]

    def state(self) -> dict[str, Any]:
        """For `core.state` and the metrics page."""
        found = self.statistics()
        counts = {state.name.lower(): 0 for state in State}
        for one in found:
            counts[one.state] += 1
        sums = ("requests", "failed_requests", "hits", "absent", "errors", "bytes_read", "bytes_written")
        return (
            counts
            | {name: sum(getattr(one, name) for one in found) for name in sums}
            | {"stores": [asdict(one) for one in found]}
        )

    def _told(self, now: StoreStatistics) -> None:
        say = log.info if now.state == "ok" else log.warning
        say(f"chunk store {now.name} is {now.state}", error=now.error if now.state == "down" else "")
        for listener in self.listeners:
            listener(now)
