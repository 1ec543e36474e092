"""Which blocks of a plain clone are its own (blocking): one bit a block in a sparse file.

A bit is set once, and never cleared. Whoever sets it has made sure before that the block's own bytes are on
the disk: then it does not matter when the bit gets there.
"""

from collections.abc import Iterator
from typing import Final

from g8node.linux.diskfile import DiskFile

_PAGE: Final = 4096
_BITS: Final = 8 * _PAGE


def file_size(blocks: int) -> int:
    """Bytes of the file for so many blocks."""
    return -(-blocks // 8)


class Owned:
    """See the module. One thread at a time adds; blocks from `blocks` on are never asked for."""

    def __init__(self, file: DiskFile, blocks: int) -> None:
        self._file = file
        self.blocks = blocks
        self._pages: dict[int, int] = {}
        self._dirty = False

    def short(self) -> bool:
        """Whether the file has lost some of what it should hold."""
        return self._file.size() < file_size(self.blocks)

    def _page(self, number: int) -> int:
        """Its bits, as one number."""
        if (page := self._pages.get(number)) is None:
            data = bytearray(_PAGE)
            self._file.read(number * _PAGE, memoryview(data))
            page = self._pages.setdefault(number, int.from_bytes(data, "little"))
        return page

    @staticmethod
    def _pieces(first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(page, bit of it, bits) of a range."""
        end = first + count
        while first < end:
            page, at = divmod(first, _BITS)
            bits = min(end - first, _BITS - at)
            yield page, at, bits
            first += bits

    def all_now(self, first: int, count: int) -> bool:
        """Whether all of them are known to be its own, without waiting for a disk."""
        for number, at, bits in self._pieces(first, count):
            page = self._pages.get(number)
            mask = (1 << bits) - 1
            if page is None or page >> at & mask != mask:
                return False
        return True

    def runs(self, first: int, count: int) -> Iterator[tuple[int, bool]]:
        """(blocks, own) one after the other; neighbours may be alike."""
        for number, at, bits in self._pieces(first, count):
            mask = (1 << bits) - 1
            found = self._page(number) >> at & mask
            if found in (0, mask):
                yield bits, bool(found)
                continue
            text = f"{found:0{bits}b}"[::-1]
            done = 0
            while done < bits:
                own = text[done]
                end = text.find("0" if own == "1" else "1", done)
                end = bits if end < 0 else end
                yield end - done, own == "1"
                done = end

    def add(self, first: int, count: int) -> None:
        """They are its own from now on."""
        for number, at, bits in self._pieces(first, count):
            page = self._page(number) | ((1 << bits) - 1) << at
            low, high = at // 8, -(-(at + bits) // 8)
            self._file.write(number * _PAGE + low, page.to_bytes(_PAGE, "little")[low:high])
            self._pages[number] = page
            self._dirty = True

    def sync(self) -> None:
        """What was added before survives a power loss when this returns."""
        if self._dirty:
            self._dirty = False
            self._file.sync()

    def close(self) -> None:
        self._file.close()
