"""Trees that hold everything a file system can hold, what they look like, and images of them (blocking)."""

import contextlib
import os
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from g8node.errors import NotFound
from g8node.flist.image import ImagePlan, Kind
from g8node.ids import ChunkId
from g8node.linux.mount import Mount, mount, unmount
from g8node.store.base import StoreError
from g8node.wire.chunk import CHUNK_SIZE

LATE = 5_000_000_000
"""A time after 2106: too big for the original's 32 bits."""
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""security.capability: cap_net_bind_service, permitted and effective, version 2."""


class DictStore:
    """A store in a dict, for tests whose subject is not the store."""

    def __init__(self) -> None:
        self.chunks: dict[ChunkId, bytes] = {}
        self.puts = 0

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        return {chunk: self.chunks.get(chunk) or NotFound(f"chunk {chunk.hex()}") for chunk in ids}

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        self.puts += len(chunks)
        self.chunks.update(chunks)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        return {chunk for chunk in ids if chunk not in self.chunks}

    async def close(self) -> None:
        self.chunks.clear()


def nasty(top: Path) -> None:
    """Everything issue 2 lists but the 20,000 entries, which are `crowd`."""
    top.mkdir()
    root = os.fsencode(top)
    _files(top)
    _names(root)
    _specials(top)
    (top / "deep" / "er" / "still").mkdir(parents=True)
    (top / "deep" / "er" / "still" / "leaf").write_bytes(b"leaf")
    os.chown(top / "setuid", 70_000, 4_000_000_000)
    os.chmod(top / "setuid", 0o4755)
    os.chmod(top / "deep", 0o3777)
    os.chmod(top, 0o750)
    os.chown(top, 12, 34)
    _xattrs(top)
    _times(top)


def _files(top: Path) -> None:
    (top / "hello").write_bytes(b"hello\n")
    (top / "empty").touch()
    (top / "setuid").write_bytes(b"#!/bin/sh\n" * 700)
    (top / "exact").write_bytes(os.urandom(CHUNK_SIZE))
    (top / "long").write_bytes(os.urandom(CHUNK_SIZE) * 2 + b"tail")
    (top / "page").write_bytes(b"p" * 4096)
    (top / "twin of hello").write_bytes(b"hello\n")
    with open(top / "sparse", "wb") as sparse:
        sparse.write(b"head")
        sparse.seek(5 * CHUNK_SIZE + 1000)
        sparse.write(b"island")
        sparse.truncate(9 * CHUNK_SIZE + 17)
    with open(top / "all hole", "wb") as hole:
        hole.truncate(3 * CHUNK_SIZE)
    os.link(top / "hello", top / "second name of hello")
    os.link(top / "empty", top / "second name of empty")


def _names(root: bytes) -> None:
    names = [b"\xff\xfe not utf-8", "größe \N{SNOWMAN}".encode(), b"!before dot", b"-dash", b"new\nline"]
    names += [b"n" * 255, b"\xc3" * 255, b" ", b"..."]
    for name in names:
        with open(os.path.join(root, name), "wb") as out:
            out.write(name)
    os.mkdir(os.path.join(root, b"dir \xe9"))
    with open(os.path.join(root, b"dir \xe9", b"\xe9"), "wb") as out:
        out.write(b"inside")


def _specials(top: Path) -> None:
    os.symlink("hello", top / "link")
    os.symlink("t" * 4095, top / "long link")
    os.symlink(b"\xff/../x", os.fsencode(top / "raw link"))
    os.symlink("loop", top / "loop")
    os.link(top / "link", top / "second name of link", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "big numbers", stat.S_IFCHR | 0o600, os.makedev(4000, 1_000_000))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    os.link(top / "disk", top / "second name of disk")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / "socket"))


def _xattrs(top: Path) -> None:
    os.setxattr(top / "hello", "security.capability", CAPABILITY)
    os.setxattr(top / "hello", "user.empty", b"")
    os.setxattr(top / "page", "user.big", os.urandom(3000))
    os.setxattr(top / "deep", "trusted.note", b"on a directory")
    os.setxattr(top / "link", "trusted.link", b"on a symlink", follow_symlinks=False)
    os.setxattr(top, "user.root", b"on the root")
    acl = "0200000001000600ffffffff020004000100000004000400ffffffff10000400ffffffff20000400ffffffff"
    os.setxattr(top / "exact", "system.posix_acl_access", bytes.fromhex(acl))


def _times(top: Path) -> None:
    for number, path in enumerate(reversed(paths(os.fsencode(top))[1:])):
        when = 1_600_000_000_000_000_000 + number * 1_000_000_007
        os.utime(os.path.join(os.fsencode(top), path), ns=(when, when), follow_symlinks=False)
    os.utime(top / "exact", ns=(0, LATE * 10**9 + 1))
    os.utime(top / "long", ns=(0, -5 * 10**9 + 7))
    os.utime(top, ns=(0, 123_456_789_987_654_321))


def crowd(top: Path, count: int = 20_000) -> None:
    """One directory of many small files, all of different content."""
    top.mkdir()
    for number in range(count):
        (top / f"file {number:05d}").write_bytes(b"%d" % number)


class Look(NamedTuple):
    """Everything about one path that must survive."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int
    rdev: int
    target: bytes
    xattrs: dict[str, bytes]
    content: bytes
    first_name: bytes
    """The first path, in byte order, of the same inode: equal partitions are equal hard links."""


def look(top: Path) -> dict[bytes, Look]:
    """The tree below `top` by relative path, the root as an empty one."""
    root = os.fsencode(top)
    seen: dict[int, bytes] = {}
    return {path: _look(os.path.join(root, path), path, seen) for path in paths(root)}


def paths(root: bytes) -> list[bytes]:
    """Every path below the root, relative and sorted; the root itself is empty."""
    # pathlib's rglob stumbles over a symlink that is too long to follow.
    found = [b""]
    for folder, folders, files in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in folders + files]
    return sorted(found)


def _look(full: bytes, path: bytes, seen: dict[int, bytes]) -> Look:
    status = os.lstat(full)
    is_file, is_directory = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
    content = b""
    if is_file:
        with open(full, "rb") as source:
            content = source.read()
    names = os.listxattr(full, follow_symlinks=False)
    return Look(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        0 if is_directory else status.st_size,
        status.st_mtime_ns,
        # A directory's count is the file system's own business (btrfs always says 1).
        0 if is_directory else status.st_nlink,
        status.st_rdev,
        os.readlink(full) if stat.S_ISLNK(status.st_mode) else b"",
        {name: os.getxattr(full, name, follow_symlinks=False) for name in sorted(names)},
        content,
        seen.setdefault(status.st_ino, path),
    )


def write_image(plan: ImagePlan, stored: Mapping[ChunkId, bytes], target: Path, step: int = 1 << 20) -> None:
    """The whole virtual file, read through the plan in steps as the FUSE session would."""
    with open(target, "wb") as out, open(plan.metadata_path, "rb") as metadata:
        for offset in range(0, plan.size, step):
            for piece in plan.plan(offset, step):
                if piece.kind == Kind.METADATA:
                    metadata.seek(piece.offset)
                    out.write(metadata.read(piece.length))
                elif piece.kind == Kind.CHUNK:
                    reference = plan.chunk(piece.chunk)
                    plain = reference.decode(stored[reference.id])
                    out.write(plain[piece.offset : piece.offset + piece.length])
                else:
                    out.write(bytes(piece.length))
    assert target.stat().st_size == plan.size


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount an EROFS image file read-only, without a loop device."""
    at.mkdir()
    mount(str(image), str(at), "erofs", Mount.RDONLY)
    try:
        yield at
    finally:
        unmount(str(at))


@contextlib.contextmanager
def loop_mounted(image: Path, at: Path) -> Iterator[Path]:
    """The same through a loop device, as kernels before 6.12 need."""
    at.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        unmount(str(at))


def fsck(image: Path) -> None:
    """Have erofs-utils check the image; its output is the failure's message."""
    done = subprocess.run(["fsck.erofs", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
