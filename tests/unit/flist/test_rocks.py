"""The RocksDB container: what other tools read and write, and archives that lie."""

import bz2
import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rocksdict import AccessType, Options, Rdict

from g8node.errors import InvalidArgument
from g8node.flist.container import read_flist, write_flist
from g8node.flist.tree import Flist, Limits, Node
from g8node.wire.flist import decode_directory, directory_key
from g8node.wire.sstable import Budget, read_table
from g8node.wire.sstable_write import database

ROUTER = b"pools: {a: {'00:ff': 'zdb://host'}}\nlookup: [a]\n"
INFO = {"entrypoint": '["/bin/sh"]', "readme": "größe"}


def small() -> Flist:
    file = Node(stat.S_IFREG | 0o644)
    root = Node(stat.S_IFDIR | 0o755, children={b"a": file, b"d": Node(stat.S_IFDIR | 0o700, children={})})
    return Flist(root, INFO)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.flist"
    write_flist(small(), str(path))
    return path


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]


Change = Callable[[tarfile.TarInfo], None]


def repack(
    path: Path, files: dict[str, bytes], change: Change | None = None, form: int = tarfile.GNU_FORMAT
) -> Path:
    """An archive of these members; `change` may spoil each header."""
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change:
                change(member)
            archive.addfile(member, io.BytesIO(content))
    return path


def refuses(path: Path, message: str, limits: Limits | None = None) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        read_flist(str(path), limits or Limits())
    assert str(path) in str(caught.value)


def test_reads_what_it_wrote(good: Path) -> None:
    got = read_flist(str(good))
    assert got.info == INFO
    assert list(got.root.children or {}) == [b"a", b"d"]


def test_writing_leaves_nothing_else_behind(good: Path) -> None:
    assert os.listdir(good.parent) == [good.name]


def test_rocksdb_opens_what_we_wrote(good: Path, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    for name, content in members(good).items():
        (tmp_path / "db" / name).write_bytes(content)
    db = Rdict(str(tmp_path / "db"), Options(raw_mode=True), access_type=AccessType.read_only(False))
    record: Any = db[directory_key(b"").encode()]
    root = decode_directory(record, "/")
    db.close()
    assert [entry.name for entry in root.entries] == [b"a", b"d"]


def test_archive_holds_only_data_and_no_host_owner(good: Path) -> None:
    with tarfile.open(good) as archive:
        found = archive.getmembers()
    assert all(member.isreg() and member.uid == 0 and member.mtime == 0 for member in found)
    kinds = sorted(member.name.split("-")[0].split(".")[-1].strip("/") for member in found)
    assert kinds == ["CURRENT", "MANIFEST", "sst"]


def test_plain_tar_is_read(good: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(gzip.decompress(good.read_bytes()))
    assert read_flist(str(plain)).info == INFO


def test_members_of_the_original_are_skipped(good: Path, tmp_path: Path) -> None:
    extra = {"./OPTIONS-000007": b"wal_dir=/etc", "LOG": b"x", "./LOCK": b"", "IDENTITY": b"id"}
    path = repack(
        tmp_path / "x", {**extra, **members(good), "./router.yaml": ROUTER}, form=tarfile.PAX_FORMAT
    )
    got = read_flist(str(path))
    assert got.info == INFO
    assert got.router is not None
    assert got.router.lookup == ("a",)


def test_router_that_makes_no_sense_is_refused(good: Path, tmp_path: Path) -> None:
    path = repack(tmp_path / "x", {**members(good), "./router.yaml": b"pools: {}"})
    refuses(path, "router.yaml: lookup")


@pytest.mark.parametrize(
    "name", ["../CURRENT", "/CURRENT", "a/CURRENT", "./../000001.sst", "note.txt", "..", "x.sst"]
)
def test_member_name_is_refused(good: Path, tmp_path: Path, name: str) -> None:
    refuses(repack(tmp_path / "x", {**members(good), name: b""}), "has no place in an flist")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_member_that_is_no_regular_file_is_refused(good: Path, tmp_path: Path, kind: bytes) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = kind, "/etc/passwd", 0

    refuses(repack(tmp_path / "x", members(good), change), "is no regular file")


def test_equal_trees_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_flist(small(), str(tmp_path / name))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_bzip2_is_read(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bz2.compress(gzip.decompress(good.read_bytes())))
    assert read_flist(str(path)).info == INFO


def test_keys_with_a_namespace_are_found(good: Path, tmp_path: Path) -> None:
    version = {name: data for name, data in members(good).items() if name.endswith(".sst")}
    found = {v.key: v.value or b"" for data in version.values() for v in read_table(data, Budget(1 << 20))}
    files = database(sorted((b"ns:" + key, value) for key, value in found.items()))
    assert list(read_flist(str(repack(tmp_path / "x", files))).root.children or {}) == [b"a", b"d"]


@pytest.mark.parametrize("content", [b"", b"not gzip at all", bytes(5000), b"\x28\xb5\x2f\xfd" + bytes(90)])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    refuses(tmp_path / "x", "neither a tar")


def test_every_truncation_is_refused(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    for length in [*range(2, len(data), 37), len(data) - 1]:
        (tmp_path / "x").write_bytes(data[:length])
        refuses(tmp_path / "x", "archive")


def test_damaged_gzip_is_refused(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    for at in (len(data) // 2, len(data) - 6):
        bad = bytearray(data)
        bad[at] ^= 0xFF
        (tmp_path / "x").write_bytes(bad)
        refuses(tmp_path / "x", "archive")


def test_lying_member_size_is_refused(good: Path, tmp_path: Path) -> None:
    raw = bytearray(gzip.decompress(good.read_bytes()))
    header = tarfile.TarInfo("./000001.sst")
    header.size = 1 << 40
    (tmp_path / "x").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + raw))
    refuses(tmp_path / "x", "000001.sst' says 1099511627776 bytes")
    header.size = 1 << 27
    (tmp_path / "x").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + raw))
    refuses(tmp_path / "x", "ends too early")


def test_bomb_is_refused_at_the_limit(tmp_path: Path) -> None:
    path = repack(tmp_path / "x", {"./000001.sst": bytes(4 << 20)})
    refuses(path, "unpacks to more than 1048576|says 4194304", Limits(unpacked_bytes=1 << 20))


def test_member_count_is_limited(tmp_path: Path) -> None:
    path = repack(tmp_path / "x", {f"./{n}.sst": b"" for n in range(30)})
    refuses(path, "over 20 members", Limits(members=20))


def test_member_twice_is_refused(good: Path, tmp_path: Path) -> None:
    files = members(good)
    path = repack(tmp_path / "x", {**files, **{name[2:]: content for name, content in files.items()}})
    refuses(path, "occurs twice")


def test_file_size_is_limited(good: Path) -> None:
    refuses(good, "limit 10", Limits(file_bytes=10))


def test_archive_without_a_database_is_refused(tmp_path: Path) -> None:
    refuses(repack(tmp_path / "x", {"LOG": b""}), "no member CURRENT")
    refuses(repack(tmp_path / "x", {"CURRENT": b""}), "directory /: record .* is missing")


def test_damaged_table_is_refused_by_name(good: Path, tmp_path: Path) -> None:
    files = members(good)
    (name,) = (name for name in files if name.endswith(".sst"))
    files[name] = files[name][:-9]
    refuses(repack(tmp_path / "x", files), rf"{name[2:]}: no block-based RocksDB table")


@pytest.mark.parametrize("info", [b"[]", b'{"a": 1}', b"{", b'{"a": "' + b"x" * 3_000_000 + b'"}'])
def test_bad_metadata_is_refused(tmp_path: Path, info: bytes) -> None:
    folder = tmp_path / "db"
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    db = Rdict(str(folder), made)
    db[b"metadata"] = info
    for name, content in _records().items():
        db[name.encode()] = content
    db.flush()
    db.close()
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".sst" or p.name == "CURRENT"}
    refuses(repack(tmp_path / "x", files), "metadata")


def _records() -> dict[str, bytes]:
    from g8node.flist.records import tree_records

    return dict(tree_records(small().root))
