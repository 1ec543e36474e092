"""The kernel and erofs-utils read images of random trees exactly as they were meant."""

import os
import random
import stat
from pathlib import Path

import pytest

from g8node.wire import erofs
from g8node.wire.erofs import Inode
from tests.support import trees

pytestmark = pytest.mark.root


def random_name(source: random.Random) -> bytes:
    alphabet = [byte for byte in range(1, 256) if byte != ord("/")]
    length = source.choice([1, 2, 8, 30, 255])
    name = bytes(source.choices(alphabet, k=length))
    return name if name not in (b".", b"..") else b"dots"


def random_xattrs(source: random.Random) -> dict[bytes, bytes]:
    # Sizes around block boundaries: the area may straddle any number of blocks.
    sizes = [0, 1, 3, 100, 2000, 4000, 9000]
    return {
        b"%s.%d" % (source.choice([b"user", b"trusted", b"security"]), n): source.randbytes(
            source.choice(sizes)
        )
        for n in range(source.choice([0, 0, 1, 3]))
    }


def random_inode(source: random.Random, depth: int) -> Inode:
    kind = source.choice([stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR if depth else stat.S_IFREG, stat.S_IFIFO])
    made = Inode(
        kind | source.randrange(0o10000),
        source.randrange(1 << 32),
        source.randrange(1 << 32),
        source.randrange(-(1 << 34), 1 << 34),
        source.randrange(10**9),
    )
    if kind in (stat.S_IFREG, stat.S_IFDIR):  # Linux refuses user.* on anything else
        made.xattrs = random_xattrs(source)
    if kind == stat.S_IFLNK:
        made.target = b"t" * source.choice([1, 50, 2000, 3990, 4032, 4095])
    elif kind == stat.S_IFREG:
        made.size = source.choice([0, 1, 524288, 700_000, 40 * 524288])
        made.blocks = [source.choice([0, erofs.HOLE]) for _ in range(-(-made.size // erofs.CHUNK))]
    elif kind == stat.S_IFDIR:
        count = source.choice([0, 1, 5, 40])
        made.children = {random_name(source): random_inode(source, depth - 1) for _ in range(count)}
    return made


def expected(root: Inode) -> dict[bytes, tuple[object, ...]]:
    rows: dict[bytes, tuple[object, ...]] = {}
    stack = [(b"", root)]
    while stack:
        path, node = stack.pop()
        size = 0 if node.children is not None else node.size
        when = node.mtime_s * 10**9 + node.mtime_ns
        rows[path] = (node.mode, node.uid, node.gid, size, when, node.target, dict(node.xattrs))
        for name, child in (node.children or {}).items():
            stack.append((path + b"/" + name if path else name, child))
    return rows


def found(top: Path) -> dict[bytes, tuple[object, ...]]:
    root = os.fsencode(top)
    rows: dict[bytes, tuple[object, ...]] = {}
    for path in trees.paths(root):
        full = os.path.join(root, path)
        status = os.lstat(full)
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        target = os.readlink(full) if stat.S_ISLNK(status.st_mode) else b""
        names = os.listxattr(full, follow_symlinks=False)
        values = {os.fsencode(name): os.getxattr(full, name, follow_symlinks=False) for name in names}
        rows[path] = (status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, target, values)
    return rows


@pytest.mark.parametrize("seed", range(12))
def test_random_tree_is_what_the_kernel_sees(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    root = Inode(stat.S_IFDIR | 0o755, xattrs=random_xattrs(source))
    root.children = {random_name(source): random_inode(source, 3) for _ in range(60)}
    data_blocks = erofs.CHUNK // erofs.BLOCK
    image = tmp_path / "image"
    image.write_bytes(bytes(erofs.build(root, data_blocks=data_blocks)) + b"d" * erofs.CHUNK)
    trees.fsck(image)
    with trees.mounted(image, tmp_path / "mnt") as top:
        assert found(top) == expected(root)


def test_deep_path_is_reachable(tmp_path: Path) -> None:
    root = at = Inode(stat.S_IFDIR | 0o755, children={})
    for _ in range(900):
        child = Inode(stat.S_IFDIR | 0o755, children={})
        at.children = {b"d": child}
        at = child
    image = tmp_path / "image"
    image.write_bytes(bytes(erofs.build(root, data_blocks=0)))
    with trees.mounted(image, tmp_path / "mnt") as top:
        assert os.path.isdir(os.path.join(top, *["d"] * 900))


def test_hole_reads_as_zeros_and_is_reported(tmp_path: Path) -> None:
    chunk, hole = erofs.CHUNK, erofs.HOLE
    file = Inode(stat.S_IFREG | 0o644, size=4 * chunk, blocks=[hole, 0, hole, hole])
    image = tmp_path / "image"
    root = Inode(stat.S_IFDIR | 0o755, children={b"f": file})
    image.write_bytes(bytes(erofs.build(root, data_blocks=chunk // erofs.BLOCK)) + b"d" * chunk)
    with trees.mounted(image, tmp_path / "mnt") as top, open(top / "f", "rb") as opened:
        assert opened.read() == bytes(chunk) + b"d" * chunk + bytes(2 * chunk)
        assert os.lseek(opened.fileno(), 0, os.SEEK_DATA) == chunk
        assert os.lseek(opened.fileno(), chunk, os.SEEK_HOLE) == 2 * chunk
