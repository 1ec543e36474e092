"""A vdisk on clusters as a block device (async): bytes to blocks, and many requests to few commands.

What changes parts of blocks reads, merges and writes whole blocks, which nobody else changes meanwhile. A
write is answered when the servers have answered; how durable it is then is their own setting (appendfsync).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from g8node.errors import Unavailable
from g8node.vdisk.abilities import describe
from g8node.vdisk.cluster.blocks import Answer, Blocks
from g8node.vdisk.limits import Counters, Throttle
from g8node.vdisk.record import Record
from g8node.wire import nbd
from g8node.wire.nbd_handshake import Description

_ZERO_BLOCKS: Final = 4096
"""Blocks that are zeroed at once."""
_EXTENT_BLOCKS: Final = 8192
"""Blocks that one question for extents looks at; the client asks on."""


class ClusterVdisk:
    """An export (see nbd.export), also one that takes reads in batches."""

    def __init__(self, blocks: Blocks, record: Record) -> None:
        self.blocks = blocks
        self.counters = Counters()
        self.count = self.counters.count
        self.change(record)

    def describe(self) -> Description:
        return describe(self.record)

    def change(self, record: Record) -> None:
        """Another size for those who connect from now on."""
        self.record = record
        self._size = record.block_size
        self._zeros = bytes(record.block_size)
        throttle = Throttle(record.limits)
        self.limited, self.pause_s = throttle.limited, throttle.pause_s

    # Reading

    def read_many_now(self, reads: list[tuple[int, memoryview]]) -> list[bool]:
        return [False] * len(reads)

    def lanes(self, offsets: Sequence[int]) -> Sequence[int]:
        """By server, while one of them is slow to answer."""
        if not self.blocks.late:
            return ()
        return [self.blocks.lane(offset // self._size) for offset in offsets]

    async def read(self, offset: int, into: memoryview) -> None:
        (error,) = await self.read_many([(offset, into)])
        if error is not None:
            raise error

    async def read_many(self, reads: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        size = self._size
        wanted: dict[int, None] = {}
        for offset, into in reads:
            wanted.update(dict.fromkeys(range(offset // size, (offset + len(into) - 1) // size + 1)))
        answers = await self.blocks.get(list(wanted))
        return [self._fill(offset, into, answers) for offset, into in reads]

    def _fill(self, offset: int, into: memoryview, answers: Mapping[int, Answer]) -> Exception | None:
        size, length = self._size, len(into)
        at = 0
        while at < length:
            block, start = divmod(offset + at, size)
            count = min(size - start, length - at)
            data = answers[block]
            if isinstance(data, Unavailable):
                return data
            piece = b"" if data is None else data if count == len(data) else data[start : start + count]
            into[at : at + len(piece)] = piece
            if len(piece) < count:
                into[at + len(piece) : at + count] = self._zeros[: count - len(piece)]
            at += count
        return None

    # Writing

    async def write_many(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        size = self._size
        pieces: dict[int, list[tuple[int, memoryview]]] = {}
        for offset, data in writes:
            at = 0
            while at < len(data):
                block, start = divmod(offset + at, size)
                count = min(size - start, len(data) - at)
                pieces.setdefault(block, []).append((start, data[at : at + count]))
                at += count
        async with self.blocks.locks.hold(list(pieces)):
            failures = await self._write(pieces)
        if not failures:
            return [None] * len(writes)
        return [
            next((failures[one] for one in self._covered(offset, len(data)) if one in failures), None)
            for offset, data in writes
        ]

    def _covered(self, offset: int, length: int) -> range:
        return range(offset // self._size, (offset + length - 1) // self._size + 1)

    async def _write(self, pieces: Mapping[int, Sequence[tuple[int, memoryview]]]) -> dict[int, Exception]:
        """Change blocks that are held; the failures."""
        failures: dict[int, Exception] = {}
        whole: dict[int, bytes | memoryview] = {}
        partly: list[int] = []
        for block, parts in pieces.items():
            if len(parts) == 1 and len(parts[0][1]) == self._size:
                whole[block] = parts[0][1]
            else:
                partly.append(block)
        if partly:
            # A piece that covers the block makes what was there before unimportant, but that is rare.
            for block, before in (await self.blocks.get(partly)).items():
                if isinstance(before, Unavailable):
                    failures[block] = before
                else:
                    whole[block] = self._merged(before or b"", pieces[block])
        zeros = [block for block, data in whole.items() if data == self._zeros]
        for block in zeros:
            del whole[block]
        if whole:
            failures |= await self.blocks.put(whole)
        if zeros:
            failures |= await self.blocks.drop(zeros)
        return failures

    def _merged(self, before: bytes, parts: Sequence[tuple[int, memoryview]]) -> bytes:
        block = bytearray(before[: self._size].ljust(self._size, b"\0"))
        for start, data in parts:
            block[start : start + len(data)] = data
        return bytes(block)

    async def zero(self, offset: int, length: int, *, keep: bool, fast: bool) -> None:
        """Space is never kept: the servers have none to set aside."""
        size, end = self._size, offset + length
        first, last = -(-offset // size), end // size
        edges = []
        if offset < first * size:
            edges.append((offset, memoryview(bytes(min(end, first * size) - offset))))
        if end > last * size and last >= first:
            edges.append((last * size, memoryview(bytes(end - last * size))))
        for error in await self.write_many(edges) if edges else ():
            if error is not None:
                raise error
        for at in range(first, last, _ZERO_BLOCKS):
            blocks = range(at, min(at + _ZERO_BLOCKS, last))
            async with self.blocks.locks.hold(blocks):
                failures = await self.blocks.drop(blocks)
            if failures:
                raise next(iter(failures.values()))

    async def trim(self, offset: int, length: int) -> None:
        await self.zero(offset, length, keep=False, fast=False)

    async def cache(self, offset: int, length: int) -> None:
        """Never asked for: it is not advertised."""

    async def flush(self) -> None:
        await self.blocks.flush()

    async def extents(self, offset: int, length: int, count: int) -> Sequence[tuple[int, int]]:
        blocks = self._covered(offset, length)[:_EXTENT_BLOCKS]
        end = min(offset + length, blocks[-1] * self._size + self._size)
        extents: list[tuple[int, int]] = []
        at = offset
        for block, present in zip(blocks, await self.blocks.present(blocks), strict=True):
            state = 0 if present else nbd.STATE_HOLE | nbd.STATE_ZERO
            until = min((block + 1) * self._size, end)
            if extents and extents[-1][1] == state:
                extents[-1] = (extents[-1][0] + until - at, state)
            elif len(extents) == count:
                break
            else:
                extents.append((until - at, state))
            at = until
        return extents

    async def close(self) -> None:
        """Flush what is not yet, then let go of the servers."""
        try:
            if not self.record.read_only:
                await self.blocks.flush()
        finally:
            await self.blocks.close()
