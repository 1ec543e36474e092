"""The archive around an flist: a tar of flat files, plain or compressed, read with bounds (blocking).

A stranger's archive meets the parser below, which knows flat regular files of known names and nothing else;
nothing is written to disk.
"""

import contextlib
import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterable
from typing import IO, Any, Final

from g8node.errors import InvalidArgument
from g8node.flist.tree import Limits

SQLITE_MEMBER: Final = b"flistdb.sqlite3"
ROUTER_MEMBER: Final = b"router.yaml"
_DATA: Final = re.compile(rb"CURRENT|\d{1,20}\.(sst|ldb|log)|flistdb\.sqlite3|router\.yaml")
_IGNORED: Final = re.compile(
    rb"MANIFEST-\d{1,20}|IDENTITY|LOCK|LOG(\.old\.\d+)?|OPTIONS-\d+|rocksdict-config\.json"
    rb"|flistdb\.sqlite3-(wal|shm|journal)"
)
_TAR_BLOCK: Final = 512
_COPY: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BZIP2_MAGIC: Final = b"BZh"


class _Bounded:
    """Reads of a decompressed stream, at most `limit` bytes in all."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._left = limit
        self._limit = limit

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        self._left -= size
        if self._left < 0:
            raise InvalidArgument(f"archive unpacks to more than {self._limit} bytes")
        try:
            data: bytes = self._stream.read(size)
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


def unpack(source: IO[bytes], limits: Limits) -> dict[bytes, bytes]:
    """The members that hold data, by name. InvalidArgument names what is wrong with the archive."""
    start = source.read(_TAR_BLOCK)
    source.seek(0)
    stream: Any = source
    if start.startswith(_GZIP_MAGIC):
        stream = gzip.GzipFile(fileobj=source)
    elif start.startswith(_BZIP2_MAGIC):
        import bz2  # one old Hub in a hundred

        stream = bz2.BZ2File(source)
    elif start[257:262] != b"ustar":
        raise InvalidArgument(
            "neither a tar (plain, gzip, bzip2) nor an .fl", hint=f"it begins with {start[:8].hex()}"
        )
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
    if not flat or not (_DATA.fullmatch(flat) or _IGNORED.fullmatch(flat)):
        raise InvalidArgument(f"member {name!r} has no place in an flist")
    if info.size < 0:
        raise InvalidArgument(f"member {name!r} says {info.size} bytes")
    return flat, info.size


def archive(members: Iterable[tuple[str, bytes]], out: IO[bytes]) -> None:
    """Write a gzip'd tar of flat files; equal members give equal bytes."""
    with (
        gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in members:
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode, member.mtime = len(data), 0o644, 0
            tar.addfile(member, io.BytesIO(data))
