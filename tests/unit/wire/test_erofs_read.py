"""What the writer wrote is read back."""

import stat

from g8node.wire import erofs
from g8node.wire.erofs import BLOCK, CHUNK, HOLE, Inode
from g8node.wire.erofs_read import Extent, Reader

FOLDER, FILE, LINK = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o640, stat.S_IFLNK | 0o777


def test_attributes_targets_and_xattrs_come_back() -> None:
    xattrs = {b"user.a": b"", b"security.capability": b"x" * 20, b"system.posix_acl_access": b"acl"}
    file = Inode(FILE, 70_000, 4_000_000_000, -5, 7, xattrs, size=3, extent=2)
    device = Inode(stat.S_IFCHR | 0o600, rdev=(300, 70_000))
    children = {
        b"file": file,
        b"hard": file,
        b"long": Inode(LINK, target=b"t" * 4095),
        b"dev": device,
        b"short": Inode(LINK, target=b"here"),
    }
    image = bytes(erofs.build(Inode(FOLDER, children=children), data_blocks=3))
    reader = Reader(image)
    root = reader.inode(reader.root)
    assert [name for _, name, _ in reader.entries(root)] == sorted([b".", b"..", *children])
    found = {name: reader.inode(nid) for _, name, nid in reader.entries(root)}
    seen = found[b"file"]
    assert (seen.mode, seen.uid, seen.gid, seen.mtime_ns, seen.nlink, seen.size) == (
        FILE, 70_000, 4_000_000_000, -5 * 10**9 + 7, 2, 3,
    )  # fmt: skip
    assert found[b"hard"] == seen
    assert reader.xattrs(seen) == xattrs
    assert reader.xattrs(root) == {}
    assert reader.target(found[b"long"]) == b"t" * 4095
    assert reader.target(found[b"short"]) == b"here"
    assert found[b"dev"].rdev == erofs.encode_device(300, 70_000)
    assert reader.extents(seen, 1, 100) == [Extent(len(image) + 2 * BLOCK + 1, 2)]
    assert reader.extents(seen, 3, 100) == []


def test_chunks_and_holes_become_extents() -> None:
    size = 2 * CHUNK + 10
    file = Inode(FILE, size=size, blocks=[5, HOLE, 0])
    image = bytes(erofs.build(Inode(FOLDER, children={b"f": file}), data_blocks=200))
    reader = Reader(image)
    found = reader.inode(reader.lookup(reader.inode(reader.root), b"f") or 0)
    assert reader.extents(found, CHUNK - 1, CHUNK + 20) == [
        Extent(len(image) + 5 * BLOCK + CHUNK - 1, 1),
        Extent(-1, CHUNK),
        Extent(len(image), 10),
    ]


def test_crowded_folder_is_searched_and_listed_from_any_place() -> None:
    names = [b"%05d" % number * (1 + number % 9) for number in range(5000)]
    children = {name: Inode(LINK, target=name) for name in names}
    reader = Reader(bytes(erofs.build(Inode(FOLDER, children=children), data_blocks=0)))
    root = reader.inode(reader.root)
    rows = list(reader.entries(root))
    assert [name for _, name, _ in rows] == sorted([b".", b"..", *names])
    for at in range(2, 5000, 97):
        position, name, nid = rows[at]
        assert reader.lookup(root, name) == nid
        assert reader.target(reader.inode(nid)) == name
        assert next(reader.entries(root, position)) == rows[at]
        assert next(reader.entries(root, position + 1)) == rows[at + 1]
    for absent in (b"", b"/", b"0", b"00000" * 10, b"99999"):
        assert reader.lookup(root, absent) is None
