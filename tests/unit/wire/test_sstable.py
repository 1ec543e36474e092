"""RocksDB's files, written by RocksDB itself in many ways, read by us; and files that lie."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    ChecksumType,
    DBCompressionType,
    Options,
    Rdict,
)

from g8node.errors import InvalidArgument
from g8node.wire.sstable import Budget, Version, read_log, read_table

LIMIT = 64 << 20


def options(**table: Any) -> Options:
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.set_disable_auto_compactions(True)
    compression = table.pop("compression", None)
    made.set_compression_type(compression or DBCompressionType.none())
    blocks = BlockBasedOptions()
    for name, value in table.items():
        getattr(blocks, f"set_{name}")(value)
    made.set_block_based_table_factory(blocks)
    return made


def tables(folder: Path, budget: int = LIMIT) -> dict[bytes, bytes | None]:
    """Newest version of every key in all tables and logs of the folder."""
    newest: dict[bytes, Version] = {}
    left = Budget(budget)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        found = (
            read_table(data, left)
            if path.suffix == ".sst"
            else read_log(data)
            if path.suffix == ".log"
            else iter(())
        )
        for version in found:
            known = newest.get(version.key)
            if known is None or version.sequence >= known.sequence:
                newest[version.key] = version
    return {key: version.value for key, version in newest.items()}


SAMPLE = {b"%064x" % (n * 7919): random.Random(n).randbytes(n % 400) for n in range(1500)}
SAMPLE[b"big"] = b"words " * 50_000


@pytest.mark.parametrize(
    "table",
    [
        {"format_version": 2},
        {"format_version": 3},
        {"format_version": 4},
        {"format_version": 5, "index_block_restart_interval": 16},
        {"format_version": 6},
        {"format_version": 6, "index_block_restart_interval": 8, "block_restart_interval": 1},
        {"format_version": 2, "compression": DBCompressionType.snappy()},
        {"format_version": 5, "compression": DBCompressionType.zstd()},
        {"format_version": 5, "compression": DBCompressionType.lz4()},
        {"checksum_type": ChecksumType.xxh3(), "block_size": 512},
    ],
    ids=str,
)
def test_reads_every_record_of_a_table(tmp_path: Path, table: dict[str, Any]) -> None:
    db = Rdict(str(tmp_path / "db"), options(**dict(table)))
    for key, value in SAMPLE.items():
        db[key] = value
    db.flush()
    db.close()
    assert tables(tmp_path / "db") == SAMPLE


def test_newest_version_wins_across_tables(tmp_path: Path) -> None:
    db = Rdict(str(tmp_path / "db"), options())
    for value in (b"old", b"new"):
        db[b"key"] = value
        db[b"gone"] = value
        db.flush()
    del db[b"gone"]
    db.flush()
    db.close()
    assert tables(tmp_path / "db") == {b"key": b"new", b"gone": None}


def test_reads_a_log_that_was_not_flushed(tmp_path: Path) -> None:
    db = Rdict(str(tmp_path / "db"), options())
    for key, value in SAMPLE.items():
        db[key] = value
    del db[b"big"]
    db.flush_wal(True)
    logs = {path.name: path.read_bytes() for path in (tmp_path / "db").glob("*.log")}
    db.close()
    (tmp_path / "copy").mkdir()
    for name, data in logs.items():
        (tmp_path / "copy" / name).write_bytes(data)
    assert tables(tmp_path / "copy") == {**SAMPLE, b"big": None}


@given(st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=60), max_size=30))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_agrees_with_rocksdb(tmp_path_factory: pytest.TempPathFactory, records: dict[bytes, bytes]) -> None:
    folder = tmp_path_factory.mktemp("db")
    db = Rdict(str(folder), options(block_size=64))
    for key, value in records.items():
        db[key] = value
    db.flush()
    db.close()
    assert tables(folder) == records


@pytest.fixture(scope="module")
def table_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("db")
    db = Rdict(str(folder), options(format_version=2, compression=DBCompressionType.snappy()))
    for number in range(300):
        db[b"key %04d" % number] = b"value " * 20
    db.flush()
    db.close()
    (path,) = folder.glob("*.sst")
    return path.read_bytes()


def test_damaged_table_is_read_or_refused_but_never_worse(table_bytes: bytes) -> None:
    source = random.Random(1)
    refused = 0
    for _ in range(300):
        bad = bytearray(table_bytes)
        for _ in range(source.choice([1, 1, 4])):
            # The end of a table holds the index and the footer: hit it as often as the rest.
            start = source.choice([0, len(bad) - 600])
            bad[source.randrange(start, len(bad))] = source.randrange(256)
        try:
            list(read_table(bytes(bad), Budget(LIMIT)))
        except InvalidArgument:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("keep", [0, 10, 52, 53, 200])
def test_cut_table_is_refused(table_bytes: bytes, keep: int) -> None:
    with pytest.raises(InvalidArgument):
        list(read_table(table_bytes[-keep:] if keep else b"", Budget(LIMIT)))
    with pytest.raises(InvalidArgument):
        list(read_table(table_bytes[:keep], Budget(LIMIT)))


def test_unpacked_size_is_limited(table_bytes: bytes) -> None:
    with pytest.raises(InvalidArgument, match="unpack to more than 4096 bytes"):
        list(read_table(table_bytes, Budget(4096)))


def test_partitioned_index_is_refused(tmp_path: Path) -> None:
    db = Rdict(str(tmp_path), options(index_type=BlockBasedIndexType.two_level_index_search()))
    db[b"key"] = b"value"
    db.flush()
    db.close()
    with pytest.raises(InvalidArgument, match="not a plain one"):
        tables(tmp_path)


@given(st.binary(max_size=300))
def test_log_of_anything_is_read_or_refused(data: bytes) -> None:
    try:
        list(read_log(data))
        list(read_log(b"\0\0\0\0" + len(data).to_bytes(2, "little") + b"\1" + data))
    except InvalidArgument:
        return
