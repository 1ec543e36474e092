"""What is done for an image before its readers ask: its profile is replayed, its rest streamed (async)."""

import asyncio
from collections.abc import Iterable
from typing import Final

from g8node.flist.plan import ImagePlan
from g8node.g8ufs import prefetch
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.fetch import Fetcher
from g8node.g8ufs.profile import Profile, Recorder
from g8node.g8ufs.profiles import Profiles
from g8node.runtime import logs
from g8node.store.base import Store

log = logs.get("g8ufs.ahead")

_RECORD_S: Final = 30.0
"""What is read later than this after the mount is no longer the start."""


class Ahead:
    """Two tasks of one mounted image, until `close`."""

    def __init__(
        self,
        plan: ImagePlan,
        recorder: Recorder,
        digest: str,
        *,
        profiles: Profiles,
        fetcher: Fetcher,
        cache: ChunkCache,
        store: Store,
    ) -> None:
        """`digest` is the flist's. Fetches go to `store`, which must live as long as this."""
        self._plan = plan
        self._recorder = recorder
        self._digest = digest
        self._profiles = profiles
        self._fetcher = fetcher
        self._cache = cache
        self._store = store
        self._known = False
        self._saved = False
        self._tasks = [
            asyncio.create_task(self._start(), name="g8ufs-profile"),
            asyncio.create_task(self._stream(), name="g8ufs-stream"),
        ]

    async def close(self) -> None:
        """Stop fetching; a start that was shorter than the time of recording is a whole one."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._save()

    async def _start(self) -> None:
        """Fetch what the last start read first, or find out what that is."""
        found = await self._profiles.load(self._digest, self._plan.chunk_count)
        self._known = found is not None
        if found is not None:
            await self._fetch(found.order)
            return
        await asyncio.sleep(_RECORD_S)
        await self._save()

    async def _stream(self) -> None:
        await self._recorder.crowded.wait()
        if self._plan.slots.end() <= self._cache.budget_bytes // 2:
            log.info("most of an flist is read: fetching the rest", chunks=self._plan.chunk_count)
            await self._fetch(range(self._plan.chunk_count))

    async def _fetch(self, slots: Iterable[int]) -> None:
        refs = (self._plan.chunk(slot) for slot in slots)
        done = await prefetch.fetch_all(self._fetcher, self._cache, self._store, refs)
        if done.failed:
            log.warning("not everything could be fetched ahead", failed=done.failed, error=done.error)

    async def _save(self) -> None:
        if self._known or self._saved or not self._recorder.order:
            return
        self._saved = True
        await self._profiles.save(Profile(self._digest, self._recorder.order[:]))
