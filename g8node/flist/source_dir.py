"""Pack source: a directory tree on this machine (blocking).

Two passes: lstat of everything, so that the total is known; then the files, each of which must still be what
the first pass saw. Nothing is followed. Paths are limited by the kernel's PATH_MAX.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from g8node.errors import Conflict
from g8node.flist.source import How, Part, begin_file, check_xattrs, cut_file
from g8node.flist.tree import Node
from g8node.wire.chunk import CHUNK_SIZE
from g8node.wire.flist import NANOSECONDS

_PORTABLE: Final = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")


class DirectorySource:
    """See `source.Source`."""

    def __init__(self, path: str, how: How | None = None, *, single: bool = False) -> None:
        """`single`: a tree of this one file, whatever it is."""
        self._how = how or How()
        self.info: Mapping[str, str] = {}
        self._links: dict[tuple[int, int], Node] = {}
        self._files: list[tuple[bytes, Node, os.stat_result]] = []
        top = os.fsencode(path)
        status = os.lstat(top) if single else os.stat(top)
        if single:
            name = os.path.basename(os.path.abspath(top))
            self.root = Node(stat.S_IFDIR | 0o755, children={name: self._child(top, status)})
        elif stat.S_ISDIR(status.st_mode):
            self.root = self._node(os.path.realpath(top), status)
            self._scan(os.path.realpath(top), self.root)
        else:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self.total_bytes: int | None = sum(node.size for _, node, _ in self._files)

    def _scan(self, top: bytes, root: Node) -> None:
        stack = [(top, b"", root)]
        while stack:
            folder, below, parent = stack.pop()
            children: dict[bytes, Node] = {}
            parent.children = children
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
            for name in names:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                is_directory = stat.S_ISDIR(status.st_mode)
                if self._how.ignore and self._how.ignore.leaves_out(below + name, directory=is_directory):
                    continue
                node = children[name] = self._child(path, status)
                if is_directory:
                    stack.append((path, below + name + b"/", node))

    def _child(self, path: bytes, status: os.stat_result) -> Node:
        linked = status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
        if linked and (known := self._links.get((status.st_dev, status.st_ino))):
            return known
        node = self._node(path, status)
        if linked:
            self._links[status.st_dev, status.st_ino] = node
        if stat.S_ISREG(status.st_mode):
            begin_file(node, status.st_size, self._how)
            self._files.append((path, node, status))
        elif stat.S_ISLNK(status.st_mode):
            node.target = os.readlink(path)
            node.size = len(node.target)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            node.rdev = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return node

    def _node(self, path: bytes, status: os.stat_result) -> Node:
        seconds, nanoseconds = divmod(status.st_mtime_ns, NANOSECONDS)
        return Node(
            status.st_mode,
            status.st_uid,
            status.st_gid,
            seconds,
            nanoseconds,
            check_xattrs(_xattrs(path), path),
        )

    def parts(self) -> Iterator[Part]:
        """Every file's chunks in tree order; holes of sparse files are not read."""
        for path, node, seen in self._files:
            if not node.size:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _check_same(path, seen, os.fstat(descriptor))
                yield from _read(descriptor, path, node, sparse=seen.st_blocks * 512 < seen.st_size)
                _check_same(path, seen, os.fstat(descriptor))
            finally:
                os.close(descriptor)


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    """Those that a file keeps on any file system; others, as btrfs.compression, are of the one it lies on."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]
        kept = [name for name in names if name.startswith(_PORTABLE)]
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in kept}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EOPNOTSUPP):
            return {}
        raise


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)


def _check_same(path: bytes, seen: os.stat_result, now: os.stat_result) -> None:
    if _identity(seen) != _identity(now):
        raise Conflict(f"{os.fsdecode(path)!r} changed while it was packed")


def _read(descriptor: int, path: bytes, node: Node, *, sparse: bool) -> Iterator[Part]:
    if not node.blocks.block_size:
        yield from cut_file(node, _reader(descriptor, path, node.size))
        return
    index, count = 0, len(node.blocks)
    while index < count:
        if sparse:
            try:
                index = max(index, os.lseek(descriptor, index * CHUNK_SIZE, os.SEEK_DATA) // CHUNK_SIZE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
        size = node.blocks.sizes[index]
        data = os.pread(descriptor, size, index * CHUNK_SIZE)
        if len(data) != size:
            raise Conflict(f"{os.fsdecode(path)!r} shrank while it was packed")
        yield Part(node, index, data)
        index += 1


def _reader(descriptor: int, path: bytes, size: int) -> Callable[[int], bytes]:
    at = 0

    def read(most: int) -> bytes:
        nonlocal at
        data = os.pread(descriptor, min(most, size - at), at)
        if not data and at < size:
            raise Conflict(f"{os.fsdecode(path)!r} shrank while it was packed")
        at += len(data)
        return data

    return read
