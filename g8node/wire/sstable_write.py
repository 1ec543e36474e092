"""Files of a RocksDB database (pure): one table, and the MANIFEST and CURRENT that make it a directory.

The table has format version 2, which libraries of 2015 read, one index block, no compression and no filter;
blocks and MANIFEST have CRC-32C. All keys carry sequence number 1. Layouts: `sstable.py`; a MANIFEST is a log
whose records are lists of tagged fields. The bytes depend on the records only.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from g8node.wire.kernels import crc32c

_BLOCK_BYTES: Final = 4096
_RESTART: Final = 16
_KIND_VALUE: Final = 1
_SEQUENCE: Final = 1
_INTERNAL: Final = struct.pack("<Q", _SEQUENCE << 8 | _KIND_VALUE)
_MAGIC: Final = bytes.fromhex("f7cff485b741e288")
_FORMAT: Final = 2
_CRC32C: Final = 1
_COMPARATOR: Final = b"leveldb.BytewiseComparator"
_TABLE: Final = 4
_MANIFEST: Final = 1
_LOG_BLOCK: Final = 32 * 1024
_LOG_HEADER: Final = 7


def database(records: Sequence[tuple[bytes, bytes]]) -> dict[str, bytes]:
    """Files by name. The records must be sorted by key, each key once, at least one."""
    table = build_table(records)
    edit = _field(1, _text(_COMPARATOR)) + _field(2, varint(0)) + _field(9, varint(0))
    edit += _field(3, varint(_TABLE + 1)) + _field(4, varint(_SEQUENCE))
    ends = _text(records[0][0] + _INTERNAL) + _text(records[-1][0] + _INTERNAL)
    place = varint(0) + varint(_TABLE) + varint(len(table))
    added = _field(100, place + ends + varint(_SEQUENCE) + varint(_SEQUENCE))
    return {
        "CURRENT": b"MANIFEST-%06d\n" % _MANIFEST,
        f"MANIFEST-{_MANIFEST:06}": log([edit, added]),
        f"{_TABLE:06}.sst": table,
    }


def _field(tag: int, value: bytes) -> bytes:
    return varint(tag) + value


def _text(value: bytes) -> bytes:
    return varint(len(value)) + value


def varint(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _checksum(*parts: bytes) -> bytes:
    crc = crc32c(b"".join(parts)) ^ 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def log(records: Iterable[bytes]) -> bytes:
    """Records as a log or MANIFEST holds them, cut at blocks of 32 KiB."""
    out = bytearray()
    for record in records:
        at, first = 0, True
        while first or at < len(record):
            room = _LOG_BLOCK - len(out) % _LOG_BLOCK
            if room < _LOG_HEADER:
                out += bytes(room)
                room = _LOG_BLOCK
            piece = record[at : at + room - _LOG_HEADER]
            at += len(piece)
            last = at == len(record)
            kind = bytes([(1 if last else 2) if first else (4 if last else 3)])
            out += _checksum(kind, piece) + struct.pack("<H", len(piece)) + kind + piece
            first = False
    return bytes(out)


class _Block:
    """Sorted entries with shared prefixes, and restarts where a key is whole."""

    def __init__(self, restart: int) -> None:
        self.data = bytearray()
        self._restart = restart
        self._restarts: list[int] = []
        self._last = b""
        self._count = 0

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count % self._restart:
            limit = min(len(key), len(self._last))
            while shared < limit and key[shared] == self._last[shared]:
                shared += 1
        else:
            self._restarts.append(len(self.data))
        head = varint(shared) + varint(len(key) - shared) + varint(len(value))
        self.data += head + key[shared:] + value
        self._last = key
        self._count += 1

    def finish(self) -> bytes:
        restarts = self._restarts or [0]
        return bytes(self.data) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray()

    def block(self, block: bytes) -> bytes:
        """Append with its trailer; the handle."""
        handle = varint(len(self.out)) + varint(len(block))
        kind = b"\0"
        self.out += block + kind + _checksum(block, kind)
        return handle


def build_table(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An .sst file of sorted records."""
    writer, index, block = _Writer(), _Block(1), _Block(_RESTART)
    counts = {b"rocksdb.num.entries": 0, b"rocksdb.raw.key.size": 0, b"rocksdb.raw.value.size": 0}
    blocks, last = 0, b""
    for key, value in records:
        if len(block.data) >= _BLOCK_BYTES:
            index.add(last, writer.block(block.finish()))
            block = _Block(_RESTART)
            blocks += 1
        last = key + _INTERNAL
        block.add(last, value)
        counts[b"rocksdb.num.entries"] += 1
        counts[b"rocksdb.raw.key.size"] += len(last)
        counts[b"rocksdb.raw.value.size"] += len(value)
    index.add(last, writer.block(block.finish()))
    counts |= {
        b"rocksdb.data.size": len(writer.out),
        b"rocksdb.index.size": len(index.finish()) + 5,
        b"rocksdb.num.data.blocks": blocks + 1,
        b"rocksdb.format.version": 0,
        b"rocksdb.fixed.key.length": 0,
    }
    properties = writer.block(_properties(counts))
    meta = _Block(1)
    meta.add(b"rocksdb.properties", properties)
    handles = writer.block(meta.finish()) + writer.block(index.finish())
    footer = bytes([_CRC32C]) + handles.ljust(40, b"\0") + struct.pack("<I", _FORMAT) + _MAGIC
    return bytes(writer.out) + footer


def _properties(counts: dict[bytes, int]) -> bytes:
    values = {name: varint(count) for name, count in counts.items()}
    values[b"rocksdb.comparator"] = _COMPARATOR
    values[b"rocksdb.block.based.table.index.type"] = bytes(4)
    values[b"rocksdb.block.based.table.whole.key.filtering"] = b"0"
    values[b"rocksdb.block.based.table.prefix.filtering"] = b"0"
    block = _Block(1)
    for name, value in sorted(values.items()):
        block.add(name, value)
    return block.finish()
