"""A drive with a cache that a power cut empties: NBD of `python -m tests.support.volatile IMAGE SOCKET SEED`.

SIGTERM is the power cut: each block that was written since the last flush becomes what it was then, or what
any write since has made of it, by chance. The file holds what was written at once; what has to be taken
back is in memory.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence

from g8node.errors import NotFound
from g8node.nbd.server import Server
from g8node.runtime import blocking
from g8node.wire import nbd
from g8node.wire.nbd_handshake import Description

BLOCK = 4096
"""Of this size and alignment is every write; one that was cut off is not torn."""


class VolatileDrive:
    """The only export of its server."""

    limited = False

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._versions: dict[int, list[bytes]] = {}  # by offset: the flushed content, then what came after it
        self.flushes = 0

    def describe(self) -> Description:
        flags = nbd.FLAG_HAS_FLAGS | nbd.FLAG_SEND_FLUSH | nbd.FLAG_SEND_FUA
        return Description(self._size, flags, preferred_block=BLOCK)

    def read_many_now(self, reads: list[tuple[int, memoryview]]) -> list[bool]:
        return [os.preadv(self._fd, (into,), offset) == len(into) for offset, into in reads]

    async def read(self, offset: int, into: memoryview) -> None:
        self.read_many_now([(offset, into)])

    async def write_many(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        for offset, data in writes:
            assert offset % BLOCK == len(data) % BLOCK == 0
            for at in range(0, len(data), BLOCK):
                versions = self._versions.get(offset + at)
                if versions is None:
                    versions = self._versions[offset + at] = [os.pread(self._fd, BLOCK, offset + at)]
                versions.append(bytes(data[at : at + BLOCK]))
            os.pwrite(self._fd, data, offset)
        return [None] * len(writes)

    async def zero(self, offset: int, length: int, *, keep: bool, fast: bool) -> None:
        raise AssertionError("not announced")

    async def trim(self, offset: int, length: int) -> None:
        raise AssertionError("not announced")

    async def cache(self, offset: int, length: int) -> None:
        raise AssertionError("not announced")

    async def flush(self) -> None:
        self._versions.clear()
        self.flushes += 1

    async def extents(self, offset: int, length: int, count: int) -> Sequence[tuple[int, int]]:
        return [(length, 0)]

    def pause_s(self, length: int) -> float:
        return 0.0

    def count(self, kind: int, ops: int, length: int) -> None:
        pass

    def cut(self, dice: random.Random) -> None:
        """What the power cut leaves."""
        for offset, versions in self._versions.items():
            os.pwrite(self._fd, dice.choice([versions[0], dice.choice(versions)]), offset)
        print(f"{self.flushes} flushes, {len(self._versions)} blocks in the cache", flush=True)


class _Exports:
    """`VolatileDrive` as the server wants it."""

    def __init__(self, drive: VolatileDrive) -> None:
        self._drive = drive

    def names(self) -> Sequence[tuple[str, str]]:
        return [("", "")]

    async def describe(self, name: str) -> Description:
        return self._drive.describe()

    async def open(self, name: str) -> VolatileDrive:
        if name:
            raise NotFound(name)
        return self._drive

    async def leave(self, name: str, export: object, *, in_order: bool) -> None:
        pass


async def run(image: str, path: str, seed: str) -> None:
    drive = VolatileDrive(image)
    server = Server(_Exports(drive))
    cut = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cut.set)
    await server.listen_unix(path)
    await cut.wait()
    await server.close()
    drive.cut(random.Random(seed))
    blocking.close()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3]))
