"""An flist file of any generation, told apart by what it begins with (blocking).

    g8, v1   an archive of a RocksDB directory (`rocks.py`)
    v2       an archive with `flistdb.sqlite3` (`sqlite.py`)
    v3       a bare sqlite file, .fl (`rfs.py`)

Any archive may hold a `router.yaml` beside that.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Final, Literal

from g8node.errors import InvalidArgument
from g8node.flist import rfs, rocks, sqlite
from g8node.flist.archive import ROUTER_MEMBER, SQLITE_MEMBER, archive, unpack
from g8node.flist.rocks import Database
from g8node.flist.sqlite import is_sqlite
from g8node.flist.tree import DEFAULT_LIMITS, Flist, Limits
from g8node.linux.guard import off_loop
from g8node.wire.router import format_router, parse_router

Format = Literal["g8", "v2", "v3"]
FORMATS: Final[tuple[Format, ...]] = ("g8", "v2", "v3")


@off_loop
def read_flist(path: str, limits: Limits = DEFAULT_LIMITS) -> Flist:
    """Unpack in memory, validate, read the tree. InvalidArgument names what is wrong."""
    found = open_flist(path, limits)
    if isinstance(found, Flist):
        return found
    with _named(path):
        return found.read(limits)


@off_loop
def open_flist(path: str, limits: Limits = DEFAULT_LIMITS) -> Flist | Database:
    """Unpack in memory and validate; the tree of a RocksDB stays unread. InvalidArgument as above."""
    size = os.stat(path).st_size
    with _named(path):
        if size > limits.file_bytes:
            raise InvalidArgument(f"{size} bytes, limit {limits.file_bytes}")
        with open(path, "rb") as source:
            if is_sqlite(source.read(16)):
                source.seek(0)
                return rfs.read_fl(source.read(limits.file_bytes), limits)
            source.seek(0)
            return _open_archive(unpack(source, limits), limits)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(f"flist {path}: {error.message}", hint=error.hint) from error


def _open_archive(files: dict[bytes, bytes], limits: Limits) -> Flist | Database:
    text = files.pop(ROUTER_MEMBER, None)
    router = None if text is None else parse_router(text)
    if SQLITE_MEMBER not in files:
        return rocks.open_database(files, limits, router)
    flist = sqlite.read_database(files[SQLITE_MEMBER], limits)
    return Flist(flist.root, flist.info, router or flist.router, flist.version)


@off_loop
def write_flist(flist: Flist, path: str, form: Format = "g8") -> None:
    """Write to `path` by way of a temporary file beside it. Equal flists give equal bytes.

    InvalidArgument: the format cannot hold something (`convert.losses` tells beforehand).
    """
    partial = f"{path}.{os.getpid()}.partial"
    try:
        if form == "v3":
            rfs.write_fl(flist, partial)
        else:
            members = {SQLITE_MEMBER.decode(): sqlite.write_database(flist)} if form == "v2" else {}
            members |= rocks.write_database(flist) if form == "g8" else {}
            if flist.router is not None:
                members[ROUTER_MEMBER.decode()] = format_router(flist.router).encode()
            with open(partial, "wb") as out:
                archive(sorted(members.items()), out)
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _sync(path: str) -> None:
    with open(path, "rb") as written:
        os.fsync(written.fileno())
