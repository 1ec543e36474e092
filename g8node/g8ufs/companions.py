"""What a program is linked with, fetched as soon as its first chunk is there (async).

The loader of a dynamic program opens its libraries one after the other and reads each here and there: some
ten waits for a far store before `main`. But the names of the libraries stand in the program's first chunk. So
when a reader waited for the beginning of an ELF file, the rest of it and its libraries and theirs come at
once. A library is any file of that name, or of that name and more numbers.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

from g8node.errors import NodeError
from g8node.flist.plan import ImagePlan
from g8node.g8ufs.fetch import Fetcher
from g8node.g8ufs.nearby import SMALL_BYTES
from g8node.runtime import logs
from g8node.store.base import Store
from g8node.wire.elf import linked

log = logs.get("g8ufs.companions")

_FILE_MAX: Final = 32 << 20
_BYTES_MAX: Final = 256 << 20
"""Of all programs of an image together."""
_MORE_BYTES: Final = 256 << 10
"""Behind a file: the kernel reads ahead over its end, and waits for all of that."""
_GROUP_BYTES: Final = 1 << 20
"""Chunks in one request: its readers get them when all have arrived."""
_CACHE: Final = b"etc/ld.so.cache"


class Companions:
    """Those of one image, until `close`. Fetches go to `store`, which must live as long as this."""

    def __init__(self, plan: ImagePlan, store: Store, fetcher: Fetcher, *, enabled: bool) -> None:
        self._plan = plan
        self._store = store
        self._fetcher = fetcher
        self._enabled = enabled
        self._names: bytes | bytearray = plan.slots.names
        self._done: set[int] = set()
        """Where the names of files stand that are fetched already."""
        self._left = _BYTES_MAX
        self._tasks: set[asyncio.Task[None]] = set()

    def arrived(self, slot: int, plain: bytes) -> None:
        """A reader waited for the chunk of this slot."""
        if not self._enabled or linked(plain[:4]) is None:
            return
        at = self._plan.slots.names_at[slot]
        if slot == self._slots(at).start and at not in self._done:
            self._spawn(self._program(at, plain, whole=self._take(at)))
            self._done.add(at)

    def _take(self, at: int) -> bool:
        """Whether the file whose name stands at `at` is to be fetched: once, and within the bounds."""
        slots = self._slots(at)
        size = sum(self._plan.slots.sizes[slots.start : slots.stop])
        if at in self._done or size > min(_FILE_MAX, self._left):
            return False
        self._done.add(at)
        self._left -= size
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="g8ufs-companions")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _program(self, at: int, head: bytes, *, whole: bool) -> None:
        """What the file is linked with, and then, if `whole`, the rest of it.

        All that is asked for in one turn of the loop is one request, and waits for the whole answer: so each
        step has a turn of its own, and what is needed first leaves first.
        """
        await self._libraries(head)
        for cache in self._find([_CACHE]):
            if self._take(cache):
                self._spawn(self._fetch(self._slots(cache)))
                await asyncio.sleep(0)
        if whole:
            await self._rest(at)

    async def _libraries(self, head: bytes) -> None:
        for at in self._find(b"/" + name for name in linked(head) or ()):
            if self._take(at):
                self._spawn(self._library(at))
                await asyncio.sleep(0)

    async def _library(self, at: int) -> None:
        self._spawn(self._rest(at))
        try:
            head = await self._get(self._slots(at).start)
        except NodeError as error:
            log.debug("a library could not be fetched ahead", error=str(error))
            return
        await self._libraries(head)

    async def _rest(self, at: int) -> None:
        """All but the first chunk: the end, where a program says how it is linked, and back to the front."""
        slots = self._slots(at)
        sizes = self._plan.slots.sizes
        end, more = slots.stop, _MORE_BYTES
        while end < len(sizes) and more > 0:
            more -= max(sizes[end], SMALL_BYTES)
            end += 1
        group: list[int] = []
        for slot in range(slots.start + 1, end)[::-1]:
            group.append(slot)
            if sum(sizes[each] for each in group) >= _GROUP_BYTES:
                self._spawn(self._fetch(group))
                await asyncio.sleep(0)
                group = []
        await self._fetch(group)

    async def _fetch(self, slots: Sequence[int]) -> None:
        """What fails is left to its reader."""
        await asyncio.gather(*map(self._get, slots), return_exceptions=True)

    async def _get(self, slot: int) -> bytes:
        return await self._fetcher.get(self._store, self._plan.chunk(slot))

    def _slots(self, at: int) -> range:
        """Those that the file with the name at `at` brought in: the first user of a chunk names it."""
        names_at = self._plan.slots.names_at
        return range(bisect_left(names_at, at), bisect_right(names_at, at))

    def _find(self, endings: Iterable[bytes]) -> Iterable[int]:
        """Where the first name with each of these endings stands."""
        for ending in endings:
            at = self._names.find(ending)
            while at >= 0 and self._names[at + len(ending)] not in b"\0.":
                at = self._names.find(ending, at + 1)
            if at >= 0:
                yield self._names.rfind(b"\0", 0, at) + 1

    async def close(self) -> None:
        """Stop; what has arrived is kept."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
