"""A probe that asks a file tree what POSIX says about it: `python -m tests.support.posix_probe ROOT UID GID`.

Prints JSON, case name -> value or errno name. Run on a mount and on ext4 with the same tree, the answers
must be equal. `make_tree` makes the tree; whatever depends on the file system alone (inode numbers, sizes of
folders, blocks, atime) is not asked.
"""

import ctypes
import errno
import fcntl
import json
import mmap  # noqa: TID251 - this is a child process, and page faults are what is asked about
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

LONG: Final = "n" * 255
RAW: Final = b"raw-\xff\xfe-name"
OWNER, GROUP, OTHER = 4001, 4002, 4003
SIZES: Final = (0, 1, 4095, 4096, 4097, 60_000, 524_287, 524_288, 524_289, 1_500_000)
MODES: Final = (0o000, 0o400, 0o200, 0o040, 0o004, 0o640, 0o755, 0o111, 0o4755, 0o2755, 0o1666)
_libc = ctypes.CDLL(None, use_errno=True)


def content(size: int) -> bytes:
    return b"".join(b"%08d" % number for number in range(size // 8 + 1))[:size]


def make_tree(top: str) -> None:
    """Everything that a tree can hold; needs root."""
    for name in ("files", "modes", "dirs", "links", "special", "xattrs", "many", "empty", "deep"):
        os.mkdir(f"{top}/{name}")
    for size in SIZES:
        _write(f"{top}/files/{size}", content(size))
    _write(f"{top}/files/{LONG}", b"long")
    _write(os.fsencode(f"{top}/files/") + RAW, b"raw")
    with open(f"{top}/files/sparse", "wb") as out:
        out.seek(1_000_000)
        out.write(b"end")
        out.truncate(3_000_000)
    for mode in MODES:
        _write(f"{top}/modes/{mode:o}", b"%o" % mode)
        os.chown(f"{top}/modes/{mode:o}", OWNER, GROUP)
        os.chmod(f"{top}/modes/{mode:o}", mode)
        os.mkdir(f"{top}/dirs/{mode:o}")
        _write(f"{top}/dirs/{mode:o}/in", b"in")
        os.chown(f"{top}/dirs/{mode:o}", OWNER, GROUP)
        os.chmod(f"{top}/dirs/{mode:o}", mode)
    _make_links(top)
    _make_special(top)
    for number in range(2000):
        _write(f"{top}/many/{number:05d}", b"")
    deep = f"{top}/deep"
    for number in range(40):
        deep += f"/level-{number:02d}-{'d' * 40}"
        os.mkdir(deep)
    _write(f"{deep}/bottom", b"deep")
    for folder, names, files in os.walk(top, topdown=False):
        for name in (*names, *files):
            os.utime(f"{folder}/{name}", ns=(10**18, 1_600_000_000_123_456_789), follow_symlinks=False)


def _make_links(top: str) -> None:
    links = {
        "relative": "../files/4097",
        "dangling": "nowhere",
        "self": "self",
        "a": "b",
        "b": "a",
        "folder": "../files",
        "up": "../../../../../../../..",
        "long": "x" * 4000,
        "slash": "../files/",
    }
    for name, target in links.items():
        os.symlink(target, f"{top}/links/{name}")
    chain = "../files/1"
    for number in range(45):
        os.symlink(chain, f"{top}/links/chain{number}")
        chain = f"chain{number}"
    os.link(f"{top}/files/60000", f"{top}/links/hard")


def _make_special(top: str) -> None:
    os.mkfifo(f"{top}/special/fifo", 0o644)
    os.mknod(f"{top}/special/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(f"{top}/special/disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{top}/special/socket")
    _write(f"{top}/xattrs/file", b"x")
    for name, value in {"user.small": b"v", "user.empty": b"", "user.large": b"L" * 3000}.items():
        os.setxattr(f"{top}/xattrs/file", name, value)
    os.setxattr(f"{top}/xattrs/file", "trusted.t", b"only root")
    os.setxattr(f"{top}/xattrs/file", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    os.setxattr(f"{top}/xattrs", "user.folder", b"f")


def _write(path: str | bytes, data: bytes) -> None:
    with open(path, "wb") as out:
        out.write(data)


Case = Callable[[], Any]


def told(case: Case) -> Any:
    """What the case returns, or the name of its errno."""
    try:
        value = case()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return value.hex() if isinstance(value, bytes) else value


def cases(top: str) -> Iterator[tuple[str, Case]]:
    yield from _stats(top)
    yield from _reads(top)
    yield from _opens(top)
    yield from _folders(top)
    yield from _links(top)
    yield from _access(top)
    yield from _xattrs(top)
    yield from _special(top)
    yield from _names(top)
    yield from _maps(top)


def _row(path: str | bytes, *, follow: bool = False) -> list[int]:
    found = os.stat(path, follow_symlinks=follow)
    size = -1 if stat.S_ISDIR(found.st_mode) else found.st_size
    links = -1 if stat.S_ISDIR(found.st_mode) else found.st_nlink
    return [found.st_mode, links, found.st_uid, found.st_gid, size, found.st_mtime_ns, found.st_rdev]


def _stats(top: str) -> Iterator[tuple[str, Case]]:
    for name in [*(f"files/{size}" for size in SIZES), f"files/{LONG}", "files/sparse", "files", "empty"]:
        yield f"stat {name[:40]}", lambda name=name: _row(f"{top}/{name}")
    for mode in MODES:
        yield f"stat modes/{mode:o}", lambda mode=mode: _row(f"{top}/modes/{mode:o}")
        yield f"stat dirs/{mode:o}", lambda mode=mode: _row(f"{top}/dirs/{mode:o}")
    for name in ("fifo", "null", "disk", "socket"):
        yield f"stat special/{name}", lambda name=name: _row(f"{top}/special/{name}")
    yield "stat raw name", lambda: _row(os.fsencode(f"{top}/files/") + RAW)
    yield "stat .", lambda: _row(f"{top}/files/.")
    yield "stat ..", lambda: _row(f"{top}/files/../files/1")
    yield "hard links are one inode", lambda: os.path.samefile(f"{top}/links/hard", f"{top}/files/60000")
    yield "inodes differ", lambda: len({os.stat(f"{top}/many/{n:05d}").st_ino for n in range(2000)})
    yield "fstat is stat", lambda: _by_fd(f"{top}/files/4097")
    kinds = ("files/4097", "files", "links/relative", "special/null", "special/fifo", "modes/4755", "none")
    for name in kinds:
        for flags in (0, _NOFOLLOW):
            yield f"statx {name} {flags:x}", lambda name=name, flags=flags: _statx(f"{top}/{name}", flags)
    yield "statx of nothing", lambda: _statx("", 0)
    yield "statx with an unknown flag", lambda: _statx(f"{top}/files/1", 0x80)
    yield "statx of less than all", lambda: _statx(f"{top}/files/4097", 0, 0x200)[5]
    yield "statx through a missing link", lambda: _statx(f"{top}/links/dangling", 0)
    yield "statx below a file", lambda: _statx(f"{top}/files/1/x", 0)


class _Statx(ctypes.Structure):
    """`struct statx` of linux/stat.h, of 256 bytes."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("pad", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("times", ctypes.c_uint64 * 8),
        ("rdev", ctypes.c_uint32 * 2),
        ("rest", ctypes.c_uint8 * 120),
    )


_NOFOLLOW: Final = 0x100
_BASIC: Final = 0x7FF & ~0x20
"""STATX_BASIC_STATS but for the time of the last access, which EROFS says that it does not keep."""


def _statx(path: str, flags: int, mask: int = _BASIC) -> list[Any]:
    """What must be equal: not blocks, inode numbers, and what only some file systems can tell."""
    found = _Statx()
    if _libc.statx(-100, path.encode(), flags, mask, ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), "statx")
    is_folder = stat.S_ISDIR(found.mode)
    sizes = [-1, -1] if is_folder else [found.nlink, found.size]
    modified = [found.times[6], found.times[7] & 0xFFFFFFFF]
    return [found.mode, *sizes, found.uid, found.gid, found.mask & mask, *modified, list(found.rdev)]


def _by_fd(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(fd) == os.stat(path)
    finally:
        os.close(fd)


def _pread(path: str, length: int, offset: int, flags: int = 0) -> bytes:
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def _reads(top: str) -> Iterator[tuple[str, Case]]:
    for size in SIZES:
        path = f"{top}/files/{size}"
        yield f"read {size}", lambda path=path, size=size: _pread(path, 2_000_000, 0) == content(size)
        yield f"pread at the end of {size}", lambda path=path, size=size: _pread(path, 100, size)
        yield f"pread behind {size}", lambda path=path, size=size: _pread(path, 100, size + 10**9)
        yield f"pread around {size // 2}", lambda path=path, size=size: _pread(path, 100, size // 2)
        yield f"last byte of {size}", lambda path=path, size=size: _pread(path, 10, max(size - 1, 0))
    for offset in (0, 999_990, 1_000_000, 1_000_002, 2_999_999):
        yield f"sparse at {offset}", lambda offset=offset: _pread(f"{top}/files/sparse", 20, offset)
    yield "preadv", lambda: _preadv(f"{top}/files/524289")
    yield "lseek end", lambda: _seek(f"{top}/files/60000", 0, os.SEEK_END)
    yield "lseek before the start", lambda: _seek(f"{top}/files/60000", -1, os.SEEK_SET)
    yield "lseek data at the end", lambda: _seek(f"{top}/files/60000", 60_000, os.SEEK_DATA)
    yield "lseek hole", lambda: _seek(f"{top}/files/60000", 0, os.SEEK_HOLE)
    yield "read a folder", lambda: _pread(f"{top}/files", 10, 0)
    yield "negative offset", lambda: _pread(f"{top}/files/1", 1, -1)
    yield "sendfile", lambda: _sendfile(f"{top}/files/524289")
    yield "readahead advice", lambda: _advise(f"{top}/files/524289")
    yield "FIONREAD", lambda: _fionread(f"{top}/files/4097")


def _preadv(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY)
    parts = [bytearray(100), bytearray(5000), bytearray(1)]
    try:
        count = os.preadv(fd, parts, 520_000)
    finally:
        os.close(fd)
    return b"".join(parts)[:count] == content(524_289)[520_000:][:count] and count > 4000


def _seek(path: str, offset: int, how: int) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(fd, offset, how)
    finally:
        os.close(fd)


def _sendfile(path: str) -> int:
    source = os.open(path, os.O_RDONLY)
    sink = os.memfd_create("sink")
    try:
        while os.sendfile(sink, source, None, 1 << 20):
            pass
        return os.fstat(sink).st_size
    finally:
        os.close(source)
        os.close(sink)


def _advise(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        for advice in (os.POSIX_FADV_WILLNEED, os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_DONTNEED):
            os.posix_fadvise(fd, 0, 0, advice)
    finally:
        os.close(fd)


def _fionread(path: str) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return int.from_bytes(fcntl.ioctl(fd, 0x541B, bytes(4)), sys.byteorder)
    finally:
        os.close(fd)


def _open(path: str | bytes, flags: int) -> str:
    fd = os.open(path, flags | os.O_NONBLOCK)
    got = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    os.close(fd)
    return f"open {got}"


def _opens(top: str) -> Iterator[tuple[str, Case]]:
    file = f"{top}/files/4097"
    combinations = {
        "directory on a file": (file, os.O_DIRECTORY),
        "directory": (f"{top}/files", os.O_DIRECTORY),
        "nofollow on a link": (f"{top}/links/relative", os.O_NOFOLLOW),
        "path on a link": (f"{top}/links/relative", os.O_PATH | os.O_NOFOLLOW),
        "noatime": (file, os.O_NOATIME),
        "cloexec": (file, os.O_CLOEXEC),
        "direct": (file, 0),
        "excl without creat": (file, os.O_EXCL),
        "creat excl on what exists": (file, os.O_CREAT | os.O_EXCL),
        "write a folder": (f"{top}/files", os.O_WRONLY),
        "missing": (f"{top}/files/none", 0),
        "empty path": ("", 0),
    }
    for name, (path, flags) in combinations.items():
        yield f"open: {name}", lambda path=path, flags=flags: _open(path, flags)
    for mode in MODES:
        for flags, word in ((os.O_RDONLY, "read"), (os.O_PATH, "path")):
            yield (
                f"open {word} modes/{mode:o}",
                lambda mode=mode, flags=flags: _open(f"{top}/modes/{mode:o}", flags),
            )


def _folders(top: str) -> Iterator[tuple[str, Case]]:
    for name in ("files", "modes", "links", "special", "empty", "deep"):
        yield (
            f"listdir {name}",
            lambda name=name: [n.hex() for n in sorted(os.listdir(os.fsencode(f"{top}/{name}")))],
        )
    yield "listdir many", lambda: sorted(os.listdir(f"{top}/many")) == [f"{n:05d}" for n in range(2000)]
    yield (
        "types of entries",
        lambda: sorted(
            [entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()]
            for entry in os.scandir(f"{top}/links")
        ),
    )
    yield "seekdir", lambda: _seekdir(f"{top}/many")
    yield "rewinddir", lambda: _rewinddir(f"{top}/many")
    yield "listdir of a file", lambda: os.listdir(f"{top}/files/1")
    for mode in MODES:
        yield f"listdir dirs/{mode:o}", lambda mode=mode: os.listdir(f"{top}/dirs/{mode:o}")
        yield f"lookup in dirs/{mode:o}", lambda mode=mode: _row(f"{top}/dirs/{mode:o}/in")
    yield "chdir", lambda: _chdir(f"{top}/empty")
    yield "walk to the bottom", lambda: _bottom(f"{top}/deep")


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_ushort),
        ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.telldir.restype = ctypes.c_long


def _opendir(path: str) -> ctypes.c_void_p:
    handle = _libc.opendir(path.encode())
    if not handle:
        raise OSError(ctypes.get_errno(), "opendir")
    return ctypes.c_void_p(handle)


def _next(handle: ctypes.c_void_p) -> str:
    row = _libc.readdir(handle)
    return row.contents.name.decode() if row else ""


def _seekdir(path: str) -> bool:
    """From every remembered place the same entries follow."""
    handle = _opendir(path)
    try:
        places = []
        while True:
            place = _libc.telldir(handle)
            name = _next(handle)
            if not name:
                break
            places.append((place, name))
        for place, name in places[::97]:
            _libc.seekdir(handle, ctypes.c_long(place))
            if _next(handle) != name:
                return False
        return len(places) == 2002
    finally:
        _libc.closedir(handle)


def _rewinddir(path: str) -> bool:
    handle = _opendir(path)
    try:
        first = [_next(handle) for _ in range(500)]
        _libc.rewinddir(handle)
        return first == [_next(handle) for _ in range(500)]
    finally:
        _libc.closedir(handle)


def _chdir(path: str) -> bool:
    before = os.getcwd()
    os.chdir(path)
    try:
        return os.getcwd().endswith("/empty")
    finally:
        os.chdir(before)


def _bottom(path: str) -> int:
    for depth, (_, _, files) in enumerate(os.walk(path)):
        if "bottom" in files:
            return depth
    return -1


def _links(top: str) -> Iterator[tuple[str, Case]]:
    for name in ("relative", "dangling", "self", "a", "folder", "up", "long", "slash", "hard", "chain3"):
        yield f"readlink {name}", lambda name=name: os.readlink(f"{top}/links/{name}")
        yield f"lstat {name}", lambda name=name: _row(f"{top}/links/{name}")
    for name in (
        "relative",
        "dangling",
        "self",
        "a",
        "folder",
        "chain3",
        "chain39",
        "chain40",
        "chain44",
        "slash",
    ):
        yield f"follow {name}", lambda name=name: _row(f"{top}/links/{name}", follow=True)
    yield "through a link to a folder", lambda: _pread(f"{top}/links/folder/1", 10, 0)
    yield "readlink of a folder", lambda: os.readlink(f"{top}/links")


def _access(top: str) -> Iterator[tuple[str, Case]]:
    for mode in MODES:
        for wish, word in ((os.R_OK, "r"), (os.X_OK, "x")):
            yield (
                f"access {word} modes/{mode:o}",
                lambda mode=mode, wish=wish: os.access(f"{top}/modes/{mode:o}", wish),
            )
        yield f"access x dirs/{mode:o}", lambda mode=mode: os.access(f"{top}/dirs/{mode:o}", os.X_OK)
    yield "access a missing file", lambda: os.access(f"{top}/none", os.F_OK)
    yield "execute without a format", lambda: _execute(f"{top}/modes/755")
    yield "execute without the right", lambda: _execute(f"{top}/modes/640")


def _execute(path: str) -> str:
    os.execv(path, [path])


def _xattrs(top: str) -> Iterator[tuple[str, Case]]:
    file = f"{top}/xattrs/file"
    yield "listxattr", lambda: sorted(os.listxattr(file))
    yield "listxattr of a folder", lambda: os.listxattr(f"{top}/xattrs")
    yield "listxattr of what has none", lambda: os.listxattr(f"{top}/files/1")
    names = ("user.small", "user.empty", "user.large", "user.none", "trusted.t", "security.capability", "bad")
    for name in names:
        yield f"getxattr {name}", lambda name=name: os.getxattr(file, name)
    yield "getxattr too small a buffer", lambda: _short_xattr(file)
    yield "getxattr size", lambda: _libc.getxattr(file.encode(), b"user.large", None, 0)
    yield "lgetxattr of a link", lambda: os.getxattr(f"{top}/links/relative", "user.x", follow_symlinks=False)


def _short_xattr(path: str) -> int:
    buffer = ctypes.create_string_buffer(10)
    found: int = _libc.getxattr(path.encode(), b"user.large", buffer, 10)
    if found < 0:
        raise OSError(ctypes.get_errno(), "getxattr")
    return found


def _special(top: str) -> Iterator[tuple[str, Case]]:
    yield "open a device", lambda: _open(f"{top}/special/null", os.O_RDONLY)
    yield "open a disk", lambda: _open(f"{top}/special/disk", os.O_RDONLY)
    yield "open a socket", lambda: _open(f"{top}/special/socket", os.O_RDONLY)
    yield "open a fifo to read", lambda: _open(f"{top}/special/fifo", os.O_RDONLY)
    yield "open a fifo to write", lambda: _open(f"{top}/special/fifo", os.O_WRONLY)
    yield "connect to a dead socket", lambda: _connect(f"{top}/special/socket")


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


def _names(top: str) -> Iterator[tuple[str, Case]]:
    paths = {
        "longest name": f"files/{LONG}",
        "a name too long": f"files/{LONG}n",
        "a path too long": "files/" + "./" * 2100 + "1",
        "a file as a folder": "files/1/x",
        "a file with a slash": "files/1/",
        "a folder with a slash": "files/",
        "missing folder": "none/x",
        "upper case": "FILES",
        "dot dot of a file": "files/1/..",
        "double slashes": "files//1",
    }
    for name, path in paths.items():
        yield f"name: {name}", lambda path=path: _row(f"{top}/{path}")
    yield "name: raw bytes", lambda: _pread(os.fsencode(f"{top}/files/") + RAW, 9, 0)  # type: ignore[arg-type]


def _maps(top: str) -> Iterator[tuple[str, Case]]:
    yield "mmap", lambda: _map(f"{top}/files/524289", 524_289)
    yield "mmap of the last page", lambda: _map(f"{top}/files/4097", 4097)
    yield "mmap private and written", lambda: _map_private(f"{top}/files/60000")
    yield "mmap shared for writing", lambda: _map_shared(f"{top}/files/60000")


def _map(path: str, size: int) -> bool:
    with open(path, "rb") as source, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as view:
        return view[:] == content(size)


def _map_private(path: str) -> bool:
    with open(path, "rb") as source:
        view = mmap.mmap(source.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        with view:
            view[100] = 0
            return view[101] == content(200)[101]


def _map_shared(path: str) -> str:
    with open(path, "rb") as source:
        mmap.mmap(source.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE).close()
    return "mapped"


def changes(top: str) -> Iterator[tuple[str, Case]]:
    """What would change the tree; on one that may be written they are done in this order."""
    file, folder = f"{top}/files/4097", f"{top}/empty"
    yield "open to write", lambda: _open(file, os.O_WRONLY)
    yield "open to append", lambda: _open(file, os.O_RDWR | os.O_APPEND)
    yield "open with truncate", lambda: _open(f"{top}/files/60000", os.O_WRONLY | os.O_TRUNC)
    yield "create", lambda: _open(f"{folder}/new", os.O_WRONLY | os.O_CREAT)
    yield "write and read again", lambda: _rewrite(f"{top}/files/524289")
    yield "access to write", lambda: os.access(file, os.W_OK)
    yield "truncate", lambda: os.truncate(file, 10)
    yield "truncated size", lambda: _row(file)[4]
    yield "mkdir", lambda: os.mkdir(f"{folder}/dir")
    yield "mkdir where one is", lambda: os.mkdir(folder)
    yield "rmdir", lambda: os.rmdir(f"{folder}/dir")
    yield "rmdir of a full folder", lambda: os.rmdir(f"{top}/many")
    yield "rmdir of a file", lambda: os.rmdir(file)
    yield "unlink", lambda: os.unlink(f"{top}/files/1")
    yield "unlinked", lambda: _row(f"{top}/files/1")
    yield "unlink of what is missing", lambda: os.unlink(f"{top}/files/none")
    yield "unlink of a folder", lambda: os.unlink(folder)
    yield "rename", lambda: os.rename(f"{top}/files/0", f"{folder}/moved")
    yield "rename over", lambda: os.rename(f"{top}/files/4095", f"{top}/files/4096")
    yield "renamed", lambda: _row(f"{top}/files/4096")[4]
    yield "rename a folder into itself", lambda: os.rename(folder, f"{folder}/x")
    yield from _more_changes(top)


def _more_changes(top: str) -> Iterator[tuple[str, Case]]:
    file, folder = f"{top}/files/4097", f"{top}/empty"
    yield "link", lambda: os.link(f"{top}/files/1500000", f"{folder}/hard")
    yield "symlink", lambda: os.symlink("target", f"{folder}/soft")
    yield "mkfifo", lambda: os.mkfifo(f"{folder}/fifo")
    yield "mknod", lambda: os.mknod(f"{folder}/node", stat.S_IFREG | 0o600)
    yield "chmod", lambda: os.chmod(f"{top}/modes/640", 0o777)
    yield "chmod is seen", lambda: _row(f"{top}/modes/640")[0]
    yield "chown", lambda: os.chown(f"{top}/modes/755", 1, 2)
    yield (
        "chown takes setuid away",
        lambda: (os.chown(f"{top}/modes/4755", 7, 7), _row(f"{top}/modes/4755")[0])[1],
    )
    yield "lchown", lambda: os.lchown(f"{top}/links/dangling", 1, 2)
    yield "utime", lambda: os.utime(file, ns=(1, 2))
    yield "utime is seen", lambda: _row(file)[5]
    yield "setxattr", lambda: os.setxattr(f"{top}/xattrs/file", "user.new", b"n")
    yield "removexattr", lambda: os.removexattr(f"{top}/xattrs/file", "user.small")
    yield "xattrs afterwards", lambda: sorted(os.listxattr(f"{top}/xattrs/file"))
    yield "fallocate", lambda: _fallocate(f"{top}/files/524288")
    yield "temporary file", lambda: _open(folder, os.O_TMPFILE | os.O_WRONLY)
    yield "open what may be executed to write", lambda: _open(f"{top}/modes/755", os.O_RDWR)
    yield "what is in the folder", lambda: sorted(os.listdir(folder))


def _rewrite(path: str) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, b"changed", 300_000)
        found = os.pread(fd, 20, 299_995)
    finally:
        os.close(fd)
    return found == content(300_000)[-5:] + b"changed" + content(300_100)[300_007:300_015]


def _fallocate(path: str) -> int:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.posix_fallocate(fd, 0, 600_000)
    finally:
        os.close(fd)
    return _row(path)[4]


def main(top: str, uid: str, gid: str) -> None:
    os.umask(0o022)
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))
    answers = {name: told(case) for name, case in cases(top)}
    answers |= {f"change: {name}": told(case) for name, case in changes(top)}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
