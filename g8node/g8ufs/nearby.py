"""What lies around the chunks that readers wait for, fetched before they ask (async).

A far store takes as long for one small chunk as for a megabyte of them, and what is read together lies
together: files of one folder are neighbours in the image. So a chunk that is missing brings its surroundings,
and whoever reads on into them finds a window twice as large on its way, up to a bound. When all is local
nothing is missing, and this does nothing.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from g8node.flist.plan import ImagePlan
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.fetch import Fetcher
from g8node.store.base import Store

_LARGEST: Final = 8 << 20
SMALL_BYTES: Final = 4 << 10
"""What a chunk counts at least: a store and we have work with each."""
_READERS: Final = 16
"""Windows that are remembered: so many places may be read on at once."""
_UNDER_WAY: Final = 4


class _Window:
    """Slots up to `end` are on their way; who reads in [mark, end) wants twice `size_bytes` behind them."""

    __slots__ = ("end", "mark", "size_bytes")

    def __init__(self, mark: int, end: int, size_bytes: int) -> None:
        self.mark = mark
        self.end = end
        self.size_bytes = size_bytes


class Nearby:
    """The windows of one image, until `close`. Fetches go to `store`, which must live as long as this."""

    def __init__(
        self, plan: ImagePlan, store: Store, cache: ChunkCache, fetcher: Fetcher, *, first_bytes: int
    ) -> None:
        """`first_bytes` are fetched around the first chunk that is missing, half before it, half behind."""
        self._plan = plan
        self._store = store
        self._cache = cache
        self._fetcher = fetcher
        self._first_bytes = first_bytes
        self._windows: list[_Window] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def read(self, first: int, last: int) -> None:
        """Slots `first` to `last` are read, whether they were local or not."""
        for window in self._windows:
            if window.mark <= last and first < window.end:
                self._windows.remove(window)
                size = min(2 * window.size_bytes, _LARGEST)
                self._open(window.end, self._ahead(window.end, size), size, window.end)
                return

    def missed(self, slot: int) -> None:
        """The chunk of this slot is on its way for a reader who waits for it."""
        if not self._first_bytes or any(window.mark <= slot < window.end for window in self._windows):
            return
        half = self._first_bytes // 2
        self._open(self._back(slot, half), self._ahead(slot + 1, half), self._first_bytes, slot + 1)

    def _open(self, first: int, end: int, size: int, mark: int) -> None:
        """Fetch the slots [first, end) and remember where their reader is expected."""
        if first >= end or len(self._tasks) >= _UNDER_WAY:
            return
        self._windows.append(_Window((mark + end) // 2, end, size))
        del self._windows[:-_READERS]
        task = asyncio.create_task(self._fetch(range(first, end)), name="g8ufs-nearby")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ahead(self, slot: int, size: int) -> int:
        """The end of `size` bytes of slots that begin with this one."""
        sizes = self._plan.slots.sizes
        while slot < len(sizes) and size > 0:
            size -= max(sizes[slot], SMALL_BYTES)
            slot += 1
        return slot

    def _back(self, slot: int, size: int) -> int:
        sizes = self._plan.slots.sizes
        while slot > 0 and size > 0:
            slot -= 1
            size -= max(sizes[slot], SMALL_BYTES)
        return slot

    async def _fetch(self, slots: Sequence[int]) -> None:
        """What fails is left to its reader, whose own chunk leaves first, in a request of its own."""
        await asyncio.sleep(0)
        refs = [ref for ref in map(self._plan.chunk, slots) if not self._cache.has(ref.id)]
        gets = (self._fetcher.get(self._store, ref) for ref in refs)
        await asyncio.gather(*gets, return_exceptions=True)

    async def close(self) -> None:
        """Stop; what has arrived is kept."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
