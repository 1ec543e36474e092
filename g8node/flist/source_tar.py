"""Pack source: a tar archive, streamed (blocking). GNU, pax and ustar; plain, gzip, bzip2, xz or zstd.

The archive may be hostile: names must stay below the root and never pass through anything but a directory.
As tar itself does, a later member of a name replaces an earlier one.
"""

import contextlib
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, Final

from g8node.errors import InvalidArgument
from g8node.flist.source import How, Part, begin_file, check_xattrs, cut_file
from g8node.flist.tree import Node
from g8node.linux.zstd import ZstdError, ZstdReader, is_zstd
from g8node.wire.flist import NANOSECONDS, check_name

_HEADER_DATA_MAX: Final = 1 << 20
_DEPTH_MAX: Final = 1024
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_XATTR: Final = "SCHILY.xattr."
_MODES: Final = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_DECIMAL: Final = re.compile(r"(-?)(\d{1,18})(?:\.(\d+))?")
_HEADERS: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Member(tarfile.TarInfo):
    """A header; long names and pax records, which tarfile reads into memory whole, have a limit."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _HEADER_DATA_MAX:
            raise InvalidArgument(f"tar header of {self.size} bytes, limit {_HEADER_DATA_MAX}")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # not in typeshed
        return member


class TarSource:
    """See `source.Source`."""

    def __init__(self, path: str, how: How | None = None, root: Node | None = None) -> None:
        """`root`: a tree to which this archive is a later layer, with whiteouts as OCI images have them."""
        self._path = path
        self._how = how or How()
        self.info: Mapping[str, str] = {}
        self._layered = root is not None
        self._fresh: set[int] = set()
        self.root = root or _implied_directory()
        self.total_bytes: int | None = None

    def parts(self) -> Iterator[Part]:
        """Every file's chunks in archive order."""
        try:
            with _opened(self._path) as archive:
                for member in archive:
                    yield from self._member(archive, member)
                    archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
        except ZstdError as error:
            raise InvalidArgument(f"{self._path}: {error}") from None
        except (tarfile.TarError, EOFError) as error:
            raise InvalidArgument(f"{self._path}: {error}") from None
        except InvalidArgument as error:
            raise InvalidArgument(f"{self._path}: {error.message}", hint=error.hint) from None

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[Part]:
        path = _bytes(member.name)
        names = _split(path)
        if self._left_out(names, directory=member.isdir()):
            return
        if self._layered and names and names[-1].startswith(_WHITEOUT):
            self._white_out(names)
            return
        if member.type == tarfile.LNKTYPE:
            self._link(names, path, self._target(_bytes(member.linkname)))
            return
        node = self._node(member, path)
        if not names:
            if node.children is None:
                raise InvalidArgument(f"member {path!r} replaces the root, which is a directory")
            node.children = self.root.children
            self.root = node
            return
        self._put(names, path, node)
        if node.is_file:
            begin_file(node, member.size, self._how)
            yield from _read(archive, member, node, path)

    def _node(self, member: tarfile.TarInfo, path: bytes) -> Node:
        kind = _MODES.get(member.type)
        if kind is None:
            raise InvalidArgument(f"member {path!r} has type {member.type!r}, which cannot be packed")
        seconds, nanoseconds = _mtime(member, path)
        if not (0 <= member.uid < 1 << 32 and 0 <= member.gid < 1 << 32):
            raise InvalidArgument(f"member {path!r}: owner {member.uid}:{member.gid} is no 32-bit id")
        xattrs = {
            _bytes(key.removeprefix(_XATTR)): _bytes(value)
            for key, value in member.pax_headers.items()
            if key.startswith(_XATTR)
        }
        node = Node(
            kind | member.mode & 0o7777,
            member.uid,
            member.gid,
            seconds,
            nanoseconds,
            check_xattrs(xattrs, path),
        )
        if kind == stat.S_IFDIR:
            node.children = {}
        elif kind == stat.S_IFLNK:
            node.target = _bytes(member.linkname)
            node.size = len(node.target)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            node.rdev = (member.devmajor, member.devminor)
        return node

    def _left_out(self, names: list[bytes], *, directory: bool) -> bool:
        ignore = self._how.ignore
        return bool(ignore) and any(
            ignore.leaves_out(b"/".join(names[:count]), directory=directory or count < len(names))
            for count in range(1, len(names) + 1)
        )

    def _white_out(self, names: list[bytes]) -> None:
        """Take away what layers below had: one name, or all in a directory that is not of this layer."""
        node: Node | None = self.root
        for name in names[:-1]:
            node = (node.children or {}).get(name) if node is not None else None
        if node is None or node.children is None:
            return
        if names[-1] != _OPAQUE:
            hidden = node.children.get(names[-1].removeprefix(_WHITEOUT))
            if hidden is not None and id(hidden) not in self._fresh:
                del node.children[names[-1].removeprefix(_WHITEOUT)]
            return
        for name in [name for name, child in node.children.items() if id(child) not in self._fresh]:
            del node.children[name]

    def _target(self, path: bytes) -> list[bytes]:
        """Of a hard link; kaniko writes the layers of images with absolute ones, below the image's root."""
        return _split(path.lstrip(b"/") if self._layered else path)

    def _parent(self, names: list[bytes], path: bytes) -> dict[bytes, Node]:
        """The directory that holds the last name; missing ones on the way are made, as tar does."""
        if len(names) > _DEPTH_MAX:
            raise InvalidArgument(f"member {path[:100]!r} is over {_DEPTH_MAX} levels deep")
        folder = self.root.children
        assert folder is not None
        for name in names[:-1]:
            node = folder.setdefault(name, _implied_directory())
            if node.children is None:
                raise InvalidArgument(f"member {path!r} lies below {name!r}, which is no directory")
            folder = node.children
        return folder

    def _put(self, names: list[bytes], path: bytes, node: Node) -> None:
        folder = self._parent(names, path)
        check_name(names[-1], repr(path))
        before = folder.get(names[-1])
        if before is not None and before.children is not None:
            if node.children is not None:
                node.children = before.children
            elif not self._layered or id(before) in self._fresh:
                raise InvalidArgument(f"member {path!r} replaces a directory")
        folder[names[-1]] = node
        self._fresh.add(id(node))

    def _link(self, names: list[bytes], path: bytes, target: list[bytes]) -> None:
        node: Node | None = self.root
        for name in target:
            node = (node.children or {}).get(name) if node is not None else None
        if node is None or node.children is not None:
            raise InvalidArgument(
                f"member {path!r} is a hard link to {b'/'.join(target)!r}, which is no file"
            )
        if not names:
            raise InvalidArgument(f"member {path!r} replaces the root")
        self._put(names, path, node)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tarfile.TarFile]:
    """The archive as a stream, whatever it is compressed with."""
    how: dict[str, Any] = {"tarinfo": _Member, "encoding": "utf-8", "errors": "surrogateescape"}
    with open(path, "rb") as file, contextlib.ExitStack() as undo:
        if is_zstd(file.read(4)):
            file.seek(0)
            plain = undo.enter_context(ZstdReader(file))
            yield undo.enter_context(tarfile.open(fileobj=plain, mode="r|", **how))  # type: ignore[call-overload]
        else:
            yield undo.enter_context(tarfile.open(path, "r|*", **how))


def _implied_directory() -> Node:
    return Node(stat.S_IFDIR | 0o755, children={})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _split(path: bytes) -> list[bytes]:
    if path.startswith(b"/"):
        raise InvalidArgument(f"member {path!r} has an absolute name")
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise InvalidArgument(f"member {path!r} leaves the tree")
    for name in names:
        check_name(name, repr(path))
    return names


def _mtime(member: tarfile.TarInfo, path: bytes) -> tuple[int, int]:
    """Seconds and nanoseconds; pax times as text, because tarfile makes floats of them."""
    text = member.pax_headers.get("mtime", "")
    if not text:
        return int(member.mtime), 0
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"member {path!r} has the time {text[:40]!r}, expected seconds")
    sign, seconds, fraction = match.groups()
    total = int(seconds) * NANOSECONDS + int((fraction or "")[:9].ljust(9, "0"))
    return divmod(-total if sign else total, NANOSECONDS)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, node: Node, path: bytes) -> Iterator[Part]:
    content = archive.extractfile(member)
    assert content is not None
    with content:
        if not node.blocks.block_size and node.size:
            yield from cut_file(node, content.read)
            if sum(node.blocks.sizes) != node.size:
                raise InvalidArgument(f"member {path!r} ends too early")
            return
        for index, size in enumerate(node.blocks.sizes):
            data = content.read(size)
            if len(data) != size:
                raise InvalidArgument(f"member {path!r} ends too early")
            yield Part(node, index, data)
