"""The files that clients opened, and changes of trees for them (async).

Every call that touches a path, a close included, runs in the "path" pool: it may lie on our own FUSE session.
"""

import asyncio
import errno
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from g8node.errors import (
    AlreadyExists,
    Conflict,
    Exhausted,
    InvalidArgument,
    NodeError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from g8node.linux import files
from g8node.runtime import blocking, logs

P = ParamSpec("P")
T = TypeVar("T")

BLOCK_BYTES: Final = 512 << 10
ENTRIES_MAX: Final = 100_000

log = logs.get("files")

_KINDS: Final[dict[int, type[NodeError]]] = {
    errno.ENOENT: NotFound,
    errno.ENXIO: NotFound,
    errno.ENODEV: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.EINVAL: InvalidArgument,
    errno.EISDIR: InvalidArgument,
    errno.ENOTDIR: InvalidArgument,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.ELOOP: InvalidArgument,
    errno.EXDEV: InvalidArgument,
    errno.EBADF: InvalidArgument,
    errno.EFBIG: InvalidArgument,
    errno.EOVERFLOW: Exhausted,
    errno.ENOSPC: Exhausted,
    errno.EDQUOT: Exhausted,
    errno.EMFILE: Exhausted,
    errno.ENFILE: Exhausted,
    errno.ENOMEM: Exhausted,
    errno.EBUSY: Conflict,
    errno.ENOTEMPTY: Conflict,
    errno.ETXTBSY: Conflict,
    errno.EAGAIN: Unavailable,
    errno.EIO: Unavailable,
}


def translated(name: str, shown: str, error: OSError) -> NodeError:
    """An errno in the node's words: `path: /a/b: no such file or directory`."""
    text = (error.strerror or str(error)).lower()
    return _KINDS.get(error.errno or 0, NodeError)(f"{name}: {shown}: {text}")


def absolute(path: str) -> str:
    """Relative paths begin at the root (spec core0-protocol 1.1)."""
    return os.path.join("/", path)


async def on_path(name: str, path: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run fn in the pool of paths; an OSError names the argument `name` and its value."""
    try:
        return await blocking.run("path", fn, *args, **kwargs)
    except OSError as error:
        raise translated(name, path, error) from error
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name}: expected text that can be a file name") from error


class Tree(Protocol):
    """The file tree that paths are in; every function blocks, and raises OSError or NodeError.

    The module `linux.files` is the node's own, `node.innertree.InnerTree` a container's.
    """

    def open_file(self, path: str, mode: str, perm: int, /) -> int: ...
    def make_folders(self, path: str, /) -> None: ...
    def remove(self, path: str, /) -> None: ...
    def exists(self, path: str, /) -> bool: ...
    def listing(self, path: str, entries_max: int, /) -> list[dict[str, Any]]: ...
    def move(self, path: str, destination: str, /) -> None: ...
    def change_mode(self, path: str, mode: int, /, *, recursive: bool) -> None: ...
    def change_owner(self, path: str, uid: int, gid: int, /, *, recursive: bool) -> None: ...
    def ids(self, user: str, group: str, /) -> tuple[int, int]:
        """KeyError whose argument is the word `user` or `group`."""


@dataclass(slots=True)
class _Handle:
    fd: int
    path: str
    expiry: asyncio.TimerHandle | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    closed: bool = False


class Files:
    """At most `handles_max` open files, each closed when `idle_s` pass without a read or write.

    `downloads` is held by each transfer into a file; more of them wait.
    """

    def __init__(
        self,
        tree: Tree | None = None,
        *,
        handles_max: int = 256,
        idle_s: float = 300.0,
        downloads_max: int = 32,
    ) -> None:
        self.downloads = asyncio.Semaphore(downloads_max)
        self._tree: Tree = tree or files
        self._handles_max = handles_max
        self._idle_s = idle_s
        self._handles: dict[str, _Handle] = {}
        self._opening = 0
        self._closing: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._handles)

    async def open(self, path: str, mode: str, perm: int) -> str:
        """The handle's name; `mode` as `linux.files.open_file` takes it."""
        if len(self._handles) + self._opening + len(self._closing) >= self._handles_max:
            raise Exhausted(f"file: {self._handles_max} files are open", hint="close some")
        self._opening += 1
        opening = asyncio.ensure_future(self._open(path, mode, perm & 0o777))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_unwanted)
            raise

    async def _open(self, path: str, mode: str, perm: int) -> str:
        try:
            fd = await on_path("file", path, self._tree.open_file, absolute(path), mode, perm)
            name = str(uuid.uuid4())
            self._handles[name] = _Handle(fd, path)
            self._renew(name)
        finally:
            self._opening -= 1
        return name

    def _close_unwanted(self, opening: "asyncio.Future[str]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.close(opening.result())

    async def read(self, name: str) -> bytes:
        """The next block, empty at the end of the file."""
        handle = self._get(name)
        return await asyncio.shield(self._use(name, handle, os.read, handle.fd, BLOCK_BYTES))

    async def write(self, name: str, data: bytes) -> None:
        handle = self._get(name)
        await asyncio.shield(self._use(name, handle, files.write_all, handle.fd, data))

    def close(self, name: str) -> None:
        """An unknown name is fine. What a read or write is at is finished first, in the background."""
        handle = self._handles.pop(name, None)
        if handle is None:
            return
        if handle.expiry is not None:
            handle.expiry.cancel()
        closing = asyncio.ensure_future(_close(handle))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close_all(self) -> None:
        for name in list(self._handles):
            self.close(name)
        await asyncio.gather(*self._closing)

    def _get(self, name: str) -> _Handle:
        handle = self._handles.get(name)
        if handle is None:
            raise NotFound(f"fd: {name!r} is not open")
        return handle

    async def _use(
        self, name: str, handle: _Handle, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """One call at a time. Shielded by callers: the thread uses the descriptor to the end of its call."""
        async with handle.turn:
            if handle.closed:
                raise NotFound(f"fd: {name!r} is not open")
            if handle.expiry is not None:
                handle.expiry.cancel()  # a slow read is not idle
            try:
                return await on_path("fd", handle.path, fn, *args, **kwargs)
            finally:
                self._renew(name)

    def _renew(self, name: str) -> None:
        handle = self._handles.get(name)
        if handle is not None:
            handle.expiry = asyncio.get_running_loop().call_later(self._idle_s, self.close, name)

    async def make_folders(self, path: str) -> None:
        await on_path("path", path, self._tree.make_folders, absolute(path))

    async def remove(self, path: str) -> None:
        """rm -rf; the root itself is refused."""
        await on_path("path", path, self._tree.remove, absolute(path))

    async def exists(self, path: str) -> bool:
        return await on_path("path", path, self._tree.exists, absolute(path))

    async def list(self, path: str) -> list[dict[str, Any]]:
        return await on_path("path", path, self._tree.listing, absolute(path), ENTRIES_MAX)

    async def move(self, path: str, destination: str) -> None:
        await on_path(
            "path", f"{path} to {destination}", self._tree.move, absolute(path), absolute(destination)
        )

    async def change_mode(self, path: str, mode: int, *, recursive: bool) -> None:
        await on_path("path", path, self._tree.change_mode, absolute(path), mode, recursive=recursive)

    async def change_owner(self, path: str, user: str, group: str, *, recursive: bool) -> None:
        try:
            uid, gid = await blocking.run("path", self._tree.ids, user, group)
        except KeyError as error:
            field = error.args[0]
            name = user if field == "user" else group
            raise NotFound(f"{field}: {name!r} does not exist") from None
        await on_path("path", path, self._tree.change_owner, absolute(path), uid, gid, recursive=recursive)


async def _close(handle: _Handle) -> None:
    async with handle.turn:
        handle.closed = True
        try:
            await blocking.run("path", os.close, handle.fd)
        except OSError as error:
            log.warning("a file could not be closed", path=handle.path, error=str(error))
