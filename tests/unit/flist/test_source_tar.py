"""Tar archives as pack sources: what they may hold, and what is refused."""

import io
import os
import resource
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument
from g8node.flist.source import Part
from g8node.flist.source_tar import TarSource
from g8node.flist.tree import Node, walk
from g8node.linux.zstd import ZstdReader

Item = tuple[tarfile.TarInfo, bytes]


def item(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object) -> Item:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def archive(path: Path, items: list[Item], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=form) as out:  # type: ignore[call-overload]
        for member, content in items:
            out.addfile(member, io.BytesIO(content))
    return path


def read(path: Path) -> tuple[dict[bytes, Node], list[Part]]:
    source = TarSource(str(path))
    parts = list(source.parts())
    return dict(walk(source.root)), parts


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_archive_of_any_kind_is_read(tmp_path: Path, mode: str, form: int) -> None:
    items = [
        item("./", kind=tarfile.DIRTYPE, mode=0o711, uid=5),
        item("./d/", kind=tarfile.DIRTYPE, mode=0o1777, mtime=77),
        item("./d/f", b"content", mode=0o4755, uid=7, gid=8, mtime=99),
        item("./link", kind=tarfile.SYMTYPE, linkname="d/../../f"),
        item("./hard", kind=tarfile.LNKTYPE, linkname="./d/f"),
        item("./null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        item("./pipe", kind=tarfile.FIFOTYPE),
    ]
    nodes, parts = read(archive(tmp_path / "x", items, mode, form))
    assert sorted(nodes) == [b"", b"d", b"d/f", b"hard", b"link", b"null", b"pipe"]
    file = nodes[b"d/f"]
    assert (file.mode, file.uid, file.gid, file.mtime_s, file.size) == (stat.S_IFREG | 0o4755, 7, 8, 99, 7)
    assert nodes[b"hard"] is file
    assert nodes[b"link"].target == b"d/../../f"
    assert (nodes[b"null"].rdev, nodes[b"d"].mode, nodes[b""].uid) == ((1, 3), stat.S_IFDIR | 0o1777, 5)
    assert parts == [Part(file, 0, b"content")]


def test_nanoseconds_and_xattrs_come_from_pax(tmp_path: Path) -> None:
    headers = {"mtime": "-1.5", "SCHILY.xattr.user.a": "v\udcff"}
    nodes, _ = read(archive(tmp_path / "x", [item("f", pax_headers=headers)]))
    assert (nodes[b"f"].mtime_s, nodes[b"f"].mtime_ns) == (-2, 500_000_000)
    assert nodes[b"f"].xattrs == {b"user.a": b"v\xff"}


def test_long_and_raw_names_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff" * 200 + b"/" + b"n" * 255)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / str(form)
        with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as out:
            out.addfile(*item(name)[:1])
        assert os.fsencode(name) in read(path)[0]


def test_sparse_member_of_gnu_tar_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "s", "wb") as out:
        out.seek(3 << 20)
        out.write(b"end")
    for form in ("gnu", "posix"):
        path = tmp_path / form
        subprocess.run(["tar", "-S", f"--format={form}", "-cf", path, "-C", tmp_path, "s"], check=True)
        nodes, parts = read(path)
        assert path.stat().st_size < 1 << 20
        assert nodes[b"s"].size == (3 << 20) + 3
        assert b"".join(part.data for part in parts) == bytes(3 << 20) + b"end"


def test_missing_directories_are_made(tmp_path: Path) -> None:
    nodes, _ = read(archive(tmp_path / "x", [item("a/b/c", b"x")]))
    assert nodes[b"a/b"].mode == stat.S_IFDIR | 0o755


def test_later_member_replaces_an_earlier_one(tmp_path: Path) -> None:
    folder = item("d", kind=tarfile.DIRTYPE, mode=0o700)
    nodes, _ = read(archive(tmp_path / "x", [item("d/f", b"old"), item("d/f", b"newer"), folder]))
    assert (nodes[b"d/f"].size, nodes[b"d"].mode) == (5, stat.S_IFDIR | 0o700)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([item("/etc/passwd")], "'/etc/passwd' has an absolute name"),
        ([item("a/../../x")], "leaves the tree"),
        ([item("..", kind=tarfile.DIRTYPE)], "leaves the tree"),
        ([item("l", kind=tarfile.SYMTYPE, linkname="/"), item("l/x")], "below b'l', which is no directory"),
        ([item("h", kind=tarfile.LNKTYPE, linkname="/etc/passwd")], "absolute"),
        ([item("h", kind=tarfile.LNKTYPE, linkname="nothing")], "hard link to b'nothing'"),
        ([item("h", kind=tarfile.LNKTYPE, linkname=".")], "no file"),
        ([item("d", kind=tarfile.DIRTYPE), item("d")], "replaces a directory"),
        ([item(".", b"")], "replaces the root"),
        ([item("v", kind=b"V")], "type b'V'"),
        ([item("n" * 256)], "name of 256 bytes"),
        ([item("/".join("d" * 1100))], "levels deep"),
        ([item("f", pax_headers={"mtime": "soon"})], "seconds"),
        ([item("f", pax_headers={"SCHILY.xattr.odd": "x"})], "expected user"),
        ([item("f", uid=1 << 33)], "32-bit id"),
    ],
    ids=str,
)
def test_hostile_member_is_refused_by_name(tmp_path: Path, items: list[Item], message: str) -> None:
    path = archive(tmp_path / "x", items)
    with pytest.raises(InvalidArgument, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"no tar", b"", b"\x1f\x8b broken gzip"])
def test_file_that_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InvalidArgument):
        read(tmp_path / "x")


def zstd(path: Path, *options: str) -> Path:
    """The file compressed in place."""
    packed = path.with_suffix(".zst")
    subprocess.run(["zstd", "-q", *options, str(path), "-o", str(packed)], check=True)
    return packed


def test_zstd_archive_is_read(tmp_path: Path) -> None:
    contents = [os.urandom(1 << 20) + bytes(3 << 20), b"small", bytes(700_000)]
    items = [item(f"f{number}", content) for number, content in enumerate(contents)]
    plain = archive(tmp_path / "x", items)
    expected = read(plain)[1]
    for options in (["-3"], ["-19", "--long=27"], ["--fast=5"]):
        parts = read(zstd(plain, "-f", *options))[1]
        assert [part.data for part in parts] == [part.data for part in expected]


def test_zstd_archive_of_many_frames_is_read(tmp_path: Path) -> None:
    """As pzstd and zstd:chunked layers are: frames that hold something, and skippable ones around them."""
    plain = archive(tmp_path / "x", [item("f", bytes(range(256)) * 9000)]).read_bytes()
    skippable = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"to be"
    made = skippable
    for at in range(0, len(plain), 300_001):
        (tmp_path / "piece").write_bytes(plain[at : at + 300_001])
        made += zstd(tmp_path / "piece", "-f").read_bytes() + skippable
    (tmp_path / "frames").write_bytes(made)
    assert b"".join(part.data for part in read(tmp_path / "frames")[1]) == bytes(range(256)) * 9000


def test_bad_zstd_archive_is_refused(tmp_path: Path) -> None:
    packed = zstd(archive(tmp_path / "x", [item("f", os.urandom(600_000))])).read_bytes()
    changed = bytearray(packed)
    changed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    bad = {
        "cut": (packed[: len(packed) // 2], "ends too early|too early"),
        "no tar": (zstd_of(tmp_path, b"no tar at all" * 100), "."),
        "half a magic": (packed[:7], "."),
        "wide": (b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + bytes(100), "too much memory"),
        "checksum": (bytes(changed), "zstd stream"),
    }
    for name, (content, message) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidArgument, match=message):
            read(tmp_path / name)


def zstd_of(folder: Path, content: bytes) -> bytes:
    (folder / "content").write_bytes(content)
    return zstd(folder / "content", "-f").read_bytes()


def test_zstd_bomb_takes_little_memory(tmp_path: Path) -> None:
    """128 MiB in 12 kB come piece by piece, and no more of them than was asked for."""
    with (tmp_path / "f").open("wb") as file:
        file.truncate(128 << 20)
    bomb = zstd(tmp_path / "f")
    assert bomb.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with bomb.open("rb") as source, ZstdReader(source) as plain:
        while data := plain.read(1 << 20):
            assert len(data) == 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x", [item("f", bytes(3 << 20))])
    path.write_bytes(path.read_bytes()[: 1 << 20])
    with pytest.raises(InvalidArgument):
        read(path)


def test_huge_header_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "x").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(InvalidArgument, match="tar header of"):
        read(tmp_path / "x")
