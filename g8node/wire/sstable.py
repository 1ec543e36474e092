"""A bounded reader of RocksDB's files (pure): block-based tables and write-ahead logs, to plain records.

RocksDB itself is not let near a stranger's directory: a crafted MANIFEST keeps it busy for ever, and it is a
large C++ program in the process that must not die. An flist needs little of it: every record of every table
and log, the newest sequence number of a key winning. The MANIFEST is not read, since an archived directory
holds live files only. Checksums of blocks are not checked, for whoever can change a block can change them;
damage in transit is gzip's and the flist digest's to find.

    table   data blocks, meta blocks, index block, footer (checksum type, handles, version, magic)
    block   entries (shared, unshared, value length as varints; key suffix; value), restart array, its length;
            then 1 byte compression type and 4 bytes checksum
    key     user key, 7 bytes sequence number, 1 byte type
    log     blocks of 32 KiB of records: checksum 4, length 2, type 1 (full, first, middle, last), write batch

Sources: RocksDB wiki, "BlockBasedTable Format" and "Write Ahead Log File Format". Versions 1 to 6 of tables;
refused: partitioned indexes, merge operands, blobs, wide columns, column families other than the default.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import cramjam

from g8node.errors import InvalidArgument

KEY_MAX: Final = 4096
_MAGIC: Final = bytes.fromhex("f7cff485b741e288")
_FOOTER: Final = 53
_TRAILER: Final = 5
_EXTENDED_MAGIC: Final = b"\x3e\x00\x7a\x00"
_NO_COMPRESSION, _SNAPPY, _LZ4, _LZ4HC, _ZSTD = 0, 1, 4, 5, 7
_DELETION, _VALUE, _LOG_DATA, _SINGLE_DELETION, _NOOP = 0, 1, 3, 7, 13
_INDEX_TYPE: Final = b"rocksdb.block.based.table.index.type"
_DELTA_VALUES: Final = b"rocksdb.index.value.is.delta.encoded"
_LOG_BLOCK: Final = 32 * 1024
_LOG_HEADER: Final = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_BATCH: Final = struct.Struct("<QI")


class Version(NamedTuple):
    """One write of a key; value None is a deletion."""

    key: bytes
    sequence: int
    value: bytes | None


class Budget:
    """Bytes that may still be unpacked, for all files of a directory together."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit

    def spend(self, size: int) -> None:
        """Count bytes; InvalidArgument when there are too many."""
        self._left -= size
        if self._left < 0:
            raise InvalidArgument(f"tables unpack to more than {self._limit} bytes")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidArgument("number runs out of its block")


def _piece(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise InvalidArgument("record runs out of its block")
    return data[at : at + size]


class _Table:
    def __init__(self, data: bytes, budget: Budget) -> None:
        if len(data) < _FOOTER or data[-8:] != _MAGIC:
            raise InvalidArgument("no block-based RocksDB table")
        self._data = data
        self._budget = budget
        footer = data[-_FOOTER:]
        self._version = int.from_bytes(footer[41:45], "little")
        if not 1 <= self._version <= 6:
            raise InvalidArgument(f"table of version {self._version}, expected 1 to 6")
        if self._version == 6:
            self._index = self._newest_footer(footer)
        else:
            at = 1
            handles = []
            for _ in range(4):
                value, at = _varint(footer, at)
                handles.append(value)
            self._meta = dict(self._entries(self._block(handles[0], handles[1])))
            self._index = (handles[2], handles[3])

    def _newest_footer(self, footer: bytes) -> tuple[int, int]:
        if footer[1:5] != _EXTENDED_MAGIC:
            raise InvalidArgument("table footer has no extended magic")
        size = int.from_bytes(footer[13:17], "little")
        self._meta = dict(self._entries(self._block(len(self._data) - _FOOTER - _TRAILER - size, size)))
        return _handle(self._meta.get(b"rocksdb.index", b""))

    def records(self) -> Iterator[Version]:
        """Every version of every key."""
        for start, size in self._data_blocks():
            for key, value in self._entries(self._block(start, size)):
                if len(key) < 8:
                    raise InvalidArgument(f"table key of {len(key)} bytes, expected at least 8")
                yield _version(key[:-8], int.from_bytes(key[-8:], "little"), value)

    def _data_blocks(self) -> Iterator[tuple[int, int]]:
        properties = self._properties()
        if properties.get(_INDEX_TYPE, bytes(4)) != bytes(4):
            raise InvalidArgument("table index is not a plain one")
        index = self._block(*self._index)
        if properties.get(_DELTA_VALUES, b"\0") == b"\0":
            for _, value in self._entries(index):
                yield _handle(value)
        else:
            yield from _delta_index(index)

    def _properties(self) -> dict[bytes, bytes]:
        handle = self._meta.get(b"rocksdb.properties")
        return dict(self._entries(self._block(*_handle(handle)))) if handle else {}

    def _block(self, start: int, size: int) -> bytes:
        end = start + size
        if start < 0 or end + _TRAILER > len(self._data):
            raise InvalidArgument("block lies outside of its table")
        block, kind = self._data[start:end], self._data[end]
        if kind != _NO_COMPRESSION:
            return self._decompress(block, kind)
        self._budget.spend(size)
        return block

    def _decompress(self, block: bytes, kind: int) -> bytes:
        at = 0
        if kind == _SNAPPY or self._version >= 2:
            size, at = _varint(block, 0)
        else:
            raise InvalidArgument(f"table of version 1 with compression {kind}")
        self._budget.spend(size)
        out = bytearray(size)
        try:
            if kind == _SNAPPY:
                written = cramjam.snappy.decompress_raw_into(block, out)
            elif kind == _ZSTD:
                written = cramjam.zstd.decompress_into(block[at:], out)
            elif kind in (_LZ4, _LZ4HC):
                written = cramjam.lz4.decompress_block_into(block[at:], out, size)
            else:
                raise InvalidArgument(f"block compression {kind} is not supported")
        except cramjam.DecompressionError as error:
            raise InvalidArgument(f"block: {error}") from None
        if written != size:
            raise InvalidArgument(f"block unpacks to {written} bytes, expected {size}")
        return bytes(out)

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a block."""
        end = _restarts(block)
        key, at = b"", 0
        while at < end:
            shared, at = _varint(block, at)
            unshared, at = _varint(block, at)
            size, at = _varint(block, at)
            if shared > len(key) or shared + unshared > KEY_MAX or at + unshared + size > end:
                raise InvalidArgument("entry runs out of its block")
            key = key[:shared] + block[at : at + unshared]
            at += unshared
            yield key, block[at : at + size]
            at += size


def _restarts(block: bytes) -> int:
    """Offset of the restart array, where the entries end."""
    count = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * count
    if len(block) < 4 or count >> 31 or end < 0:
        raise InvalidArgument("block has no plain restart array")
    return end


def _delta_index(block: bytes) -> Iterator[tuple[int, int]]:
    """Block handles of an index of version 4 and later: no value lengths, sizes as differences."""
    end = _restarts(block)
    at = start = size = 0
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        at += unshared
        if shared == 0:
            start, at = _varint(block, at)
            size, at = _varint(block, at)
        else:
            change, at = _varint(block, at)
            start += size + _TRAILER
            size += change >> 1 ^ -(change & 1)
        if at > end or size < 0:
            raise InvalidArgument("index entry runs out of its block")
        yield start, size


def _handle(value: bytes) -> tuple[int, int]:
    start, at = _varint(value, 0)
    size, _ = _varint(value, at)
    return start, size


def _version(key: bytes, trailer: int, value: bytes) -> Version:
    kind, sequence = trailer & 0xFF, trailer >> 8
    if kind == _VALUE:
        return Version(key, sequence, value)
    if kind in (_DELETION, _SINGLE_DELETION):
        return Version(key, sequence, None)
    raise InvalidArgument(f"record {key[:80]!r} has type {kind}, expected a value or a deletion")


def read_table(data: bytes, budget: Budget) -> Iterator[Version]:
    """Every version of every key in an .sst file."""
    return _Table(data, budget).records()


def read_log(data: bytes) -> Iterator[Version]:
    """Every write in a .log file. A torn end, as a crash leaves it, ends the log."""
    batch = bytearray()
    for kind, payload in _log_records(data):
        if kind in (_FULL, _FIRST):
            batch.clear()
        batch += payload
        if kind in (_FULL, _LAST):
            yield from _batch(bytes(batch))


def _log_records(data: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(data), _LOG_BLOCK):
        block = data[start : start + _LOG_BLOCK]
        at = 0
        while at + _LOG_HEADER.size <= len(block):
            _, size, kind = _LOG_HEADER.unpack_from(block, at)
            at += _LOG_HEADER.size
            if kind == 0 and size == 0:
                break
            if not _FULL <= kind <= _LAST:
                raise InvalidArgument(f"log record of type {kind}, expected 1 to 4")
            if at + size > len(block):
                return
            yield kind, block[at : at + size]
            at += size


def _batch(data: bytes) -> Iterator[Version]:
    if len(data) < _BATCH.size:
        raise InvalidArgument(f"write batch of {len(data)} bytes")
    sequence, _ = _BATCH.unpack_from(data)
    at = _BATCH.size
    while at < len(data):
        kind = data[at]
        at += 1
        if kind == _NOOP:
            continue
        if kind not in (_VALUE, _DELETION, _SINGLE_DELETION, _LOG_DATA):
            raise InvalidArgument(f"write of type {kind}, expected a value or a deletion")
        size, at = _varint(data, at)
        key = _piece(data, at, size)
        at += size
        if kind == _LOG_DATA:
            continue
        value = b""
        if kind == _VALUE:
            size, at = _varint(data, at)
            value = _piece(data, at, size)
            at += size
        yield _version(key, sequence << 8 | kind, value)
        sequence += 1
