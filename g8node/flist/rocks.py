"""The RocksDB container of an flist: the files of a database directory, to records and back (blocking).

Neither way runs RocksDB. Reading goes through `wire/sstable.py` and does not look at OPTIONS, MANIFEST and
the rest; writing makes one table and a MANIFEST that names it (`wire/sstable_write.py`), because RocksDB
stamps its files with random ids, the time and the host's name, and one tree packed twice must give one flist.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from g8node.errors import InvalidArgument
from g8node.flist.records import Dialect, read_tree, tree_records
from g8node.flist.tree import Flist, Limits
from g8node.wire.flist import directory_key
from g8node.wire.router import Router
from g8node.wire.sstable import Budget, Version, read_log, read_table
from g8node.wire.sstable_write import database

INFO_KEY: Final = b"metadata"
"""Reserved key: a JSON object of strings. Directory keys have 64 hex digits, access keys 32."""
_ENDINGS: Final = (b".sst", b".ldb", b".log")


@dataclass(frozen=True, slots=True)
class Database:
    """The records of an flist, the newest of every key, and its metadata; its tree is not read yet."""

    records: dict[bytes, bytes]
    prefix: bytes
    """What stands before every key: nothing, or the `name:` that old flists could be written with."""
    info: dict[str, str]
    router: Router | None = None

    def read(self, limits: Limits) -> Flist:
        """With its tree. InvalidArgument names what is wrong."""
        root = read_tree(lambda key: self.records.get(self.prefix + key.encode()), limits, Dialect.V1)
        return Flist(root, self.info, self.router, "g8" if INFO_KEY in self.records else "v1")


def open_database(files: dict[bytes, bytes], limits: Limits, router: Router | None = None) -> Database:
    """What a database's files hold. InvalidArgument names what is wrong."""
    records = _records(files, limits)
    return Database(records, _namespace(records), _info(records, limits), router)


def _namespace(records: dict[bytes, bytes]) -> bytes:
    root = directory_key(b"").encode()
    if root in records:
        return b""
    found = [key for key in records if key.endswith(b":" + root)]
    return found[0][: -len(root)] if len(found) == 1 else b""


def _records(files: dict[bytes, bytes], limits: Limits) -> dict[bytes, bytes]:
    """The newest value of every key in the database's files."""
    if b"CURRENT" not in files:
        raise InvalidArgument("archive holds no RocksDB: no member CURRENT")
    budget = Budget(limits.unpacked_bytes)
    newest: dict[bytes, Version] = {}
    for name, data in files.items():
        if not name.endswith(_ENDINGS):
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


def write_database(flist: Flist) -> dict[str, bytes]:
    """The files of a database that holds the flist. Equal flists give equal bytes."""
    records = {key.encode(): value for key, value in tree_records(flist.root, Dialect.V1)}
    records[INFO_KEY] = msgspec.json.encode(dict(sorted(flist.info.items())))
    return database(sorted(records.items()))
