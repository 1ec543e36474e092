"""One range of bytes over several files (blocking), because no file of ext4 has more than 16 TiB.

Part N holds the bytes from N TiB on. All parts are there from the beginning; they are sparse.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from g8node.linux.diskfile import DirectFile, DiskFile, Read, Write, read_each_now, sync_all, write_each

_SHIFT: Final = 40
PART_BYTES: Final = 1 << _SHIFT
_MASK: Final = PART_BYTES - 1


def part_sizes(size: int) -> list[int]:
    """The sizes of the files that together have `size` bytes."""
    return [min(PART_BYTES, size - start) for start in range(0, size, PART_BYTES)]


class Parts:
    """A `DiskFile` over others."""

    def __init__(self, files: Sequence[DiskFile] = ()) -> None:
        self._files: list[DiskFile] = []
        self._fd = -1
        for file in files:
            self.add(file)

    def add(self, file: DiskFile) -> None:
        """One more part behind the last one."""
        self._files.append(file)
        self._fd = file.writable_fd if isinstance(file, DirectFile) and len(self._files) == 1 else -1

    @staticmethod
    def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(part, offset in it, start, end) of a range's pieces."""
        start = 0
        while start < length:
            part, at = divmod(offset + start, PART_BYTES)
            end = min(length, start + PART_BYTES - at)
            yield part, at, start, end
            start = end

    @property
    def writable_fd(self) -> int:
        return self._fd

    def __len__(self) -> int:
        return len(self._files)

    def read_now(self, offset: int, into: memoryview) -> bool:
        part = offset >> _SHIFT
        if (offset + len(into) - 1) >> _SHIFT == part:
            return self._files[part].read_now(offset & _MASK, into)
        pieces = self._pieces(offset, len(into))
        return all(self._files[part].read_now(at, into[start:end]) for part, at, start, end in pieces)

    def read_many_now(self, reads: list[Read]) -> list[bool]:
        return self._files[0].read_many_now(reads) if len(self._files) == 1 else read_each_now(self, reads)

    def read(self, offset: int, into: memoryview) -> None:
        for part, at, start, end in self._pieces(offset, len(into)):
            self._files[part].read(at, into[start:end])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for part, at, start, end in self._pieces(offset, len(view)):
            self._files[part].write(at, view[start:end])

    def write_many(self, writes: Sequence[Write]) -> list[Exception | None]:
        part = writes[0][0] >> _SHIFT if writes else 0
        if all(offset >> _SHIFT == part == (offset + len(data) - 1) >> _SHIFT for offset, data in writes):
            return self._files[part].write_many([(offset & _MASK, data) for offset, data in writes])
        return write_each(self, writes)

    def punch(self, offset: int, length: int) -> None:
        for part, at, start, end in self._pieces(offset, length):
            self._files[part].punch(at, end - start)

    def zero(self, offset: int, length: int, *, fast: bool) -> None:
        for part, at, start, end in self._pieces(offset, length):
            self._files[part].zero(at, end - start, fast=fast)

    def truncate(self, size: int) -> None:
        """Set the size; there must be as many files as it takes."""
        for file, part in zip(self._files, part_sizes(size), strict=True):
            file.truncate(part)

    def size(self) -> int:
        return sum(file.size() for file in self._files)

    def sync(self) -> None:
        sync_all(self._files)

    def cache(self, offset: int, length: int) -> None:
        for part, at, start, end in self._pieces(offset, length):
            self._files[part].cache(at, end - start)

    def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
        found: list[tuple[int, bool]] = []
        for part, at, start, end in self._pieces(offset, length):
            if len(found) >= count:
                break
            found += self._files[part].extents(at, end - start, count - len(found))
        return found

    def close(self) -> None:
        for file in self._files:
            file.close()
