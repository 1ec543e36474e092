"""Paths inside a root that somebody else made (blocking): nothing in it can lead outside.

Every lookup is one openat2(2) with RESOLVE_IN_ROOT: absolute symlinks and `..` end at the root, magic links
fail. What is created is created relative to a directory descriptor that was looked up that way.
"""

import contextlib
import ctypes
import errno
import os
import posixpath
import stat
from collections.abc import Iterator

from g8node.linux.guard import off_loop

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_O_PATH = 0o10000000

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def normal(path: str) -> str:
    """The path relative to a root, without `.`, `..` and double slashes; empty for the root itself."""
    return posixpath.normpath(f"/{path}").lstrip("/")


@off_loop
def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of a thing below the root directory `root`; `mode` of one that O_CREAT makes.

    Raises OSError.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    fd: int = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root),
        os.fsencode(path or "."),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"/{path}")
    return fd


@off_loop
def open_root(path: str) -> int:
    """A descriptor of the root directory; the caller closes it."""
    return os.open(path, _O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


@off_loop
def open_process_root(pid: int) -> int:
    """A descriptor of the root directory that the process sees, with all its mounts; the caller closes it."""
    return os.open(f"/proc/{pid}/root", _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@off_loop
def make_folders(root: int, path: str) -> None:
    """mkdir -p below root, mode 0755. Raises OSError when something else is in the way."""
    with _directory(root, path.strip("/"), 0o755):
        pass


@contextlib.contextmanager
def _directory(root: int, path: str, mode: int) -> Iterator[int]:
    """The directory `path` (normal) below root; missing ones are made with `mode`."""
    here = open_in_root(root, "", _O_PATH | os.O_DIRECTORY)
    try:
        done: list[str] = []
        for name in path.split("/") if path else []:
            done.append(name)
            step = "/".join(done)
            try:
                below = open_in_root(root, step, _O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                _make_directory(here, name, mode, step)
                below = open_in_root(root, step, _O_PATH | os.O_DIRECTORY)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _make_directory(parent: int, name: str, mode: int, shown: str) -> None:
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError as error:
        raise OSError(errno.ENOTDIR, "a symbolic link that leads nowhere", f"/{shown}") from error


@off_loop
def write_file(root: int, path: str, content: bytes, *, mode: int, directory_mode: int) -> None:
    """Put a new regular file at `path` below root, in place of any file, link or node of that name.

    Raises OSError, IsADirectoryError among them.
    """
    folder, name = posixpath.split(normal(path))
    if not name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"/{path}")
    with _directory(root, folder, directory_mode) as parent:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, mode, dir_fd=parent)
        try:
            os.fchmod(fd, mode)  # the umask has no say
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)


@off_loop
def ensure_file(root: int, path: str) -> None:
    """Make sure that `path` is a regular file, to be a mount target: anything else but that is replaced."""
    folder, name = posixpath.split(normal(path))
    with _directory(root, folder, 0o755) as parent, contextlib.suppress(FileNotFoundError):
        if stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return
    write_file(root, path, b"", mode=0o644, directory_mode=0o755)
