"""Files and trees that an operator names (blocking).

A tree is walked by descriptors and never through a symbolic link: whoever may write into it (a
container, say) cannot lead a walk out of it by swapping a directory for a link. A walk stays on its mount.
"""

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from g8node.linux.guard import off_loop

_DEPTH_MAX: Final = 4096
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_THING: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

# What `open` of Python does with each mode, in open(2)'s words.
_FLAGS: Final = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "a+": os.O_RDWR | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "x+": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}

Step = tuple[int, str, Literal["other", "enter", "leave"]]
"""A name in an open directory: no directory, or a directory before or after its content."""


@off_loop
def open_file(path: str, mode: str, perm: int) -> int:
    """A descriptor; `mode` is one of Python's `r w a x`, with or without `+`.

    Never waits for the other end of a pipe or for a terminal: a pipe is EINVAL, a directory EISDIR.
    """
    fd = os.open(path, _FLAGS[mode] | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, perm)
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind) or stat.S_ISCHR(kind)):
            raise OSError(errno.EINVAL, "neither a file nor a device", path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: what is made is for its owner alone."""
    return os.open(path, flags, 0o600)


@off_loop
def write_all(fd: int, data: bytes) -> None:
    """write(2) until all is written."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


@off_loop
def make_folders(path: str) -> None:
    """mkdir -p with mode 0755; NotADirectoryError or FileExistsError when something else is there."""
    os.makedirs(path, mode=0o755, exist_ok=True)


@off_loop
def exists(path: str) -> bool:
    """Whether path leads anywhere; every failure but ENOENT is raised."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


@off_loop
def listing(path: str, entries_max: int) -> list[dict[str, Any]]:
    """`[{name, size, mode (0777), is_dir}]` by name, links not followed; EOVERFLOW beyond entries_max."""
    rows: list[dict[str, Any]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                seen = os.stat(entry.path, follow_symlinks=False)  # entry.stat() would keep the GIL
                rows.append(
                    {
                        "name": os.fsencode(entry.name).decode("utf-8", "replace"),
                        "size": seen.st_size,
                        "mode": stat.S_IMODE(seen.st_mode) & 0o777,
                        "is_dir": stat.S_ISDIR(seen.st_mode),
                    }
                )
            if len(rows) > entries_max:
                raise OSError(errno.EOVERFLOW, f"more than {entries_max} entries", path)
    return sorted(rows, key=lambda row: str(row["name"]))


@off_loop
def remove(path: str) -> None:
    """rm -rf: a missing path is fine, a mount point inside stays and is EBUSY. `/`, `.`, `..`: EINVAL."""
    path = path.rstrip("/")
    if os.path.basename(path) in ("", ".", ".."):
        raise OSError(errno.EINVAL, "the root, . and .. cannot be removed", path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise error
        _remove_folder(path)


def _remove_folder(path: str) -> None:
    fd = os.open(path, _FOLDER)
    try:
        for folder, name, step in walk(fd):
            if step == "enter":
                continue
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=folder) if step == "leave" else os.unlink(name, dir_fd=folder)
    finally:
        os.close(fd)
    os.rmdir(path)


@off_loop
def move(path: str, destination: str) -> None:
    """rename(2): replaces a file, never crosses file systems (EXDEV)."""
    os.rename(path, destination)


@off_loop
def change_mode(path: str, mode: int, *, recursive: bool) -> None:
    """chmod; below path links are left alone and errors are passed over (spec core0-protocol 4.3)."""
    os.chmod(path, mode)
    if recursive:
        _below(path, lambda thing: os.chmod(thing, mode))


@off_loop
def change_owner(path: str, uid: int, gid: int, *, recursive: bool) -> None:
    """chown; below path links are left alone and errors are passed over."""
    os.chown(path, uid, gid)
    if recursive:
        _below(path, lambda thing: os.chown(thing, uid, gid))


@off_loop
def ids(user: str, group: str) -> tuple[int, int]:
    """The numbers of both names; KeyError whose argument is the word `user` or `group`."""
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise KeyError("user") from None
    try:
        return uid, grp.getgrnam(group).gr_gid
    except KeyError:
        raise KeyError("group") from None


def _below(path: str, change: Callable[[str], None]) -> None:
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        return
    try:
        for folder, name, step in walk(top, skip_errors=True):
            if step != "enter":
                with contextlib.suppress(OSError):
                    _change(folder, name, change)
    finally:
        os.close(top)


def _change(folder: int, name: str, change: Callable[[str], None]) -> None:
    thing = os.open(name, _THING, dir_fd=folder)
    try:
        if not stat.S_ISLNK(os.fstat(thing).st_mode):
            change(f"/proc/self/fd/{thing}")
    finally:
        os.close(thing)


class _Level:
    """An open directory of a walk and the names in it that are still to come."""

    def __init__(self, fd: int, name: str, *, skip_errors: bool) -> None:
        self.fd = fd
        self.name = name
        self._skip_errors = skip_errors
        try:
            self._entries = os.scandir(fd)
        except BaseException:
            os.close(fd)
            raise

    def next(self) -> str | None:
        """None at the end."""
        try:
            entry = next(self._entries, None)
        except OSError:
            if not self._skip_errors:
                raise
            return None
        return None if entry is None else entry.name

    def close(self) -> None:
        self._entries.close()
        os.close(self.fd)


def walk(top: int, *, skip_errors: bool = False) -> Iterator[Step]:
    """Everything below the open directory `top`, a directory's content between its "enter" and "leave".

    Directories that are mount points, or that cannot be opened with skip_errors, are not entered. What has
    been walked may be removed meanwhile.
    """
    mount = _mount_id(top)
    stack = [_Level(os.dup(top), "", skip_errors=skip_errors)]
    try:
        while stack:
            level = stack[-1]
            name = level.next()
            if name is None:
                stack.pop().close()
                if stack:
                    yield stack[-1].fd, level.name, "leave"
                continue
            opened = _open_folder(level.fd, name, mount, skip_errors=skip_errors)
            if opened is None:
                yield level.fd, name, _kind(level.fd, name)
                continue
            stack.append(_Level(opened, name, skip_errors=skip_errors))
            if len(stack) > _DEPTH_MAX:
                raise OSError(errno.ELOOP, f"deeper than {_DEPTH_MAX} directories")
            yield level.fd, name, "enter"
    finally:
        for level in stack:
            level.close()


def _kind(folder: int, name: str) -> Literal["other", "leave"]:
    """How a name that is not entered is reported: a directory ends at once."""
    try:
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return "other"
    return "leave" if stat.S_ISDIR(seen.st_mode) else "other"


def _open_folder(folder: int, name: str, mount: str, *, skip_errors: bool) -> int | None:
    """The directory's descriptor; None for what is no directory, or is not entered."""
    try:
        opened = os.open(name, _FOLDER | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if skip_errors or error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
            return None
        raise
    if _mount_id(opened) != mount:
        os.close(opened)
        return None
    return opened


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
