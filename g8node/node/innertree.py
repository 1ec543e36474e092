"""The file tree that a container sees (blocking): what `filesystem.*` touches inside it.

Every path is looked up by openat2(2) beneath the root of the container's PID 1, so that all its mounts are
there and no link leads out. What has been found is then used by its descriptor, through /proc/self/fd:
nothing is looked up twice. A container's device nodes are as mighty as their maker wants, so that only
harmless ones are opened.
"""

import contextlib
import errno
import os
import posixpath
import stat
import threading
from collections.abc import Iterator
from typing import Any, Final

from g8node.linux import files, rootpath, userns
from g8node.linux.guard import off_loop

_PATH: Final = os.O_PATH | os.O_CLOEXEC
_TABLE_MAX_BYTES: Final = 1 << 20
_HARMLESS: Final = frozenset(os.makedev(1, minor) for minor in (3, 5, 7, 8, 9))
"""null, zero, full, random, urandom: admin-guide/devices.txt."""

_FLAGS: Final = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT,
}
_CALM: Final = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class InnerTree:
    """Owns the descriptor `root`, an O_PATH one; `close` ends it, and every later call is ENOENT.

    What is made belongs to the container's root, who is `base` on the node.
    """

    def __init__(self, root: int, base: int = 0) -> None:
        self._root = root
        self._base = base
        self._lock = threading.Lock()
        self._closed = False

    @off_loop
    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._root)

    @off_loop
    def renew(self, root: int) -> None:
        """Another root from now on; it is ours then."""
        with self._lock:
            root, self._root = (root, self._root) if self._closed else (self._root, root)
        os.close(root)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[int]:
        with self._lock:
            if self._closed:
                raise FileNotFoundError(errno.ENOENT, "the container is gone")
            root = os.dup(self._root)
        try:
            with userns.acting(self._base):
                yield root
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _at(self, path: str) -> Iterator[str]:
        """A path of ours for what `path` leads to inside."""
        with self._borrowed() as root:
            fd = rootpath.open_in_root(root, path, _PATH)
            try:
                yield f"/proc/self/fd/{fd}"
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[str]:
        """A path of ours for the name itself, whatever it is, if it exists at all."""
        folder, name = posixpath.split(path.rstrip("/"))
        if name in ("", ".", ".."):
            raise OSError(errno.EINVAL, "the root, . and .. cannot be moved or removed", path)
        with self._at(folder) as parent:
            yield f"{parent}/{name}"

    @off_loop
    def open_file(self, path: str, mode: str, perm: int) -> int:
        """As `linux.files.open_file`."""
        flags = _FLAGS[mode[0]] | _CALM
        if mode.endswith("+"):
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
        with self._borrowed() as root:
            if mode[0] == "x":
                return rootpath.open_in_root(root, path, flags | os.O_EXCL, perm)
            try:
                return _reopened(root, path, flags & ~os.O_CREAT)
            except FileNotFoundError:
                if mode[0] == "r":
                    raise
            return _made(root, path, flags, perm)

    @off_loop
    def make_folders(self, path: str) -> None:
        """mkdir -p, mode 0755."""
        with self._borrowed() as root:
            rootpath.make_folders(root, path)

    @off_loop
    def exists(self, path: str) -> bool:
        """Whether path leads anywhere; every failure but ENOENT is raised."""
        with self._borrowed() as root:
            try:
                os.close(rootpath.open_in_root(root, path, _PATH))
            except FileNotFoundError:
                return False
            return True

    @off_loop
    def listing(self, path: str, entries_max: int) -> list[dict[str, Any]]:
        """As `linux.files.listing`."""
        with self._at(path) as there:
            return files.listing(there, entries_max)

    @off_loop
    def remove(self, path: str) -> None:
        """rm -rf; what does not exist is fine."""
        with contextlib.suppress(FileNotFoundError), self._named(path) as there:
            files.remove(there)

    @off_loop
    def move(self, path: str, destination: str) -> None:
        """rename(2)."""
        with self._named(path) as there, self._named(destination) as new:
            files.move(there, new)

    @off_loop
    def change_mode(self, path: str, mode: int, *, recursive: bool) -> None:
        """As `linux.files.change_mode`."""
        with self._at(path) as there:
            files.change_mode(there, mode, recursive=recursive)

    @off_loop
    def change_owner(self, path: str, uid: int, gid: int, *, recursive: bool) -> None:
        """As `linux.files.change_owner`."""
        with self._at(path) as there:
            files.change_owner(there, self._base + uid, self._base + gid, recursive=recursive)

    @off_loop
    def ids(self, user: str, group: str) -> tuple[int, int]:
        """By the container's own /etc/passwd and /etc/group; KeyError with the argument's name."""
        return self._id("/etc/passwd", user, "user"), self._id("/etc/group", group, "group")

    def _id(self, table: str, name: str, field: str) -> int:
        for line in self.text(table).splitlines():
            words = line.split(":")
            if len(words) > 2 and words[0] == name and words[2].isdigit():
                return self._possible(int(words[2]))
        raise KeyError(field)

    def _possible(self, id: int) -> int:
        """An id of a container; one that it does not have would be somebody else's."""
        if self._base and id >= userns.COUNT:
            raise OSError(errno.EINVAL, f"{id} is none of the container's ids")
        return id

    @off_loop
    def text(self, path: str) -> str:
        """The first MiB of a file; empty when there is no such regular file."""
        try:
            fd = self.open_file(path, "r", 0)
        except OSError:
            return ""
        with open(fd, encoding="utf-8", errors="replace") as file:
            return file.read(_TABLE_MAX_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else ""


def _reopened(root: int, path: str, flags: int) -> int:
    """Look first, then open exactly what was seen."""
    seen = rootpath.open_in_root(root, path, _PATH)
    try:
        _check(os.fstat(seen), path)
        return os.open(f"/proc/self/fd/{seen}", flags)
    finally:
        os.close(seen)


def _made(root: int, path: str, flags: int, perm: int) -> int:
    """What was made, or was there all of a sudden: then it is looked at as well."""
    fd = rootpath.open_in_root(root, path, flags, perm)
    try:
        _check(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if stat.S_ISREG(found.st_mode) or (stat.S_ISCHR(found.st_mode) and found.st_rdev in _HARMLESS):
        return
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        raise PermissionError(errno.EPERM, "a container's devices are not opened from outside", path)
    raise OSError(errno.EINVAL, "neither a file nor a device", path)
