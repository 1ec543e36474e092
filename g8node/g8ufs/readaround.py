"""Read-around for small random reads: neighbours of a small file come into the page cache with it (async).

The kernel reads a randomly accessed small file with one request of its own size, so reading ten thousand
small files cold would be ten thousand trips through Python. Files of one folder are neighbours in the image,
so after each small read the kernel is asked (`posix_fadvise(WILLNEED)`, from a thread) for the window around
it: one request, and the next small files never reach Python. The window grows with the number of small
misses, from 64 KiB to the protocol's largest request, and only covers what is already local: no byte is
fetched from a store because of it.
"""

import os
import time
from collections import OrderedDict
from typing import Final

from g8node.g8ufs.imagefile import ImageFile
from g8node.linux.guard import off_loop
from g8node.runtime import blocking, logs

log = logs.get("g8ufs.readaround")

SMALL_BYTES: Final = 128 << 10
_WINDOWS: Final = ((4, 64 << 10), (16, 256 << 10))
_WINDOW_MAX: Final = 1 << 20
_AGAIN_S: Final = 2.0
"""A window that is read again after this long was evicted: ask for it again."""
_REMEMBERED: Final = 4096


class ReadAround:
    """The file of an entry with read-around. Holds the entry open: detach closes it before the unmount."""

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self.size = image.size
        self._fd = -1
        self._misses = 0
        self._asked: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._busy = False

    @off_loop
    def open(self, path: str) -> None:
        """Open our own entry, for the kernel's sake. In the path pool: the loop answers this very call."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @off_loop
    def release(self) -> None:
        """Let go of the entry."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        self._image.close()

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        data = await self._image.read(offset, length)
        if length <= SMALL_BYTES and self._fd >= 0:
            self._note(offset, length)
        return data

    def _note(self, offset: int, length: int) -> None:
        self._misses += 1
        window = next((size for count, size in _WINDOWS if self._misses <= count), _WINDOW_MAX)
        start = offset // window * window
        now = time.monotonic()
        if self._busy or now - self._asked.get((start, window), float("-inf")) < _AGAIN_S:
            return
        self._asked[start, window] = now
        if len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)
        begin, end = self._local(start, window, offset)
        if end - begin > length:
            self._busy = True
            future = blocking.pool("path").submit(self._advise, begin, end - begin)
            future.add_done_callback(self._idle)

    def _idle(self, _: object) -> None:
        self._busy = False

    def _local(self, start: int, window: int, offset: int) -> tuple[int, int]:
        """The part of the window around `offset` that needs no store."""
        begin = at = start
        for piece in self._image.plan.plan(start, window):
            if not self._image.is_local(piece):
                if at > offset:
                    return begin, at
                begin = at + piece.length
            at += piece.length
        return begin, at

    def _advise(self, offset: int, length: int) -> None:
        fd = self._fd
        if fd >= 0:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
