"""The folder of published flists (blocking): scan, open, stage, publish.

    DIR/public/<repository>/<name>.flist   what readers see
    DIR/tmp/                               uploads under way; emptied at start

A file in public/ is never written to: a new version is complete, flushed and checked under tmp/, then renamed
over the old one. A reader has the old or the new one, never a part and never nothing. Names come validated
(`names.py`). Symbolic links are not followed. Must not run on the loop.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from msgspec import Struct

from g8node.errors import Conflict, NotFound
from g8tools.hub import names

_READ_SIZE: Final = 1 << 20
_DIGESTS_KEPT: Final = 65536


class Entry(Struct, frozen=True):
    """One published flist. `updated` is seconds since the epoch, digest BLAKE2b-256, both digests in hex."""

    name: str
    size_bytes: int
    updated: float
    digest: str
    md5: str


class Digests(NamedTuple):
    digest: str
    md5: str


class Repository(Struct, frozen=True):
    name: str
    count: int
    updated: float


class Staged:
    """An upload under way: write, then publish or discard. `digests` counts once everything is written."""

    def __init__(self, folder: str) -> None:
        handle, self.path = tempfile.mkstemp(dir=folder, prefix="upload-", suffix=names.SUFFIX)
        self._file = os.fdopen(handle, "wb")
        self._blake = hashlib.blake2b(digest_size=32)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._blake.update(data)
        self._md5.update(data)
        self.size_bytes += len(data)

    def flush(self) -> None:
        """Everything written is on the disk when this returns."""
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o644)
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Remove it, unless it was published. May be called twice."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    @property
    def digests(self) -> Digests:
        return Digests(self._blake.hexdigest(), self._md5.hexdigest())


class Flists:
    """The published flists of one Hub. Safe to use from many threads."""

    def __init__(self, folder: str) -> None:
        """Make the folders, take the lock (Conflict if another Hub has it) and clear old uploads away."""
        self._public = os.path.join(folder, "public")
        self._staging = os.path.join(folder, "tmp")
        os.makedirs(self._public, exist_ok=True)
        os.makedirs(self._staging, exist_ok=True)
        self._lock_file = open(os.path.join(folder, "lock"), "wb")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise Conflict(f"another Hub serves {folder}") from None
        for entry in os.scandir(self._staging):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        self._digests: OrderedDict[tuple[int, int, int], Digests] = OrderedDict()
        self._guard = threading.Lock()

    def close(self) -> None:
        self._lock_file.close()

    def repositories(self) -> list[Repository]:
        """Sorted by name; those without an flist are left out."""
        found = []
        for entry in os.scandir(self._public):
            if entry.is_dir(follow_symlinks=False):
                updates = [status.st_mtime for _, status in self._scan(entry.name)]
                if updates:
                    found.append(Repository(entry.name, len(updates), max(updates)))
        return sorted(found, key=lambda repository: repository.name)

    def names(self, repository: str) -> list[str]:
        """Names of the flists of a repository, sorted. NotFound."""
        return [name for name, _ in self._scan(repository)]

    def entries(self, repository: str) -> list[Entry]:
        """The flists of a repository, sorted by name. NotFound."""
        entries = []
        for name, _ in self._scan(repository):
            with contextlib.suppress(NotFound):
                entries.append(self.get(repository, name))
        return entries

    def get(self, repository: str, name: str) -> Entry:
        """NotFound."""
        file, entry = self.open(repository, name)
        file.close()
        return entry

    def open(self, repository: str, name: str) -> tuple[BinaryIO, Entry]:
        """The file, which the caller closes, and what it is. A publication meanwhile changes neither."""
        path = self._path(repository, name)
        try:
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            raise NotFound(f"no flist {repository}/{name} here") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise NotFound(f"no flist {repository}/{name} here")
        digests = self._digests_of(file, status)
        return file, Entry(name, status.st_size, status.st_mtime, digests.digest, digests.md5)

    def stage(self) -> Staged:
        return Staged(self._staging)

    def publish(self, staged: Staged, repository: str, name: str) -> Entry:
        """Make a flushed upload visible, in place of an older one. Survives power loss once it returns."""
        target = self._path(repository, name)
        folder = os.path.dirname(target)
        self._ready(folder)
        status = os.stat(staged.path)
        self._remember(status, staged.digests)
        os.replace(staged.path, target)
        _sync_folder(folder)
        return Entry(name, status.st_size, status.st_mtime, *staged.digests)

    def copy(self, repository: str, name: str, to: str, new: str) -> Entry:
        """Make it visible in the repository `to` as well, in place of an older one there. NotFound."""
        target = self._path(to, new)
        partial = os.path.join(self._staging, f"copy-{uuid.uuid4().hex}")
        try:
            # One file under two names: what is published is never written to.
            os.link(self._path(repository, name), partial, follow_symlinks=False)
            self._ready(os.path.dirname(target))
            os.replace(partial, target)
        except FileNotFoundError:
            raise NotFound(f"no flist {repository}/{name} here") from None
        finally:
            with contextlib.suppress(FileNotFoundError):  # it stays when both are one file already
                os.unlink(partial)
        _sync_folder(os.path.dirname(target))
        return self.get(to, new)

    def rename(self, repository: str, old: str, new: str) -> Entry:
        """At once, in place of an older one of the new name. NotFound."""
        source, target = self._path(repository, old), self._path(repository, new)
        try:
            is_one = os.path.exists(target) and os.path.samefile(source, target)
            # Renaming over another name of the same file would do nothing.
            os.unlink(source) if is_one else os.rename(source, target)
        except FileNotFoundError:
            raise NotFound(f"no flist {repository}/{old} here") from None
        _sync_folder(os.path.dirname(target))
        return self.get(repository, new)

    def delete(self, repository: str, name: str) -> None:
        """Its chunks stay. NotFound."""
        path = self._path(repository, name)
        try:
            os.unlink(path)
        except FileNotFoundError:
            raise NotFound(f"no flist {repository}/{name} here") from None
        _sync_folder(os.path.dirname(path))

    def _ready(self, folder: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
            _sync_folder(self._public)

    def _path(self, repository: str, name: str) -> str:
        return os.path.join(self._public, names.repository(repository), names.flist(name))

    def _scan(self, repository: str) -> Iterator[tuple[str, os.stat_result]]:
        try:
            found = sorted(os.scandir(os.path.join(self._public, repository)), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no repository {repository} here") from None
        for entry in found:
            if entry.name.endswith(names.SUFFIX) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)

    def _digests_of(self, file: BinaryIO, status: os.stat_result) -> Digests:
        key = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._guard:
            if known := self._digests.get(key):
                self._digests.move_to_end(key)
                return known
        blake = hashlib.blake2b(digest_size=32)
        md5 = hashlib.md5(usedforsecurity=False)
        while data := file.read(_READ_SIZE):
            blake.update(data)
            md5.update(data)
        file.seek(0)
        digests = Digests(blake.hexdigest(), md5.hexdigest())
        self._remember(status, digests)
        return digests

    def _remember(self, status: os.stat_result, digests: Digests) -> None:
        with self._guard:
            self._digests[status.st_ino, status.st_mtime_ns, status.st_size] = digests
            while len(self._digests) > _DIGESTS_KEPT:
                self._digests.popitem(last=False)


def _sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
