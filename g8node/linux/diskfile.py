"""Files that hold blocks: the one seam through which the block stores touch a disk (blocking).

`Disk` and `DiskFile` say what a store may do and what it may rely on after a power loss: nothing of what was
changed since the last `sync` of that file, each 512 bytes of it old or new, in any order; names only after
`sync_folder`. `KernelDisk` does it for real. Tests put a recorder in its place and replay what a crash
may leave.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from g8node.errors import NodeError
from g8node.linux._batch import pread_many, pwrite_many
from g8node.linux.guard import off_loop
from g8node.linux.nowait import in_memory

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_ZERO_RANGE: Final = 16
_ZEROS: Final = bytes(1 << 20)
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 8)


Read = tuple[int, memoryview]
Write = tuple[int, memoryview]


class DiskFile(Protocol):
    """One open file. Offsets and lengths in bytes; OSError as the kernel gives it."""

    def read_now(self, offset: int, into: memoryview) -> bool:
        """Fill `into` without waiting for a disk; False when that is not possible. May run on the loop."""

    def read_many_now(self, reads: list[Read]) -> list[bool]:
        """`read_now` of each (offset, into); False also for what failed, as `read` will."""

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into`; what lies beyond the end of the file reads as zeros."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of it."""

    def write_many(self, writes: Sequence[Write]) -> list[Exception | None]:
        """Write each (offset, data), in order; what became of them."""

    def punch(self, offset: int, length: int) -> None:
        """Make the range read as zeros and give its space back."""

    def zero(self, offset: int, length: int, *, fast: bool) -> None:
        """Make the range read as zeros and keep space for it; EOPNOTSUPP if `fast` and it is slow."""

    def truncate(self, size: int) -> None:
        """Set the file's size."""

    def size(self) -> int:
        """The file's size."""

    def sync(self) -> None:
        """What was written before survives a power loss when this returns."""

    def cache(self, offset: int, length: int) -> None:
        """Begin to read the range into memory."""

    def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
        """(bytes, holds data) from `offset` on, at most `count`; together at most `length` bytes."""

    def close(self) -> None:
        """Give the descriptor back; not usable afterwards."""


@runtime_checkable
class DirectFile(Protocol):
    """A `DiskFile` whose bytes are those of a descriptor."""

    @property
    def writable_fd(self) -> int:
        """Of which; -1 when there is more than one by now."""


class Disk(Protocol):
    """The names of files."""

    def open(self, path: str, *, create: bool = False) -> DiskFile:
        """Open for reading and writing. `create`: it must not exist."""

    def make_folder(self, path: str) -> None:
        """An empty folder that must not exist."""

    def replace(self, old: str, new: str) -> None:
        """Rename, in place of what has the new name."""

    def unlink(self, path: str) -> None:
        """Remove a file."""

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""

    def names(self, path: str) -> list[str]:
        """What a folder holds, sorted; nothing when it does not exist."""

    def sync_folder(self, path: str) -> None:
        """The names in the folder survive a power loss when this returns."""


class KernelFile:
    """A `DiskFile` of the kernel."""

    def __init__(self, path: str, flags: int) -> None:
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self._now = 0 if in_memory(self.fd) else _NOWAIT

    @property
    def writable_fd(self) -> int:
        return self.fd

    def read_now(self, offset: int, into: memoryview) -> bool:
        try:
            return os.preadv(self.fd, (into,), offset, self._now) == len(into)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False
            raise

    def read_many_now(self, reads: list[Read]) -> list[bool]:
        return [not error for error in pread_many(self.fd, reads, self._now)]

    @off_loop
    def read(self, offset: int, into: memoryview) -> None:
        while len(into):
            got = os.preadv(self.fd, (into,), offset)
            if got == 0:
                into[:] = bytes(len(into))
                return
            into, offset = into[got:], offset + got

    @off_loop
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        done = os.pwrite(self.fd, data, offset)
        while done < len(data):
            done += os.pwrite(self.fd, memoryview(data)[done:], offset + done)

    @off_loop
    def write_many(self, writes: Sequence[Write]) -> list[Exception | None]:
        return errors_of(pwrite_many(self.fd, list(writes)))  # without the GIL, and given back once for all

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        """False when the file system does not know the mode."""
        while _libc.fallocate(self.fd, mode, offset, length) != 0:
            code = ctypes.get_errno()
            if code in (errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))
        return True

    @off_loop
    def punch(self, offset: int, length: int) -> None:
        if not self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, length):
            self._write_zeros(offset, length)

    @off_loop
    def zero(self, offset: int, length: int, *, fast: bool) -> None:
        if self._fallocate(_ZERO_RANGE | _KEEP_SIZE, offset, length):
            return
        if fast:
            raise OSError(errno.EOPNOTSUPP, "the file system cannot zero a range")
        self._write_zeros(offset, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            offset += os.pwrite(self.fd, memoryview(_ZEROS)[: end - offset], offset)

    @off_loop
    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    @off_loop
    def sync(self) -> None:
        os.fdatasync(self.fd)

    @off_loop
    def cache(self, offset: int, length: int) -> None:
        os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_WILLNEED)

    @off_loop
    def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
        found: list[tuple[int, bool]] = []
        end = offset + length
        while offset < end and len(found) < count:
            data = self._seek(offset, os.SEEK_DATA, end)
            if data > offset:
                found.append((data - offset, False))
            elif (hole := self._seek(offset, os.SEEK_HOLE, end)) > offset:
                found.append((hole - offset, True))
                data = hole
            else:
                continue  # punched between the two questions
            offset = data
        return found

    def _seek(self, offset: int, whence: int, end: int) -> int:
        try:
            return min(os.lseek(self.fd, offset, whence), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return end
            raise

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class KernelDisk:
    """A `Disk` of the kernel."""

    @off_loop
    def open(self, path: str, *, create: bool = False) -> DiskFile:
        return KernelFile(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0))

    @off_loop
    def make_folder(self, path: str) -> None:
        os.mkdir(path, 0o700)

    @off_loop
    def replace(self, old: str, new: str) -> None:
        os.replace(old, new)

    @off_loop
    def unlink(self, path: str) -> None:
        os.unlink(path)

    @off_loop
    def remove_folder(self, path: str) -> None:
        os.rmdir(path)

    @off_loop
    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    @off_loop
    def sync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def read_whole(disk: Disk, path: str, limit: int) -> bytes:
    """A small file's bytes; OSError EFBIG when it has more than `limit`."""
    file = disk.open(path)
    try:
        if (size := file.size()) > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes", path)
        data = bytearray(size)
        file.read(0, memoryview(data))
        return bytes(data)
    finally:
        file.close()


def write_whole(disk: Disk, path: str, data: bytes) -> None:
    """Replace a small file: after a power loss it is the old one or this one, after return this one."""
    partial = f"{path}.new"
    if os.path.basename(partial) in disk.names(os.path.dirname(path)):
        disk.unlink(partial)
    file = disk.open(partial, create=True)
    try:
        file.write(0, data)
        file.sync()
    finally:
        file.close()
    disk.replace(partial, path)
    disk.sync_folder(os.path.dirname(path))


def errors_of(errnos: Sequence[int]) -> list[Exception | None]:
    """What became of each."""
    return [OSError(error, os.strerror(error)) if error else None for error in errnos]


class _ReadsNow(Protocol):
    def read_now(self, offset: int, into: memoryview) -> bool: ...


def read_each_now(file: _ReadsNow, reads: list[Read]) -> list[bool]:
    """For a file that has no quicker way to read many."""
    outcomes: list[bool] = []
    for offset, into in reads:
        try:
            outcomes.append(file.read_now(offset, into))
        except (OSError, NodeError):
            outcomes.append(False)
    return outcomes


def write_each(file: DiskFile, writes: Sequence[Write]) -> list[Exception | None]:
    """For a file that has no quicker way to write many."""
    outcomes: list[Exception | None] = []
    for offset, data in writes:
        try:
            file.write(offset, data)
            outcomes.append(None)
        except OSError as error:
            outcomes.append(error)
    return outcomes


def sync_all(files: Sequence[DiskFile]) -> None:
    """One after the other; the first failure ends it."""
    for file in files:
        file.sync()
