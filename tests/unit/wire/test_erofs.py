"""The EROFS writer, checked by reading its bytes back with a reader of the on-disk format's description."""

import stat
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.errors import InvalidArgument
from g8node.wire import erofs
from g8node.wire.erofs import Inode
from g8node.wire.erofs_xattr import split_name


def folder(children: dict[bytes, Inode] | None = None) -> Inode:
    return Inode(stat.S_IFDIR | 0o755, children=children or {})


def file(size: int = 0, blocks: tuple[int, ...] = ()) -> Inode:
    return Inode(stat.S_IFREG | 0o644, size=size, blocks=blocks)


def listing(image: bytes, inode: Inode) -> list[tuple[bytes, int]]:
    """Names and nids of a directory, block by block, as the kernel reads them."""
    found = []
    for start in range(0, inode.size, erofs.BLOCK):
        length = min(erofs.BLOCK, inode.size - start)
        block = image[inode.tail + start : inode.tail + start + length]
        count = struct.unpack_from("<QH", block)[1] // 12
        entries = [struct.unpack_from("<QHBB", block, 12 * i) for i in range(count)]
        ends = [entry[1] for entry in entries[1:]] + [length]
        for entry, end in zip(entries, ends, strict=True):
            found.append((bytes(block[entry[1] : end]).rstrip(b"\0"), entry[0]))
    return found


names = st.binary(min_size=1, max_size=255).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
)


@given(st.sets(names, max_size=120))
@settings(max_examples=40, deadline=None)
def test_directory_is_sorted_across_blocks_and_complete(entries: set[bytes]) -> None:
    root = folder({name: file() for name in entries})
    image = bytes(erofs.build(root, data_blocks=0))
    found = listing(image, root)
    assert [name for name, _ in found] == sorted([b".", b"..", *entries])
    places = {b".": root, b"..": root, **(root.children or {})}
    assert all(nid * 32 == places[name].position for name, nid in found)


def test_directory_block_is_filled_to_the_last_byte() -> None:
    # `.`, `..` and entries of 12 + 4 bytes: (4096 - 27) / 16 = 254 fit, the next one opens a block.
    root = folder({b"%04d" % n: file() for n in range(255)})
    erofs.build(root, data_blocks=0)
    assert root.size == 4096 + 16


def test_inline_data_never_straddles_a_block() -> None:
    root = folder({b"%03d" % n: Inode(stat.S_IFLNK | 0o777, target=b"t" * (n * 13 + 1)) for n in range(300)})
    erofs.build(root, data_blocks=0)
    for inode in (root.children or {}).values():
        assert inode.position % 32 == 0
        assert inode.tail // 4096 == (inode.tail + inode.size - 1) // 4096


def test_superblock_has_the_checksum_the_kernel_wants() -> None:
    image = erofs.build(folder(), data_blocks=5, uuid=b"u" * 16)
    magic, checksum = struct.unpack_from("<II", image, 1024)
    assert magic == 0xE0F5E1E2
    struct.pack_into("<I", image, 1028, 0)
    assert checksum == erofs.crc32c(image[1024:4096])
    assert struct.unpack_from("<I", image, 1024 + 36)[0] == len(image) // 4096 + 5


def test_crc32c_check_value() -> None:
    # The catalogued check value of CRC-32C, without its final inversion.
    assert erofs.crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def test_block_map_points_into_the_data_area() -> None:
    one = file(3 * 524288, (0, erofs.HOLE, 128))
    image = erofs.build(folder({b"f": one}), data_blocks=256)
    first = len(image) // 4096
    assert struct.unpack_from("<3I", image, one.tail) == (first, 0xFFFFFFFF, first + 128)


def test_hard_link_is_one_inode_with_a_count() -> None:
    shared = file()
    root = folder({b"a": shared, b"b": shared, b"d": folder({b"c": shared})})
    image = bytes(erofs.build(root, data_blocks=0))
    nids = {nid for name, nid in listing(image, root) if name in (b"a", b"b")}
    assert nids == {shared.position // 32}
    assert (shared.nlink, root.nlink) == (3, 3)


def test_same_tree_gives_same_bytes() -> None:
    def image() -> bytes:
        return bytes(erofs.build(folder({b"x": file(), b"y": folder({b"z": file(1, (0,))})}), data_blocks=1))

    assert image() == image()


def test_directory_with_two_names_is_refused() -> None:
    shared = folder()
    with pytest.raises(InvalidArgument, match="two names"):
        erofs.build(folder({b"a": shared, b"b": shared}), data_blocks=0)


def test_image_over_16_tib_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="limit"):
        erofs.build(folder(), data_blocks=0xFFFFFFFF)


def test_root_must_be_a_directory() -> None:
    with pytest.raises(InvalidArgument, match="root"):
        erofs.build(file(), data_blocks=0)


@pytest.mark.parametrize(
    ("inode", "message"),
    [
        (Inode(0o644), "no file type"),
        (file(524289, (0,)), "1 chunks"),
        (file(0, (0,)), "1 chunks"),
        (Inode(stat.S_IFLNK, target=b""), "symlink target"),
        (Inode(stat.S_IFLNK, target=b"t" * 4096), "symlink target"),
        (Inode(stat.S_IFLNK, target=b"a\0b"), "symlink target"),
        (Inode(stat.S_IFCHR, rdev=(4096, 0)), "device number"),
        (Inode(stat.S_IFBLK, rdev=(0, 1 << 20)), "device number"),
        (Inode(stat.S_IFREG, xattrs={b"user.x": bytes(65536)}), "65536 bytes"),
        (Inode(stat.S_IFREG, xattrs={b"user.%d" % n: bytes(65535) for n in range(5)}), "of one file"),
        (Inode(stat.S_IFREG, xattrs={b"system.nfs4_acl": b""}), "expected user"),
        (Inode(stat.S_IFREG, xattrs={b"user.": b""}), "expected user"),
    ],
)
def test_what_erofs_cannot_hold_is_refused(inode: Inode, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        erofs.check(inode)


def test_xattr_names_are_split_by_prefix() -> None:
    assert split_name(b"user.a.b") == (1, b"a.b")
    assert split_name(b"system.posix_acl_access") == (2, b"")
    assert split_name(b"system.posix_acl_default") == (3, b"")
    assert split_name(b"trusted.overlay.opaque") == (4, b"overlay.opaque")
    assert split_name(b"security.capability") == (6, b"capability")
