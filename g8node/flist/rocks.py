"""The RocksDB container of an flist: a gzip'd tar of a database directory (blocking).

Reading never runs RocksDB: a stranger's archive goes through the tar parser below, which knows flat regular
files and nothing else, and its tables and logs through `wire/sstable.py`. OPTIONS, MANIFEST and the rest are
not looked at. Writing is RocksDB's own work, in a format version that libraries of 2015 read. RocksDB stamps
its files with a random session id and the time, so packing one tree twice gives two different flists; their
records and chunks are equal.
"""

import contextlib
import gzip
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from typing import IO, Final

import msgspec

from g8node.errors import InvalidArgument
from g8node.flist.records import Record, read_tree, tree_records
from g8node.flist.tree import DEFAULT_LIMITS, Flist, Limits
from g8node.linux.guard import off_loop
from g8node.wire.sstable import Budget, Version, read_log, read_table

INFO_KEY: Final = b"metadata"
"""Reserved key: a JSON object of strings. Directory keys have 64 hex digits, access keys 32."""

_DATA: Final = re.compile(rb"CURRENT|\d{1,20}\.(sst|ldb|log)")
_IGNORED: Final = re.compile(
    rb"MANIFEST-\d{1,20}|IDENTITY|LOCK|LOG(\.old\.\d+)?|OPTIONS-\d+|rocksdict-config\.json|router\.yaml"
)
_WRITTEN: Final = re.compile(r"CURRENT|MANIFEST-\d+|\d+\.(sst|log)")
_TAR_BLOCK: Final = 512
_COPY: Final = 1 << 20
_BATCH: Final = 4 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"


@off_loop
def read_flist(path: str, limits: Limits = DEFAULT_LIMITS) -> Flist:
    """Unpack in memory, validate, read the tree. InvalidArgument names what is wrong."""
    size = os.stat(path).st_size
    try:
        if size > limits.file_bytes:
            raise InvalidArgument(f"{size} bytes, limit {limits.file_bytes}")
        with open(path, "rb") as source:
            records = _records(_unpack(source, limits), limits)
        return Flist(read_tree(lambda key: records.get(key.encode()), limits), _info(records, limits))
    except InvalidArgument as error:
        raise InvalidArgument(f"flist {path}: {error.message}", hint=error.hint) from error


def _records(files: dict[bytes, bytes], limits: Limits) -> dict[bytes, bytes]:
    """The newest value of every key in the database's files."""
    if b"CURRENT" not in files:
        raise InvalidArgument("archive holds no RocksDB: no member CURRENT")
    budget = Budget(limits.unpacked_bytes)
    newest: dict[bytes, Version] = {}
    for name, data in files.items():
        if name == b"CURRENT":
            continue
        try:
            for version in read_log(data) if name.endswith(b".log") else read_table(data, budget):
                known = newest.get(version.key)
                if known is None or version.sequence >= known.sequence:
                    newest[version.key] = version
        except InvalidArgument as error:
            raise InvalidArgument(f"{name.decode()}: {error.message}") from None
    return {key: version.value for key, version in newest.items() if version.value is not None}


def _info(records: dict[bytes, bytes], limits: Limits) -> dict[str, str]:
    value = records.get(INFO_KEY, b"{}")
    if len(value) > limits.info_bytes:
        raise InvalidArgument(f"metadata has {len(value)} bytes, limit {limits.info_bytes}")
    try:
        return msgspec.json.decode(value, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"metadata: {error}") from None


class _Bounded:
    """Reads of a decompressed stream, at most `limit` bytes in all."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self._stream = stream
        self._left = limit
        self._limit = limit

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        self._left -= size
        if self._left < 0:
            raise InvalidArgument(f"archive unpacks to more than {self._limit} bytes")
        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidArgument(f"archive: {error}") from None
        if len(data) != size:
            raise InvalidArgument("archive ends too early")
        return data

    def drain(self) -> None:
        """Read to the end, where gzip's checksum is."""
        try:
            while block := self._stream.read(_COPY):
                self._left -= len(block)
                if self._left < 0:
                    raise InvalidArgument(f"archive unpacks to more than {self._limit} bytes")
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidArgument(f"archive: {error}") from None

    def finish(self) -> None:
        """Read to the end of the stream: only there gzip finds that something is missing or wrong."""
        try:
            while data := self._stream.read(_COPY):
                self._left -= len(data)
                if self._left < 0:
                    raise InvalidArgument(f"archive unpacks to more than {self._limit} bytes")
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidArgument(f"archive: {error}") from None


def _unpack(source: IO[bytes], limits: Limits) -> dict[bytes, bytes]:
    """The members that hold data."""
    start = source.read(_TAR_BLOCK)
    source.seek(0)
    if start[:2] == _GZIP_MAGIC:
        stream: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=source)
    elif start[257:262] == b"ustar":
        stream = source
    elif start.startswith(b"SQLite format 3\0"):
        raise InvalidArgument("format v3 (.fl) is not supported")
    else:
        raise InvalidArgument("neither a gzip'd tar nor a tar", hint=f"it begins with {start[:8].hex()}")
    with contextlib.closing(stream):
        return _unpack_tar(_Bounded(stream, limits.unpacked_bytes), limits)


def _unpack_tar(stream: _Bounded, limits: Limits) -> dict[bytes, bytes]:
    files: dict[bytes, bytes] = {}
    for _ in range(limits.members):
        header = stream.read(_TAR_BLOCK)
        if header == bytes(_TAR_BLOCK):
            stream.drain()
            return files
        name, size = _member(header)
        if size > limits.unpacked_bytes:
            raise InvalidArgument(f"member {name!r} says {size} bytes, limit {limits.unpacked_bytes}")
        if name in files:
            raise InvalidArgument(f"member {name!r} occurs twice")
        is_data = _DATA.fullmatch(name) is not None
        # Bit by bit: a lying size must not reserve memory for what never comes.
        content = bytearray()
        for at in range(0, -(-size // _TAR_BLOCK) * _TAR_BLOCK, _COPY):
            block = stream.read(min(_COPY, -(-size // _TAR_BLOCK) * _TAR_BLOCK - at))
            if is_data:
                content += block[: size - at]
        if is_data:
            files[name] = bytes(content)
    raise InvalidArgument(f"archive has over {limits.members} members")


def _member(header: bytes) -> tuple[bytes, int]:
    """Checked name and size of a flat member; name empty for what is skipped without a name (./)."""
    try:
        info = tarfile.TarInfo.frombuf(header, "latin-1", "strict")
    except tarfile.HeaderError as error:
        raise InvalidArgument(f"archive: {error}") from None
    name = info.name.encode("latin-1")
    if info.type == tarfile.DIRTYPE and name in (b".", b"./", b"/", b""):
        return b"", 0
    if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE) and info.size <= 1 << 16:
        return b"", info.size
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise InvalidArgument(f"member {name!r} is no regular file")
    flat = name.removeprefix(b"./")
    if flat == b"flistdb.sqlite3":
        raise InvalidArgument("format v2 (sqlite) is not supported")
    if not flat or not (_DATA.fullmatch(flat) or _IGNORED.fullmatch(flat)):
        raise InvalidArgument(f"member {name!r} has no place in an flist")
    if info.size < 0:
        raise InvalidArgument(f"member {name!r} says {info.size} bytes")
    return flat, info.size


@off_loop
def write_flist(flist: Flist, path: str, scratch: str | None = None) -> None:
    """Write the container to `path` by way of a temporary file beside it."""
    with tempfile.TemporaryDirectory(prefix="flist-", dir=scratch) as folder:
        _fill(folder, tree_records(flist.root), msgspec.json.encode(dict(sorted(flist.info.items()))))
        partial = f"{path}.{os.getpid()}.partial"
        try:
            with open(partial, "wb") as out:
                _archive(folder, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise


def _fill(folder: str, records: Iterable[Record], info: bytes) -> None:
    # Only the packer needs RocksDB itself; the node reads without it and its image is smaller for that.
    from rocksdict import BlockBasedOptions, ChecksumType, DBCompressionType, Options, Rdict, WriteBatch

    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_disable_auto_compactions(True)
    options.set_stats_dump_period_sec(0)
    options.set_compression_type(DBCompressionType.none())  # the archive is compressed as a whole
    table = BlockBasedOptions()
    table.set_format_version(2)
    table.set_checksum_type(ChecksumType.crc32c())
    options.set_block_based_table_factory(table)
    db = Rdict(folder, options)
    try:
        batch = WriteBatch(raw_mode=True)
        batch.put(INFO_KEY, info)
        for key, value in records:
            batch.put(key.encode(), value)
            if batch.size_in_bytes() > _BATCH:
                db.write(batch)
                batch = WriteBatch(raw_mode=True)
        db.write(batch)
        db.flush()
        # One sorted table without leftovers: what the reader has to trust is small.
        db.compact_range(None, None)
    finally:
        db.close()


def _archive(folder: str, out: IO[bytes]) -> None:
    with (
        gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            size = os.path.getsize(path)
            if not _WRITTEN.fullmatch(name) or (name.endswith(".log") and not size):
                continue
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode, member.mtime = size, 0o644, 0
            with open(path, "rb") as source:
                archive.addfile(member, source)
