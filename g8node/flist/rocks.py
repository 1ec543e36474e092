"""The RocksDB container of an flist: a gzip'd tar of a database directory (blocking).

A stranger's archive is unpacked by the parser below, which knows flat regular files and nothing else, and
only the files that hold data reach RocksDB: never OPTIONS (it could name other directories), never LOG or
IDENTITY. RocksDB opens read-only with options of ours. RocksDB stamps its files with a random session id and
the time, so packing one tree twice gives two different flists; their records and chunks are equal.
"""

import contextlib
import gzip
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Final

import msgspec
from rocksdict import AccessType, Options, Rdict, WriteBatch

from g8node.errors import InvalidArgument
from g8node.flist.records import Record, read_tree, tree_records
from g8node.flist.tree import DEFAULT_LIMITS, Flist, Limits
from g8node.linux.guard import off_loop

INFO_KEY: Final = b"metadata"
"""Reserved key: a JSON object of strings. Directory keys have 64 hex digits, access keys 32."""

_DATA: Final = re.compile(rb"CURRENT|MANIFEST-\d{1,20}|\d{1,20}\.(sst|ldb|log)")
_IGNORED: Final = re.compile(
    rb"IDENTITY|LOCK|LOG(\.old\.\d+)?|OPTIONS-\d+|rocksdict-config\.json|router\.yaml|"
)
_CURRENT: Final = re.compile(rb"MANIFEST-\d{1,20}\n")
_TAR_BLOCK: Final = 512
_COPY: Final = 1 << 20
_BATCH: Final = 4 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"


@off_loop
def read_flist(path: str, scratch: str | None = None, limits: Limits = DEFAULT_LIMITS) -> Flist:
    """Unpack into a folder below `scratch`, validate, read the tree. InvalidArgument names what is wrong."""
    size = os.stat(path).st_size
    if size > limits.file_bytes:
        raise InvalidArgument(f"flist {path} has {size} bytes, limit {limits.file_bytes}")
    with tempfile.TemporaryDirectory(prefix="flist-", dir=scratch) as folder:
        try:
            with open(path, "rb") as source:
                _unpack(source, folder, limits)
            with _database(folder) as get:
                return Flist(read_tree(lambda key: get(key.encode()), limits), _info(get(INFO_KEY), limits))
        except InvalidArgument as error:
            raise InvalidArgument(f"flist {path}: {error.message}", hint=error.hint) from error


def _info(value: bytes | None, limits: Limits) -> dict[str, str]:
    if value is None:
        return {}
    if len(value) > limits.info_bytes:
        raise InvalidArgument(f"metadata has {len(value)} bytes, limit {limits.info_bytes}")
    try:
        return msgspec.json.decode(value, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"metadata: {error}") from None


@contextlib.contextmanager
def _database(folder: str) -> Iterator[Callable[[bytes], bytes | None]]:
    """A function that gets records from the database in the folder."""
    options = Options(raw_mode=True)
    options.create_if_missing(False)
    options.set_stats_dump_period_sec(0)
    options.set_max_open_files(64)
    try:
        db = Rdict(folder, options, access_type=AccessType.read_only(False))
    except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
        raise InvalidArgument(f"RocksDB: {_tidy(error, folder)}") from None

    def get(key: bytes) -> bytes | None:
        try:
            value = db.get(key)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
            raise InvalidArgument(f"RocksDB: {_tidy(error, folder)}") from None
        return None if value is None else bytes(value)

    try:
        yield get
    finally:
        db.close()


def _tidy(error: Exception, folder: str) -> str:
    return str(error).replace(folder, "")[:300]


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


def _unpack(source: IO[bytes], folder: str, limits: Limits) -> None:
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
        _unpack_tar(_Bounded(stream, limits.unpacked_bytes), folder, limits)
    try:
        with open(os.path.join(folder, "CURRENT"), "rb") as current:
            pointer = current.read(64)
    except FileNotFoundError:
        raise InvalidArgument("archive holds no RocksDB: no member CURRENT") from None
    if not _CURRENT.fullmatch(pointer):
        raise InvalidArgument(f"CURRENT says {pointer[:32]!r}, expected a manifest's name")


def _unpack_tar(stream: _Bounded, folder: str, limits: Limits) -> None:
    seen: set[bytes] = set()
    for _ in range(limits.members):
        header = stream.read(_TAR_BLOCK)
        if header == bytes(_TAR_BLOCK):
            return
        name, size = _member(header)
        padded = -(-size // _TAR_BLOCK) * _TAR_BLOCK
        if size > limits.unpacked_bytes:
            raise InvalidArgument(f"member {name!r} says {size} bytes, limit {limits.unpacked_bytes}")
        if name in seen:
            raise InvalidArgument(f"member {name!r} occurs twice")
        if name:
            seen.add(name)
        target = os.path.join(folder, name.decode()) if _DATA.fullmatch(name) else os.devnull
        with open(target, "wb") as out:
            for at in range(0, padded, _COPY):
                block = stream.read(min(_COPY, padded - at))
                out.write(block[: size - at])
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
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_disable_auto_compactions(True)
    options.set_stats_dump_period_sec(0)
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
            if not _DATA.fullmatch(name.encode()) or (name.endswith(".log") and not size):
                continue
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode, member.mtime = size, 0o644, 0
            with open(path, "rb") as source:
                archive.addfile(member, source)
