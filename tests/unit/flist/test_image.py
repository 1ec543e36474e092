"""Building and caching images."""

import os
import stat
import threading
from array import array
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument
from g8node.flist.container import write_flist
from g8node.flist.image import ImageRef, build, prepare
from g8node.flist.tree import Flist, Node
from g8node.wire.flist import Blocks, Codec


def file(letter: bytes, *sizes: int, key: bytes = b"k", codec: Codec = Codec.G8) -> Node:
    ids = b"".join(letter * 32 if size else b"" for size in sizes)
    blocks = Blocks(ids, key * 32 * len(sizes), array("I", sizes), codec)
    return Node(stat.S_IFREG | 0o644, size=sum(sizes), blocks=blocks)


def folder(**children: Node) -> Node:
    return Node(stat.S_IFDIR | 0o755, children={name.encode(): node for name, node in children.items()})


@pytest.fixture
def flist(tmp_path: Path) -> Path:
    path = tmp_path / "x.flist"
    write_flist(Flist(folder(a=file(b"1", 5), b=file(b"2", 4096)), {"environ": "{}"}), str(path))
    return path


def test_equal_chunks_share_a_slot_and_hard_links_an_inode() -> None:
    shared = file(b"1", 5)
    plan, _ = build(Flist(folder(a=shared, b=shared, c=file(b"1", 5), d=file(b"2", 5000))))
    assert plan.chunk_count == 2
    assert list(plan.slots.starts) == [0, 4096]
    assert plan.size == plan.metadata_size + 3 * 4096
    assert plan.chunk(0).file_name == b"a"
    assert plan.chunk(1).file_name == b"d"


def test_keyed_files_say_so() -> None:
    plan, _ = build(Flist(folder(a=file(b"1", 5), b=file(b"2", 5, codec=Codec.G8_KEYED))))
    assert [plan.chunk(n).codec for n in range(2)] == [Codec.G8, Codec.G8_KEYED]


@pytest.mark.parametrize(
    "other",
    [file(b"1", 6), file(b"1", 5, key=b"K"), file(b"1", 5, codec=Codec.G8_KEYED)],
    ids=["size", "key", "codec"],
)
def test_chunk_that_differs_elsewhere_is_refused(other: Node) -> None:
    with pytest.raises(InvalidArgument, match=r"b'b': chunk 3131.* has another key or size"):
        build(Flist(folder(a=file(b"1", 5), b=other)))


def test_what_erofs_cannot_hold_is_refused_by_name() -> None:
    bad = Node(stat.S_IFREG, xattrs={b"odd.name": b""})
    with pytest.raises(InvalidArgument, match=r"b'd/bad': extended attribute b'odd.name'"):
        build(Flist(folder(d=folder(bad=bad))))


def test_prepare_uses_the_cache(flist: Path, tmp_path: Path) -> None:
    first = prepare(str(flist), str(tmp_path / "cache"))
    before = os.stat(first.plan.metadata_path)
    second = prepare(str(flist), str(tmp_path / "cache"))
    assert second == first
    assert os.stat(second.plan.metadata_path).st_ino == before.st_ino
    assert second.plan.info == {"environ": "{}", "merkle": first.plan.info["merkle"]}
    assert os.listdir(tmp_path / "cache") == [first.digest]


@pytest.mark.parametrize("name", ["meta.erofs", "slots.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_cache_entry_is_rebuilt(flist: Path, tmp_path: Path, name: str, damage: str) -> None:
    first = prepare(str(flist), str(tmp_path / "cache"))
    path = Path(first.directory, name)
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flip" else data[:100])
    second = prepare(str(flist), str(tmp_path / "cache"))
    assert second.plan.slots == first.plan.slots
    assert os.listdir(tmp_path / "cache") == [first.digest]


def test_prepare_from_many_threads_gives_one_entry(flist: Path, tmp_path: Path) -> None:
    found: list[ImageRef] = []
    threads = [
        threading.Thread(target=lambda: found.append(prepare(str(flist), str(tmp_path / "cache"))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert os.listdir(tmp_path / "cache") == [found[0].digest]


def test_refused_flist_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    bad = tmp_path / "bad.flist"
    bad.write_bytes(b"nonsense")
    with pytest.raises(InvalidArgument, match=r"bad\.flist"):
        prepare(str(bad), str(tmp_path / "cache"))
    assert os.listdir(tmp_path / "cache") == []


def test_missing_flist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        prepare(str(tmp_path / "none"), str(tmp_path / "cache"))
