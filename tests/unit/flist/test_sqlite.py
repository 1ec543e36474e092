"""The sqlite generations: v2 archives and v3 files, as the originals wrote them and as strangers may."""

import io
import random
import sqlite3
import stat
import tarfile
from array import array
from pathlib import Path

import pytest
import yaml

from g8node.errors import InvalidArgument
from g8node.flist.container import read_flist, write_flist
from g8node.flist.image import build
from g8node.flist.records import Dialect
from g8node.flist.tree import Flist, Limits, Node, walk
from g8node.wire.codecs import encode
from g8node.wire.flist import (
    ABSENT_ID,
    Acl,
    Blocks,
    Codec,
    Directory,
    Entry,
    Extra,
    Kind,
    Special,
    acl_key,
    encode_acl,
    encode_directory,
)
from g8node.wire.router import EVERY, Router, Rule, of_stores, parse_store
from tests.support import golden

CHUNK = 512 * 1024
ACL = Acl(0o755, 0, 0)
ROOT = Dialect.V2.directory_key(b"")


def chunks(codec: Codec, *sizes: int) -> Blocks:
    made = [encode(codec, b"%d" % n) for n in range(len(sizes))]
    return Blocks(b"".join(m.id for m in made), b"".join(m.key for m in made), array("I", sizes), codec)


def tree(codec: Codec) -> Flist:
    file = Node(stat.S_IFREG | 0o4755, 7, 8, 100, size=CHUNK + 5, blocks=chunks(codec, CHUNK, 5))
    root = Node(stat.S_IFDIR | 0o755, children={b"f": file})
    assert root.children is not None
    root.children[b"d"] = Node(
        stat.S_IFDIR | 0o1777, 1, 2, 3, children={b"empty": Node(stat.S_IFREG | 0o600)}
    )
    root.children[b"l"] = Node(stat.S_IFLNK | 0o777, target=b"d/empty", size=7)
    root.children[b"n"] = Node(stat.S_IFCHR | 0o666, rdev=(1, 3))
    router = Router({"stores": (Rule(EVERY, "zdb://host:9900/ns"),)}, ("stores",))
    return Flist(root, {"entrypoint": '["/bin/sh"]'}, router)


def looks(flist: Flist) -> list[tuple[object, ...]]:
    return [
        (path, n.mode, n.uid, n.gid, n.mtime_s, n.size, bytes(n.blocks.ids), n.target, n.rdev)
        for path, n in walk(flist.root)
    ]


@pytest.mark.parametrize(
    ("form", "codec"), [("v2", Codec.V2), ("v3", Codec.V3), ("g8", Codec.V2), ("g8", Codec.V1)]
)
def test_tree_survives(tmp_path: Path, form: str, codec: Codec) -> None:
    flist = tree(codec)
    write_flist(flist, str(tmp_path / "x"), form)  # type: ignore[arg-type]
    got = read_flist(str(tmp_path / "x"))
    assert looks(got) == looks(flist)
    assert (got.info, got.version) == (flist.info, form)
    assert got.router is not None
    assert got.router.pools["stores"][0].url == "zdb://host:9900/ns"
    file = (got.root.children or {})[b"f"]
    assert (file.blocks.codec, list(file.blocks.sizes)) == (codec, [CHUNK, 5])


@pytest.mark.parametrize("form", ["v2", "v3"])
def test_equal_trees_give_equal_files(tmp_path: Path, form: str) -> None:
    for name in ("one", "two"):
        write_flist(tree(Codec[form.upper()]), str(tmp_path / name), form)  # type: ignore[arg-type]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_keys_are_the_golden_ones() -> None:
    vectors = golden.vectors()
    assert vectors["key.v2.root"].hex() == ROOT
    assert vectors["key.v2.var.log"].hex() == Dialect.V2.directory_key(b"var/log")
    assert vectors["key.v2.acl"].hex() == acl_key(ACL, 8)


def database(path: Path, script: str, rows: list[tuple[str, bytes]] | None = None) -> Path:
    db = sqlite3.connect(path)
    db.executescript(script)
    if rows:
        db.executemany("INSERT INTO entries VALUES (?, ?)", rows)
    db.commit()
    db.close()
    return path


def archived(path: Path, target: Path, name: str = "./flistdb.sqlite3") -> Path:
    with tarfile.open(target, "w:gz") as out:
        member = tarfile.TarInfo(name)
        data = path.read_bytes()
        member.size = len(data)
        out.addfile(member, io.BytesIO(data))
    return target


ENTRIES = "CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB);"


def v2(tmp_path: Path, *entries: Entry, script: str = ENTRIES) -> Path:
    """An flist whose root holds these entries, written as the original does."""
    root = Directory(b"", ROOT, acl_key(ACL, 8), Extra(1), list(entries))
    rows = [(ROOT, encode_directory(root, original=True)), (acl_key(ACL, 8), encode_acl(ACL))]
    return archived(database(tmp_path / "flistdb.sqlite3", script, rows), tmp_path / "x.flist")


def entry(name: bytes, kind: Kind, size: int = 0, blocks: Blocks | None = None) -> Entry:
    made = Entry(name, kind, acl_key(ACL, 8), Extra(1), size)
    if blocks is not None:
        made.blocks = blocks
    return made


def test_oldest_database_has_no_metadata_table(tmp_path: Path) -> None:
    got = read_flist(str(v2(tmp_path, entry(b"a", Kind.FILE))))
    assert (got.info, got.version, list(got.root.children or {})) == ({}, "v2", [b"a"])


def test_backend_setting_becomes_a_router(tmp_path: Path) -> None:
    backend = '{"host": "hub.grid.tf", "port": 9900, "namespace": "default", "password": "p w"}'
    metadata = "CREATE TABLE metadata (key TEXT, value TEXT);"
    script = f"{ENTRIES} {metadata} INSERT INTO metadata VALUES ('backend', '{backend}')"
    got = read_flist(str(v2(tmp_path, script=script)))
    assert got.router is not None
    assert got.router.pools["backend"][0].url == "zdb://:p%20w@hub.grid.tf:9900/default"


def test_chunk_that_the_writer_forgot_is_absent(tmp_path: Path) -> None:
    # 32 chunks and one byte: a count in single precision loses the last.
    size = 32 * CHUNK + 1
    path = v2(tmp_path, entry(b"big", Kind.FILE, size, chunks(Codec.V2, *[CHUNK] * 32)))
    file = (read_flist(str(path)).root.children or {})[b"big"]
    assert (file.size, len(file.blocks), list(file.blocks.sizes)[-2:]) == (size, 33, [CHUNK, 1])
    assert bytes(file.blocks.ids[-32:]) == ABSENT_ID
    plan, _ = build(read_flist(str(path)))
    assert [plan.chunk(n).codec for n in (31, 32)] == [Codec.V2, Codec.ABSENT]
    assert plan.chunk(32).file_name == b"big"


@pytest.mark.parametrize("size", [CHUNK * 66, 1 << 60, 0])
def test_size_far_from_the_chunks_is_refused(tmp_path: Path, size: int) -> None:
    path = v2(tmp_path, entry(b"f", Kind.FILE, size, chunks(Codec.V2, CHUNK)))
    with pytest.raises(InvalidArgument, match="does not go with 1 chunks"):
        read_flist(str(path))


def test_special_files_that_all_say_socket(tmp_path: Path) -> None:
    device = entry(b"null", Kind.SPECIAL)
    device.special, device.device = Special.CHARACTER, (1, 3)
    message = encode_directory(Directory(b"", ROOT, acl_key(ACL, 8), Extra(1), [device]), original=True)
    # The type sits in front of the text: make it 0, socket, as the original's writer does.
    at = message.index(b"1,3\0") - 16
    assert message[at] == Special.CHARACTER
    rows = [(ROOT, message[:at] + b"\0" + message[at + 1 :]), (acl_key(ACL, 8), encode_acl(ACL))]
    path = archived(database(tmp_path / "db", ENTRIES, rows), tmp_path / "x")
    node = (read_flist(str(path)).root.children or {})[b"null"]
    assert (stat.S_IFMT(node.mode), node.rdev) == (stat.S_IFCHR, (1, 3))


def test_access_record_that_is_not_there(tmp_path: Path) -> None:
    lost = entry(b"a", Kind.FILE)
    lost.acl = "0123456789abcdef"
    node = (read_flist(str(v2(tmp_path, lost))).root.children or {})[b"a"]
    assert (node.mode & 0o7777, node.uid, node.gid) == (0o400, 1000, 1000)


def test_directory_of_30000_entries(tmp_path: Path) -> None:
    path = v2(tmp_path, *(entry(b"file-%05d" % n, Kind.FILE) for n in range(30_000)))
    assert len(read_flist(str(path)).root.children or {}) == 30_000


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE t (key, value); CREATE VIEW entries AS SELECT * FROM t;",
        "CREATE TABLE entries (key, value, more AS (key));",
        "CREATE VIRTUAL TABLE entries USING fts5(key, value);",
        "CREATE TABLE other (key, value);",
    ],
)
def test_table_that_is_no_plain_one_is_refused(tmp_path: Path, script: str) -> None:
    path = archived(database(tmp_path / "db", script), tmp_path / "x")
    with pytest.raises(InvalidArgument, match="no table entries"):
        read_flist(str(path))


def test_trigger_in_the_schema_does_nothing(tmp_path: Path) -> None:
    script = f"{ENTRIES} CREATE TRIGGER t AFTER INSERT ON entries BEGIN SELECT 1; END;"
    assert read_flist(str(v2(tmp_path, script=script))).version == "v2"


def test_database_with_a_write_ahead_log_is_read(tmp_path: Path) -> None:
    path = v2(tmp_path, entry(b"a", Kind.FILE), script=f"PRAGMA journal_mode=WAL; {ENTRIES}")
    assert list(read_flist(str(path)).root.children or {}) == [b"a"]


@pytest.mark.parametrize("limits", [Limits(unpacked_bytes=20_000), Limits(entries=50)])
def test_rows_and_bytes_are_limited(tmp_path: Path, limits: Limits) -> None:
    rows = [(f"{n:032x}", b"x" * 50) for n in range(200)]
    path = archived(database(tmp_path / "db", ENTRIES, rows), tmp_path / "x")
    with pytest.raises(InvalidArgument, match=r"over 100 rows|20000"):
        read_flist(str(path), limits)


def spoil(data: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    bad = bytearray(data)
    for _ in range(rng.randint(1, 30)):
        bad[rng.randrange(16, len(bad))] = rng.randrange(256)
    return bytes(bad[: rng.randrange(100, len(bad))] if rng.random() < 0.2 else bad)


@pytest.mark.parametrize("form", ["v2", "v3"])
def test_spoilt_database_is_read_or_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / "x"
    write_flist(tree(Codec[form.upper()]), str(path), form)  # type: ignore[arg-type]
    data = path.read_bytes()
    if form == "v2":
        with tarfile.open(path) as archive:
            data = archive.extractfile("./flistdb.sqlite3").read()  # type: ignore[union-attr]
    outcomes = set()
    for seed in range(150):
        (tmp_path / "db").write_bytes(spoil(data, seed))
        bad = archived(tmp_path / "db", tmp_path / "y") if form == "v2" else tmp_path / "db"
        try:
            outcomes.add(read_flist(str(bad)).version)
        except InvalidArgument:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_archive_has_the_members_that_the_original_names(tmp_path: Path) -> None:
    path, router = tmp_path / "x", of_stores([parse_store("00-ff=zdb://hub:9900")])
    write_flist(Flist(tree(Codec.V2).root, {}, router), str(path), "v2")
    with tarfile.open(path, "r:gz") as archive:
        assert sorted(archive.getnames()) == ["./flistdb.sqlite3", "./router.yaml"]
        text = archive.extractfile("./router.yaml").read()  # type: ignore[union-attr]
    assert yaml.safe_load(text)["lookup"] == list(router.lookup)
    assert read_flist(str(path)).router == router


def v3(tmp_path: Path, *statements: str) -> Path:
    path = tmp_path / "x.fl"
    write_flist(tree(Codec.V3), str(path), "v3")
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()
    return path


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM inode WHERE ino = 1", "no root"),
        ("UPDATE inode SET mode = 33188 WHERE ino = 1", "no root"),
        ("UPDATE inode SET name = 'f' WHERE name = 'd'", "occurs twice"),
        ("UPDATE inode SET name = '../x' WHERE name = 'd'", "not allowed"),
        ("UPDATE inode SET name = NULL WHERE name = 'd'", "no text"),
        ("UPDATE inode SET mode = 420 WHERE name = 'f'", "mode"),
        ("UPDATE inode SET uid = -5 WHERE name = 'f'", "uid"),
        ("UPDATE inode SET size = 'x' WHERE name = 'f'", "size"),
        ("UPDATE inode SET mtime = 'x' WHERE name = 'f'", "mtime"),
        ("UPDATE inode SET size = 5 WHERE name = 'f'", "does not go with 2 chunks"),
        ("UPDATE block SET id = x'00'", "not of 32 bytes"),
        ("UPDATE route SET start = 9, end = 3", "ascending"),
    ],
)
def test_v3_that_lies_is_refused(tmp_path: Path, statement: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        read_flist(str(v3(tmp_path, statement)))


def test_v3_inode_in_a_cycle_is_left_out(tmp_path: Path) -> None:
    path = v3(
        tmp_path,
        "UPDATE inode SET parent = ino WHERE name = 'd'",
        "UPDATE inode SET parent = 1 WHERE ino = 1",
    )
    assert sorted(read_flist(str(path)).root.children or {}) == [b"f", b"l", b"n"]


def test_v3_group_is_not_the_owner(tmp_path: Path) -> None:
    node = (read_flist(str(v3(tmp_path))).root.children or {})[b"f"]
    assert (node.uid, node.gid) == (7, 8)


def test_v3_time_before_1970_is_read(tmp_path: Path) -> None:
    found = read_flist(str(v3(tmp_path, "UPDATE inode SET mtime = -5 WHERE name = 'f'")))
    assert (found.root.children or {})[b"f"].mtime_s == -5


def test_v3_without_tables_of_no_use_is_read(tmp_path: Path) -> None:
    path = v3(
        tmp_path,
        "DROP TABLE route",
        "DROP TABLE tag",
        "DROP TABLE extra",
        "UPDATE inode SET size=0",
        "DROP TABLE block",
    )
    with pytest.raises(InvalidArgument, match="target"):
        build(read_flist(str(path)))


def test_v3_depth_is_limited(tmp_path: Path) -> None:
    path = v3(tmp_path)
    with pytest.raises(InvalidArgument, match="1 levels deep"):
        read_flist(str(path), Limits(depth=1))
