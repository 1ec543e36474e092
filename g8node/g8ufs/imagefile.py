"""One flist's virtual image file: a read becomes a plan, the plan becomes bytes (async).

Never a short answer: FUSE would shrink the file for good (feasibility 6). A read ends within its time limit,
whole or with EIO.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from g8node.errors import NodeError
from g8node.flist.plan import ChunkRef, ImagePlan, Kind, Piece
from g8node.g8ufs.cache import ChunkCache
from g8node.g8ufs.companions import Companions
from g8node.g8ufs.counters import STALL_S, Reads
from g8node.g8ufs.fetch import Fetcher
from g8node.g8ufs.nearby import Nearby
from g8node.g8ufs.profile import Recorder
from g8node.g8ufs.segments import Key
from g8node.linux.guard import off_loop
from g8node.linux.nowait import in_memory, pread_now
from g8node.runtime import blocking, logs
from g8node.store.base import Store

log = logs.get("g8ufs")

_INLINE_CHUNKS: Final = 4
"""A read that needs more chunks than this is assembled in a thread, with coalesced reads."""
_ZEROS: Final = bytes(4096)
_LOG_EVERY_S: Final = 1.0

Part = bytes | bytearray | memoryview


class ImageFile:
    """The bytes behind one entry of the session."""

    def __init__(
        self,
        plan: ImagePlan,
        store: Store,
        cache: ChunkCache,
        fetcher: Fetcher,
        *,
        read_timeout_s: float,
        around_bytes: int,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """`open` must follow, off the loop. `closed` is called once, at the end."""
        self._closed = closed
        self.plan = plan
        self.size = plan.size
        self._store = store
        self._cache = cache
        self._fetcher = fetcher
        self._read_timeout_s = read_timeout_s
        self._metadata = -1
        self._metadata_memory = False
        self._complained = float("-inf")
        self._suppressed = 0
        self.counters = Reads()
        self.recorder = Recorder(plan.chunk_count)
        self.nearby = Nearby(plan, store, cache, fetcher, first_bytes=around_bytes)
        self.companions = Companions(plan, store, fetcher, enabled=around_bytes > 0)

    @off_loop
    def open(self) -> None:
        """Open the metadata, which is local before anything is mounted."""
        self._metadata = os.open(self.plan.metadata_path, os.O_RDONLY | os.O_CLOEXEC)
        self._metadata_memory = in_memory(self._metadata)

    def close(self) -> None:
        """After the last release. Closing a local read-only file does not wait."""
        if self._metadata >= 0:
            os.close(self._metadata)
        self._metadata = -1
        closed, self._closed = self._closed, lambda: None
        closed()

    async def read(self, offset: int, length: int) -> Part:
        """Exactly the bytes asked for, clipped to the file's size. OSError(EIO) otherwise."""
        counters = self.counters
        counters.reads += 1
        pieces = self.plan.plan(offset, length)
        slots = [piece.chunk for piece in pieces if piece.kind is Kind.CHUNK]
        for slot in slots:
            self.recorder.note(slot)
        if slots:
            self.nearby.read(slots[0], slots[-1])
        try:
            data = await self._read(pieces, min(length, max(self.size - offset, 0)))
        except OSError:
            counters.errors += 1
            raise
        counters.read_bytes += len(data)
        return data

    async def read_again(self, offset: int, length: int) -> Part:
        """The same for what nobody asked for: it is not counted."""
        return await self._read(self.plan.plan(offset, length), min(length, max(self.size - offset, 0)))

    async def _read(self, pieces: Sequence[Piece], length: int) -> Part:
        parts = [self._now(piece, len(pieces)) for piece in pieces]
        absent = [at for at, part in enumerate(parts) if part is None]
        self.counters.hits += sum(
            piece.kind is Kind.CHUNK and part is not None for piece, part in zip(pieces, parts, strict=True)
        )
        if absent:
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._read_timeout_s):
                    late = await self._later([pieces[at] for at in absent], opening=absent[0] == 0)
            except TimeoutError:
                refs = [self.plan.chunk(pieces[at].chunk) for at in absent if pieces[at].kind is Kind.CHUNK]
                self._complain(refs[0] if refs else None, f"no data within {self._read_timeout_s:g} s")
                raise OSError(errno.EIO, "read timed out") from None
            finally:
                self.counters.stalls += time.monotonic() - began >= STALL_S
            for at, part in zip(absent, late, strict=True):
                parts[at] = part
        whole = [part for part in parts if part is not None]
        data = whole[0] if len(whole) == 1 else b"".join(whole)
        if len(data) != length:
            raise OSError(errno.EIO, "the plan does not cover the read")
        return data

    def _now(self, piece: Piece, count: int) -> Part | None:
        """The piece's bytes if nothing has to be waited for."""
        if piece.kind is Kind.ZERO:
            return memoryview(_ZEROS)[: piece.length] if piece.length <= len(_ZEROS) else bytes(piece.length)
        if piece.kind is Kind.METADATA:
            try:
                return pread_now(self._metadata, piece.length, piece.offset, memory=self._metadata_memory)
            except BlockingIOError:
                return None
        ref = self.plan.chunk(piece.chunk)
        key = Key(ref.id, ref.key)
        plain = self._cache.peek(key) if count <= 2 * _INLINE_CHUNKS else self._cache.recent.get(key)
        return None if plain is None else _cut(plain, piece)

    async def _later(self, pieces: Sequence[Piece], *, opening: bool) -> list[Part]:
        """The pieces that had to wait: metadata from disk, chunks from the cache, then from the store.

        `opening`: the read begins with the first of them.
        """
        parts: list[Part | None] = []
        refs: dict[int, ChunkRef] = {}
        for at, piece in enumerate(pieces):
            if piece.kind is Kind.METADATA:
                parts.append(await blocking.run("disk", os.pread, self._metadata, piece.length, piece.offset))
            else:
                parts.append(None)
                refs[at] = self.plan.chunk(piece.chunk)
        wanted = list(refs.items())
        cached = await self._cache.get_many([Key(ref.id, ref.key) for _, ref in wanted])
        absent: list[int] = []
        for (at, _), plain in zip(wanted, cached, strict=True):
            if plain is None:
                absent.append(at)
            else:
                self.counters.hits += 1
                parts[at] = _cut(plain, pieces[at])
        self.counters.misses += len(absent)
        if absent:
            self.nearby.missed(pieces[absent[-1]].chunk)
        for at, plain in zip(absent, await self._fetch([refs[at] for at in absent]), strict=True):
            if opening and at == 0 and pieces[0].offset == 0:
                self.companions.arrived(pieces[0].chunk, plain)
            parts[at] = _cut(plain, pieces[at])
        return [part for part in parts if part is not None]

    async def _fetch(self, refs: Sequence[ChunkRef]) -> list[bytes]:
        if not refs:
            return []
        got = await asyncio.gather(
            *(self._fetcher.get(self._store, ref) for ref in refs), return_exceptions=True
        )
        plains: list[bytes] = []
        for ref, result in zip(refs, got, strict=True):
            if isinstance(result, NodeError):
                self._complain(ref, str(result))
                raise OSError(errno.EIO, str(result)) from result
            if isinstance(result, BaseException):
                raise result
            plains.append(result)
        return plains

    def _complain(self, ref: ChunkRef | None, error: str) -> None:
        """One line a second at most, with the count of what was left out."""
        now = time.monotonic()
        if now - self._complained < _LOG_EVERY_S:
            self._suppressed += 1
            return
        log.error(
            "read failed",
            file=os.fsdecode(ref.file_name) if ref else "",
            chunk=ref.id.hex() if ref else "",
            error=error,
            suppressed=self._suppressed,
        )
        self._complained, self._suppressed = now, 0

    def is_local(self, piece: Piece) -> bool:
        """Whether the piece can be served without a store, as far as the index knows."""
        return piece.kind is not Kind.CHUNK or self._cache.has(self.plan.chunk(piece.chunk).id)


def _cut(plain: bytes, piece: Piece) -> Part:
    if piece.offset == 0 and piece.length == len(plain):
        return plain
    return memoryview(plain)[piece.offset : piece.offset + piece.length]
