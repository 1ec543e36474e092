"""The sqlite containers of flists, and the v2 records in one (blocking).

A stranger's database is deserialised into memory: no file of his, no journal, no write-ahead log. Its schema
is looked at first and must be plain tables; then an authorizer allows nothing but reading those, so views,
triggers, virtual tables and functions cannot run; a progress handler ends what would take for ever; rows and
bytes are counted. v2: `entries(key, value)` holds the records of `wire/flist.py`, `metadata` has texts.
"""

import contextlib
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from g8node.errors import InvalidArgument
from g8node.flist.records import Dialect, read_tree, tree_records
from g8node.flist.tree import Flist, Limits
from g8node.wire.router import Router, backend_router

_MAGIC: Final = b"SQLite format 3\0"
_STEPS: Final = 1_000_000
_STEPS_MAX: Final = 1_000
"""A billion steps of its machine: more than any flist within our limits needs."""
_ODD: Final = re.compile(r"\b(VIRTUAL|GENERATED|AS)\b", re.IGNORECASE)


def is_sqlite(start: bytes) -> bool:
    """Whether a file that begins so is a sqlite database."""
    return start.startswith(_MAGIC)


class Database:
    """A stranger's database in memory, read-only. A context manager. Everything raises InvalidArgument."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        if not is_sqlite(data) or len(data) < 100:
            raise InvalidArgument("no sqlite database")
        self._left = limits.unpacked_bytes
        self._limits = limits
        self._steps = 0
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        try:
            with _translated():
                self._open(data)
        except InvalidArgument:
            self._db.close()
            raise

    def _open(self, data: bytes) -> None:
        db = self._db
        # Bytes 18 and 19 say whether there is a write-ahead log, which memory cannot have.
        db.deserialize(data[:18] + b"\1\1" + data[20:])
        db.text_factory = bytes
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "query_only=ON"):
            db.execute(f"PRAGMA {pragma}")
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._limits.unpacked_bytes)
        db.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, 64)
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        db.set_progress_handler(self._tick, _STEPS)
        self.tables = self._schema()
        db.set_authorizer(self._allowed)

    def _tick(self) -> int:
        self._steps += 1
        return self._steps > _STEPS_MAX

    def _schema(self) -> frozenset[str]:
        """Names of the plain tables."""
        names = set()
        rows = self._db.execute("SELECT type, name, rootpage, sql FROM sqlite_master LIMIT 1000")
        for kind, name, root, sql in rows:
            text = sql.decode("utf-8", "replace") if isinstance(sql, bytes) else ""
            plain = kind == b"table" and isinstance(name, bytes) and isinstance(root, int) and root > 0
            if plain and not _ODD.search(text):
                names.add(name.decode("utf-8", "replace").lower())
        return frozenset(names)

    def _allowed(self, action: int, table: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_SELECT or (
            action == sqlite3.SQLITE_READ and (table or "").lower() in self.tables
        ):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def rows(self, table: str, columns: str, rows_max: int) -> Iterator[tuple[Any, ...]]:
        """All rows in the order of their ids: int, float, bytes (text too) or None each."""
        if table not in self.tables:
            raise InvalidArgument(f"no table {table}")
        with _translated():
            found = self._db.execute(f"SELECT {columns} FROM {table} NOT INDEXED LIMIT {rows_max + 1}")
            for count, row in enumerate(found, 1):
                if count > rows_max:
                    raise InvalidArgument(f"table {table} has over {rows_max} rows")
                self._left -= sum(len(value) for value in row if isinstance(value, bytes))
                if self._left < 0:
                    raise InvalidArgument(f"tables hold over {self._limits.unpacked_bytes} bytes")
                yield row

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OverflowError, MemoryError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"sqlite: {error}") from None


def text(value: object, what: str) -> str:
    """A text value; bytes that are not UTF-8 are replaced."""
    if not isinstance(value, bytes):
        raise InvalidArgument(f"{what}: expected text")
    return value.decode("utf-8", "replace")


def read_database(data: bytes, limits: Limits) -> Flist:
    """The v2 flist in the bytes of a `flistdb.sqlite3`."""
    with Database(data, limits) as db:
        records: dict[str, bytes] = {}
        for key, value in db.rows("entries", "key, value", 2 * limits.entries):
            if not isinstance(value, bytes):
                raise InvalidArgument("table entries: value is no blob")
            records[text(key, "table entries: key")] = value
        info = read_info(db, "metadata", limits) if "metadata" in db.tables else {}
    root = read_tree(records.get, limits, Dialect.V2)
    return Flist(root, info, _backend(info), "v2")


def read_info(db: Database, table: str, limits: Limits) -> dict[str, str]:
    """A table of keys and texts."""
    info: dict[str, str] = {}
    size = 0
    for key, value in db.rows(table, "key, value", 10_000):
        if value is None:
            continue
        value = str(value).encode() if isinstance(value, int | float) else value
        info[text(key, f"table {table}: key")] = text(value, f"table {table}: value")
        size += len(key) + len(value)
        if size > limits.info_bytes:
            raise InvalidArgument(f"table {table} holds over {limits.info_bytes} bytes")
    return info


def _backend(info: dict[str, str]) -> Router | None:
    """Where the chunks are, when `backend` says so in a way that makes sense."""
    with contextlib.suppress(InvalidArgument, ValueError):
        return backend_router(json.loads(info.get("backend", "null")))
    return None


@contextlib.contextmanager
def new_database(path: str, schema: str) -> Iterator[sqlite3.Connection]:
    """A database to fill in one transaction; whole, without a journal, when the block ends."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {schema}")
        db.execute("BEGIN")
        yield db
        db.execute("COMMIT")
        db.execute("VACUUM")
    finally:
        db.close()


def write_database(flist: Flist) -> bytes:
    """The bytes of a v2 database."""
    with tempfile.TemporaryDirectory(prefix="flist-") as folder:
        path = os.path.join(folder, "flistdb.sqlite3")
        tables = "(key VARCHAR(64) PRIMARY KEY, value"
        schema = f"CREATE TABLE entries {tables} BLOB); CREATE TABLE metadata {tables} TEXT);"
        with new_database(path, schema) as db:
            db.executemany("INSERT INTO entries VALUES (?, ?)", sorted(tree_records(flist.root, Dialect.V2)))
            db.executemany("INSERT INTO metadata VALUES (?, ?)", sorted(flist.info.items()))
        with open(path, "rb") as source:
            return source.read()
