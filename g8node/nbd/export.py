"""What the server asks of a block device, and what it answers when that fails (pure)."""

import errno
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from g8node.errors import Exhausted, InvalidArgument, NodeError, PermissionDenied
from g8node.wire import nbd
from g8node.wire.nbd_handshake import Description

Extent = tuple[int, int]
"""Bytes, and STATE_HOLE | STATE_ZERO of base:allocation."""


class Export(Protocol):
    """One block device, shared by all its connections.

    The server has checked ranges and permissions. Requests that overlap and are in flight together may be
    done in any order; each single block of one write is written whole. Failures are NodeError or OSError.
    """

    def describe(self) -> Description:
        """Size and abilities now; a connection keeps those of its handshake."""

    def read_many_now(self, reads: list[tuple[int, memoryview]]) -> list[bool]:
        """Fill every (offset, into) without waiting for anything; False where that is not possible."""

    async def read(self, offset: int, into: memoryview) -> None:
        """Fill `into`."""

    async def write_many(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        """What became of each (offset, data), in order. The data may be kept only until this returns."""

    async def zero(self, offset: int, length: int, *, keep: bool, fast: bool) -> None:
        """Make the range read as zeros. `keep`: with space for it; `fast`: ENOTSUP rather than slowly."""

    async def trim(self, offset: int, length: int) -> None:
        """The range is not needed any more; it reads as zeros afterwards."""

    async def cache(self, offset: int, length: int) -> None:
        """The range will be read soon."""

    async def flush(self) -> None:
        """All changes that were answered before this was called survive a power loss."""

    async def extents(self, offset: int, length: int, count: int) -> Sequence[Extent]:
        """The state of the range from its beginning on, at least one extent and at most `count`."""

    limited: bool
    """Whether `pause_s` must be asked."""

    def pause_s(self, length: int) -> float:
        """0: one more request of so many bytes may begin, and is accounted; else the seconds to wait."""

    def count(self, kind: int, ops: int, length: int) -> None:
        """Statistics: so many requests of that command and their bytes were taken in."""


@runtime_checkable
class BatchedExport(Protocol):
    """An export that reads several ranges in less than their sum; `read_many_now` never succeeds."""

    def lanes(self, offsets: Sequence[int]) -> Sequence[int]:
        """Reads of one lane are given to `read_many` together; those of others need not wait for them.

        None at all: all reads may be given together.
        """

    async def read_many(self, reads: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        """Fill every (offset, into); what became of each, in order."""


@runtime_checkable
class DurableExport(Protocol):
    """An export that writes and flushes in less than their sum."""

    async def write_durably(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        """As `write_many`; what was written survives a power loss. Raises when that is not certain."""


@runtime_checkable
class LoneExport(Protocol):
    """An export that a thread can write to and flush by itself, with the last three methods (blocking)."""

    def take(self) -> bool:
        """Whether a thread may do so from now on, until `give_back`. There is one at most."""

    def give_back(self) -> None:
        """The thread is done."""

    @property
    def wanted(self) -> bool:
        """Whether the thread should come to an end. May be asked by it."""

    def write_here(self, offset: int, data: memoryview, *, durable: bool) -> None:
        """Written when it returns; if `durable`, it survives a power loss."""

    def flush_here(self) -> None:
        """As `Export.flush`."""


class Exports(Protocol):
    """The export names that a server knows."""

    def names(self) -> Sequence[tuple[str, str]]:
        """(name, description) of what is listed."""

    async def describe(self, name: str) -> Description:
        """NotFound for an unknown name."""

    async def open(self, name: str) -> Export:
        """For one more connection. NotFound, Unavailable."""

    async def leave(self, name: str, export: Export, *, in_order: bool) -> None:
        """One connection less; `in_order`: the client said that it goes (DISC)."""


_ERRNOS: Final[dict[int, int]] = {
    errno.ENOSPC: nbd.ENOSPC,
    errno.EDQUOT: nbd.ENOSPC,
    errno.EFBIG: nbd.ENOSPC,
    errno.EROFS: nbd.EPERM,
    errno.EPERM: nbd.EPERM,
    errno.EACCES: nbd.EPERM,
    errno.EINVAL: nbd.EINVAL,
    errno.ENOMEM: nbd.ENOMEM,
    errno.EOPNOTSUPP: nbd.ENOTSUP,
}


def errno_of(error: Exception) -> int:
    """The protocol's error for a failure; EIO for all that has no better one."""
    if isinstance(error, Exhausted):
        return nbd.ENOSPC
    if isinstance(error, InvalidArgument):
        return nbd.EINVAL
    if isinstance(error, PermissionDenied):
        return nbd.EPERM
    if isinstance(error, MemoryError):
        return nbd.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNOS.get(error.errno, nbd.EIO)
    return nbd.EIO


def is_bug(error: Exception) -> bool:
    """Whether the failure is one that nobody foresaw."""
    return not isinstance(error, NodeError | OSError | MemoryError)
