"""filesystem.* (blocking where local files are read or written): files of a node or a container."""

import base64
import os
import tempfile
from collections.abc import Callable
from typing import Any, Final, Protocol

from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.manager import Manager

BLOCK_BYTES: Final = 512 << 10

Told = Callable[[int], object]
"""Hears how many bytes went over."""


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...


def _nobody(_count: int) -> None:
    """Nobody is told."""


class Filesystem(Manager[M]):
    """Paths are absolute, or relative to `/`."""

    @call
    def open(self, file: str, mode: str = "r", perm: int = 0o644) -> Flow[str]:
        """A handle, for `read`, `write` and `close`; the node closes it after five idle minutes.

        `mode` as in Python: r, w, a or x, and + for both ways. `perm` is for a new file.
        """
        return self._open(file, mode, perm)

    @call
    def exists(self, path: str) -> Flow[bool]:
        """Whether the path leads to something."""
        return self.presence(path)

    @call
    def list(self, path: str) -> Flow[list[dict[str, Any]]]:
        """What is in a folder: name, size, mode, is_dir."""
        return self._json("filesystem.list", path=path)

    @call
    def mkdir(self, path: str) -> Flow[None]:
        """Make a folder and those above it."""
        return self._done("filesystem.mkdir", path=path)

    @call
    def remove(self, path: str) -> Flow[None]:
        """Remove a file or a whole folder; nothing there is fine."""
        return self.removal(path)

    @call
    def move(self, path: str, destination: str) -> Flow[None]:
        """Rename within one file system."""
        return self._done("filesystem.move", path=path, destination=destination)

    @call
    def chmod(self, path: str, mode: int, recursive: bool = False) -> Flow[None]:
        """Set permission bits, e.g. 0o755."""
        return self._done("filesystem.chmod", path=path, mode=mode, recursive=recursive)

    @call
    def chown(self, path: str, user: str, group: str, recursive: bool = False) -> Flow[None]:
        """Set the owner and group, by name."""
        return self._done("filesystem.chown", path=path, user=user, group=group, recursive=recursive)

    @call
    def read(self, fd: str) -> Flow[bytes]:
        """The next 512 KiB or less; empty at the end."""
        return self._read(fd)

    @call
    def write(self, fd: str, bytes: bytes) -> Flow[None]:
        """Write a block of at most a few MiB."""
        return self._write(fd, bytes)

    @call
    def close(self, fd: str) -> Flow[None]:
        """Close a handle; one that is not open is fine."""
        return self._close(fd)

    @call
    def upload(self, remote: str, reader: Reader, told: Told = _nobody, perm: int = 0o644) -> Flow[None]:
        """Write a file of the node from a local file-like object."""
        return self.uploading(remote, reader, told, perm)

    @call
    def download(self, remote: str, writer: Writer, told: Told = _nobody) -> Flow[None]:
        """Read a file of the node into a local file-like object."""
        return self.downloading(remote, writer, told)

    @call
    def upload_file(self, remote: str, local: str, told: Told = _nobody) -> Flow[None]:
        """Copy a local file to the node, with its permission bits if it is new there."""
        return self._upload_file(remote, local, told)

    @call
    def download_file(self, remote: str, local: str, told: Told = _nobody) -> Flow[None]:
        """Copy a file of the node to a local one, which is replaced when all of it has come."""
        return self._download_file(remote, local, told)

    # The flows, for other managers

    def presence(self, path: str) -> Flow[bool]:
        return self._json("filesystem.exists", path=path)

    def removal(self, path: str) -> Flow[None]:
        return self._done("filesystem.remove", path=path)

    def _open(self, file: str, mode: str, perm: int = 0o644) -> Flow[str]:
        return self._json("filesystem.open", file=file, mode=mode, perm=perm)

    def _read(self, fd: str) -> Flow[bytes]:
        return base64.b64decode((yield from self._json("filesystem.read", fd=fd)))

    def _write(self, fd: str, block: bytes) -> Flow[None]:
        return self._done("filesystem.write", fd=fd, block=base64.b64encode(block).decode())

    def _close(self, fd: str) -> Flow[None]:
        return self._done("filesystem.close", fd=fd)

    def uploading(self, remote: str, reader: Reader, told: Told = _nobody, perm: int = 0o644) -> Flow[None]:
        fd = yield from self._open(remote, "w", perm)
        try:
            while block := reader.read(BLOCK_BYTES):
                yield from self._write(fd, block)
                told(len(block))
        finally:
            yield from self._close(fd)

    def downloading(self, remote: str, writer: Writer, told: Told = _nobody) -> Flow[None]:
        fd = yield from self._open(remote, "r")
        try:
            while block := (yield from self._read(fd)):
                writer.write(block)
                told(len(block))
        finally:
            yield from self._close(fd)

    def _upload_file(self, remote: str, local: str, told: Told) -> Flow[None]:
        with open(local, "rb") as file:
            yield from self.uploading(remote, file, told, os.fstat(file.fileno()).st_mode & 0o777)

    def _download_file(self, remote: str, local: str, told: Told) -> Flow[None]:
        if os.path.exists(local) and not os.path.isfile(local):  # a device, a pipe
            with open(local, "wb") as file:
                yield from self.downloading(remote, file, told)
            return
        target = os.path.realpath(local)
        handle, part = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
        try:
            with os.fdopen(handle, "wb") as file:
                yield from self.downloading(remote, file, told)
            os.chmod(part, _mode_of(target))
            os.replace(part, target)
        except BaseException:
            os.unlink(part)
            raise


def _mode_of(path: str) -> int:
    """Of the file that is replaced, else what open() would give a new one."""
    try:
        return os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
