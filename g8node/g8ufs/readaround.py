"""Read-around for small random reads: neighbours of a small file come into the page cache with it (async).

The kernel reads a randomly accessed small file with one request of its own size, so reading ten thousand
small files cold would be ten thousand trips through Python. Files of one folder are neighbours in the image,
so after each small read the window around it is pushed into the page cache, and the next small files never
reach Python. The window grows with the number of small misses, from 64 KiB to 1 MiB, and only covers what
is already local: no byte is fetched from a store because of it.

Pushed with FUSE_NOTIFY_STORE, not asked for with posix_fadvise: that would need a descriptor of our own
entry, and a child that closes an inherited one between vfork and exec waits for our loop while Python 3.11.2
holds the GIL for it: a deadlock, tried.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from g8node.g8ufs.imagefile import ImageFile
from g8node.runtime import logs

log = logs.get("g8ufs.readaround")

SMALL_BYTES: Final = 128 << 10
_WINDOWS: Final = ((4, 64 << 10), (16, 256 << 10))
_WINDOW_MAX: Final = 1 << 20
_AGAIN_S: Final = 2.0
"""A window that is read again after this long was evicted: push it again."""
_REMEMBERED: Final = 4096
_PAGE: Final = 4096


class ReadAround:
    """The file of an entry, with read-around once `push` is set."""

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self.size = image.size
        self.push: Callable[[int, bytes], Awaitable[None]] | None = None
        """Puts bytes at an offset into the page cache; failures are its own affair."""
        self._misses = 0
        self._pushed: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._pushing: asyncio.Task[None] | None = None

    def close(self) -> None:
        self._image.close()

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        data = await self._image.read(offset, length)
        if length <= SMALL_BYTES and self.push is not None:
            self._note(offset, length)
        return data

    def _note(self, offset: int, length: int) -> None:
        self._misses += 1
        window = next((size for count, size in _WINDOWS if self._misses <= count), _WINDOW_MAX)
        start = offset // window * window
        now = time.monotonic()
        if self._pushing is not None or now - self._pushed.get((start, window), float("-inf")) < _AGAIN_S:
            return
        self._pushed[start, window] = now
        if len(self._pushed) > _REMEMBERED:
            self._pushed.popitem(last=False)
        begin, end = self._local(start, window, offset)
        if end - begin > length:
            self._pushing = asyncio.create_task(self._push(begin, end - begin), name="g8ufs-readaround")

    def _local(self, start: int, window: int, offset: int) -> tuple[int, int]:
        """The part of the window around `offset` that needs no store."""
        begin = at = start
        for piece in self._image.plan.plan(start, window):
            if not self._image.is_local(piece):
                if at > offset:
                    break
                begin = at + piece.length
            at += piece.length
        return -(-begin // _PAGE) * _PAGE, at // _PAGE * _PAGE

    async def _push(self, offset: int, length: int) -> None:
        try:
            data = await self._image.read_again(offset, length)
            if self.push is not None:
                await self.push(offset, bytes(data))
        except OSError as error:
            log.debug("read-around failed", error=str(error))
        finally:
            self._pushing = None
