"""Owner of the node's own profiles: where its time goes, what its memory holds (async)."""

import asyncio
import gc
import os
import sys
import threading
from collections import Counter
from typing import Any, Final, TextIO

from g8node.errors import NodeError
from g8node.linux import procfs
from g8node.runtime import blocking
from g8node.runtime.profiler import Profiler

_SLICE: Final = 2000
_TYPES_MAX: Final = 500


class Profile:
    def __init__(self) -> None:
        self._profiler = Profiler()
        self._file: TextIO | None = None

    async def start(self, path: str) -> None:
        """Begin a profile of time that `stop` writes to the file. Conflict while one is being taken."""
        file = await blocking.run("path", _opened, path)
        try:
            self._profiler.start()
        except BaseException:
            await blocking.run("path", file.close)
            raise
        self._file = file

    async def stop(self) -> None:
        """End the profile and write it. Conflict when none is being taken."""
        text = await blocking.run("cpu", self._profiler.stop)
        file, self._file = self._file, None
        if file is not None:
            await blocking.run("path", _write, file, text)

    async def write_objects(self, path: str) -> None:
        """A table `count bytes type` of the objects alive, the largest first.

        The objects are counted on the loop, a few at a time, and let go of there: the last reference to a
        thing of the loop must not vanish in another thread.
        """
        file = await blocking.run("path", _opened, path)
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        objects = gc.get_objects()
        for start in range(0, len(objects), _SLICE):
            for each in objects[start : start + _SLICE]:
                name = f"{type(each).__module__}.{type(each).__qualname__}"
                counts[name] += 1
                sizes[name] += sys.getsizeof(each, 0)
            await asyncio.sleep(0)
        rows = (f"{counts[name]} {size} {name}\n" for name, size in sizes.most_common(_TYPES_MAX))
        await blocking.run("path", _write, file, "count bytes type\n" + "".join(rows))

    async def statistics(self) -> dict[str, Any]:
        """Memory of this process; the original's names where the thing is the same."""
        usage = await blocking.run("disk", procfs.usage, os.getpid()) or {"rss": 0, "vms": 0}
        generations = gc.get_stats()
        return {
            "Alloc": usage["rss"],
            "Sys": usage["vms"],
            "HeapObjects": sys.getallocatedblocks(),
            "NumGC": sum(each["collections"] for each in generations),
            "threads": threading.active_count(),
            "generations": [
                {**stats, "pending": pending}
                for stats, pending in zip(generations, gc.get_count(), strict=True)
            ],
        }


def _opened(path: str) -> TextIO:
    try:
        return open(path, "w", encoding="utf-8", errors="replace")
    except OSError as error:
        raise NodeError(f"file: {path}: {(error.strerror or str(error)).lower()}") from error


def _write(file: TextIO, text: str) -> None:
    with file:
        file.write(text)
