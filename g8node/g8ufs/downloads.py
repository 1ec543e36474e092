"""Flist files from where they are named: a path, file:// or http(s):// (async).

Downloads are kept in a folder under a name made from the URL, with the server's ETag, and are asked for
conditionally. A file appears by rename, whole. When the server does not answer, a kept copy is served: a
node restarts its containers though the Hub is down.
"""

import asyncio
import contextlib
import hashlib
import importlib
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from g8node.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NodeError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from g8node.runtime import blocking, logs

if TYPE_CHECKING:
    import aiohttp

log = logs.get("g8ufs.downloads")

_CONNECT_S: Final = 5.0
_READ_S: Final = 20.0
_PIECE_BYTES: Final = 1 << 20


def local_path(flist: str) -> str | None:
    """The path that a name means, None for an http URL. InvalidArgument for anything else."""
    try:
        parts = urlsplit(flist)
    except ValueError as error:
        raise InvalidArgument(f"flist {flist!r} is no URL: {error}") from error
    if parts.scheme in ("http", "https"):
        if not parts.hostname:
            raise InvalidArgument(f"flist {flist!r}: the URL has no host")
        return None
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidArgument(f"flist {flist!r}: expected file:///path")
        return unquote(parts.path)
    if flist.startswith("/"):
        return flist
    raise InvalidArgument(f"flist {flist!r}: expected /path, file:///path, http://... or https://...")


def beside(flist: str, suffix: str) -> str:
    """The name of what lies beside an flist: its own with the suffix, which goes in front of a query."""
    if local_path(flist) is not None:
        return flist + suffix
    parts = urlsplit(flist)
    return urlunsplit(parts._replace(path=parts.path + suffix))


class Downloads:
    """Fetches each URL once at a time; callers make sure of that."""

    def __init__(self, directory: str, *, size_max_bytes: int) -> None:
        self._directory = directory
        self._size_max = size_max_bytes

    async def fetch(self, flist: str) -> str:
        """The path of the flist's file. NotFound, Unavailable, InvalidArgument, PermissionDenied name it."""
        path = local_path(flist)
        if path is not None:
            if not await blocking.run("disk", os.path.isfile, path):
                raise NotFound(f"flist {flist} is not there, or no file")
            return path
        name = hashlib.blake2b(flist.encode(), digest_size=16).hexdigest()
        kept = f"{self._directory}/{name}.flist"
        try:
            async with asyncio.timeout(None) as limit:
                limit.reschedule(asyncio.get_running_loop().time() + _total_s(self._size_max))
                await self._download(flist, kept)
        except (Unavailable, TimeoutError) as error:
            if await blocking.run("disk", os.path.exists, kept):
                log.warning("using the kept copy of an flist", flist=flist, error=str(error))
                return kept
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"flist {flist}: the download takes too long") from error
            raise
        return kept

    async def _download(self, url: str, kept: str) -> None:
        http = await blocking.run("disk", importlib.import_module, "aiohttp")
        etag = await blocking.run("disk", _read_etag, kept)
        timeout = http.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
        headers = {"If-None-Match": etag} if etag else {}
        try:
            async with (
                http.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.get(url, headers={"Accept-Encoding": "identity", **headers}) as response,
            ):
                if response.status == 304 and etag:
                    return
                _check(url, response)
                await self._save(url, response, kept)
        except http.InvalidURL as error:
            raise InvalidArgument(f"flist {url!r} is no URL") from error
        except (http.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"flist {url}: {str(error) or type(error).__name__}") from error

    async def _save(self, url: str, response: "aiohttp.ClientResponse", kept: str) -> None:
        if (response.content_length or 0) > self._size_max:
            raise InvalidArgument(f"flist {url}: {response.content_length} bytes, limit {self._size_max}")
        partial: Any = await blocking.run("disk", _Partial, kept)
        try:
            size = 0
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                size += len(piece)
                if size > self._size_max:
                    raise InvalidArgument(f"flist {url}: more than {self._size_max} bytes")
                await blocking.run("disk", partial.write, piece)
            await blocking.run("disk", partial.commit, response.headers.get("ETag", ""))
        finally:
            await blocking.run("disk", partial.close)


def _total_s(size_max: int) -> float:
    """Even the slowest link that is of use moves 1 MB/s."""
    return 60.0 + size_max / 1e6


def _check(url: str, response: "aiohttp.ClientResponse") -> None:
    status = response.status
    if status == 200:
        return
    error: type[NodeError] = Unavailable
    if status in (404, 410):
        error = NotFound
    elif status in (401, 403):
        error = PermissionDenied
    elif 400 <= status < 500 and status not in (408, 429):
        error = InvalidArgument
    raise error(f"flist {url}: HTTP {status}")


def _read_etag(kept: str) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError), open(f"{kept}.etag", encoding="ascii") as source:
        if os.path.exists(kept):
            return source.read(1024)
    return ""


class _Partial:
    """A download being written; `close` without `commit` leaves nothing behind (blocking)."""

    def __init__(self, kept: str) -> None:
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        self._kept = kept
        self._path = f"{kept}.{os.getpid()}.part"
        self._file = open(self._path, "wb")  # noqa: SIM115 - closed in close()

    def write(self, piece: bytes) -> None:
        self._file.write(piece)

    def commit(self, etag: str) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._kept}.etag")  # an old ETag must never stand beside a new file
        os.rename(self._path, self._kept)
        if etag.isascii() and "\n" not in etag:
            with open(f"{self._kept}.etag.part", "w", encoding="ascii") as out:
                out.write(etag)
            os.rename(f"{self._kept}.etag.part", f"{self._kept}.etag")

    def close(self) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
