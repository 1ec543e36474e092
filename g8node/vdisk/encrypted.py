"""Encryption at rest (blocking): a `DiskFile` whose bytes lie encrypted in another one.

AES-256-XTS over units of 4 KiB, the unit's number as tweak. A hole is a hole in both: 512 bytes of zeros on
the disk read as zeros, since ciphertext is never that; so a thin vdisk stays thin, and whoever sees the disk
sees where nothing was written. XTS decrypts each 16 bytes by themselves: a write that a power loss tore at
512 bytes is old or new in each of them, encrypted or not.

Changing a part of a unit means to read, change and write it, so whoever works on units has them alone
(`_Units`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from g8node.linux.diskfile import DiskFile, Read, Write, read_each_now, write_each

UNIT: Final = 4096
_SECTOR: Final = 512
_ZEROS: Final = bytes(UNIT)
_RUN: Final = 256 * UNIT
_INLINE: Final = 16 * UNIT


class _Units:
    """Ranges of units that somebody works on: nobody else works on an overlapping one."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._taken: list[tuple[int, int]] = []

    def _free(self, first: int, last: int) -> bool:
        return not any(one <= last and first <= other for one, other in self._taken)

    def try_take(self, first: int, last: int) -> bool:
        with self._changed:
            if not self._free(first, last):
                return False
            self._taken.append((first, last))
            return True

    def give(self, first: int, last: int) -> None:
        with self._changed:
            self._taken.remove((first, last))
            self._changed.notify_all()

    @contextmanager
    def alone(self, offset: int, length: int) -> Iterator[None]:
        """Wait for the units of a range of bytes."""
        first, last = offset // UNIT, (offset + length - 1) // UNIT
        with self._changed:
            self._changed.wait_for(lambda: self._free(first, last))
            self._taken.append((first, last))
        try:
            yield
        finally:
            self.give(first, last)


class Xts:
    """Encrypts units of `unit` bytes, at most 4 KiB, by their numbers; zeros stand for zeros."""

    def __init__(self, key: bytes, unit: int = UNIT) -> None:
        self.unit = unit
        self._aes = AES(key)

    def _decrypt(self, unit: int, data: bytes) -> bytes:
        """One unit, or what the file has of its last one."""
        if data == _ZEROS[: len(data)]:
            return data
        plain = Cipher(self._aes, XTS(unit.to_bytes(16, "little"))).decryptor().update(data)
        if _ZEROS[:_SECTOR] not in data:
            return plain
        sectors = range(0, len(data), _SECTOR)
        zero = _ZEROS[:_SECTOR]
        return b"".join(
            zero if data[at : at + _SECTOR] == zero else plain[at : at + _SECTOR] for at in sectors
        )

    def _encrypt(self, unit: int, plain: bytes) -> bytes:
        return Cipher(self._aes, XTS(unit.to_bytes(16, "little"))).encryptor().update(plain)

    def seal(self, first: int, plain: bytes | bytearray | memoryview) -> bytes:
        """Whole units encrypted, the first one being number `first`."""
        size = self.unit
        return b"".join(
            self._encrypt(first + at // size, bytes(plain[at : at + size]))
            for at in range(0, len(plain), size)
        )

    def open(self, first: int, data: memoryview) -> None:
        """Decrypt whole units in place."""
        for at in range(0, len(data), self.unit):
            data[at : at + self.unit] = self._decrypt(
                first + at // self.unit, bytes(data[at : at + self.unit])
            )


class EncryptedFile:
    """See the module."""

    def __init__(self, inner: DiskFile, key: bytes) -> None:
        self._inner = inner
        self._xts = Xts(key)
        self._units = _Units()
        self._size = inner.size()

    def _whole(self, offset: int, length: int) -> tuple[int, int]:
        """The range of whole units around a range, within the file."""
        start = offset // UNIT * UNIT
        end = -(-(offset + length) // UNIT) * UNIT
        if end > self._size:
            self._size = self._inner.size()  # it may have grown
            end = min(end, self._size)
        return start, end - start

    def read_now(self, offset: int, into: memoryview) -> bool:
        if len(into) > _INLINE:
            return False
        start, length = self._whole(offset, len(into))
        first, last = start // UNIT, (start + length - 1) // UNIT
        if not self._units.try_take(first, last):
            return False
        try:
            data = memoryview(bytearray(length))
            if not self._inner.read_now(start, data):
                return False
        finally:
            self._units.give(first, last)
        self._xts.open(first, data)
        into[:] = data[offset - start : offset - start + len(into)]
        return True

    def read_many_now(self, reads: list[Read]) -> list[bool]:
        return read_each_now(self, reads)

    def read(self, offset: int, into: memoryview) -> None:
        for at in range(0, len(into), _RUN):
            piece = into[at : at + _RUN]
            start, length = self._whole(offset + at, len(piece))
            data = memoryview(bytearray(length))
            with self._units.alone(start, length):
                self._inner.read(start, data)
            self._xts.open(start // UNIT, data)
            piece[:] = data[offset + at - start : offset + at - start + len(piece)]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while len(view):
            count = min(len(view), _RUN - offset % UNIT)
            self._write(offset, view[:count])
            offset, view = offset + count, view[count:]

    def write_many(self, writes: Sequence[Write]) -> list[Exception | None]:
        return write_each(self, writes)

    def _write(self, offset: int, data: memoryview) -> None:
        start, length = self._whole(offset, len(data))
        with self._units.alone(start, length):
            plain = memoryview(bytearray(length))
            if length != len(data):
                self._fill_edges(start, plain, offset, len(data))
            plain[offset - start : offset - start + len(data)] = data
            self._inner.write(start, self._xts.seal(start // UNIT, plain))

    def _fill_edges(self, start: int, plain: memoryview, offset: int, length: int) -> None:
        """What the first and the last unit hold now."""
        last = (len(plain) - 1) // UNIT * UNIT
        for at in {0, last}:
            piece = plain[at : at + UNIT]
            self._inner.read(start + at, piece)
            self._xts.open((start + at) // UNIT, piece)

    def punch(self, offset: int, length: int) -> None:
        self._clear(offset, length, lambda at, count: self._inner.punch(at, count))

    def zero(self, offset: int, length: int, *, fast: bool) -> None:
        self._clear(offset, length, lambda at, count: self._inner.zero(at, count, fast=fast))

    def _clear(self, offset: int, length: int, clear: Callable[[int, int], None]) -> None:
        """Whole sectors in one go; parts of sectors are written as zeros."""
        end = offset + length
        start = min(-(-offset // _SECTOR) * _SECTOR, end)
        stop = max(end // _SECTOR * _SECTOR, start)
        if start > offset:
            self.write(offset, bytes(start - offset))
        if stop > start:
            with self._units.alone(start, stop - start):
                clear(start, stop - start)
        if end > stop:
            self.write(stop, bytes(end - stop))

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)
        self._size = size

    def size(self) -> int:
        return self._inner.size()

    def sync(self) -> None:
        self._inner.sync()

    def cache(self, offset: int, length: int) -> None:
        self._inner.cache(offset, length)

    def extents(self, offset: int, length: int, count: int) -> list[tuple[int, bool]]:
        return self._inner.extents(offset, length, count)

    def close(self) -> None:
        self._inner.close()
