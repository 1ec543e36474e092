"""One file from an HTTP server to a path (async).

The file appears whole or not at all: it is written beside the destination and renamed. aiohttp is imported on
first use, in a thread: it would stop the loop for longer than the watchdog allows.
"""

import asyncio
import contextlib
import errno
import importlib
import os
import secrets
import stat
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from g8node.errors import InvalidArgument, NodeError, NotFound, PermissionDenied, Unavailable
from g8node.linux.files import write_all
from g8node.linux.guard import off_loop
from g8node.node.files import absolute, on_path
from g8node.runtime import blocking

if TYPE_CHECKING:
    import aiohttp

MODE: Final = 0o660
_REDIRECTS_MAX: Final = 5
_CONNECT_S: Final = 10.0
_READ_S: Final = 30.0
_PIECE_BYTES: Final = 1 << 20


async def download(url: str, destination: str, size_max: int) -> None:
    """GET url into destination, mode 0660, at most size_max bytes.

    InvalidArgument, NotFound, PermissionDenied and Unavailable name `url` or `destination`.
    """
    _check_url(url)
    path = absolute(destination)
    partial = _Partial(path)
    try:
        await on_path("destination", destination, partial.open)
        await _fetch(url, destination, partial, size_max)
        await on_path("destination", destination, partial.commit)
    finally:
        await asyncio.shield(blocking.run("path", partial.close))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise InvalidArgument("url: expected http://host/... or https://host/...")


async def _fetch(url: str, destination: str, partial: "_Partial", size_max: int) -> None:
    http: Any = await blocking.run("disk", importlib.import_module, "aiohttp")
    timeout = http.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
    headers = {"Accept-Encoding": "identity"}
    try:
        async with (
            http.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False) as session,
            session.get(url, headers=headers, max_redirects=_REDIRECTS_MAX) as response,
        ):
            _check_status(response)
            await _save(response, destination, partial, size_max)
    except http.TooManyRedirects as error:
        raise Unavailable(f"url: more than {_REDIRECTS_MAX} redirects") from error
    except (http.InvalidURL, http.NonHttpUrlClientError) as error:
        raise InvalidArgument("url: it, or what it redirects to, is no http or https URL") from error
    except (http.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"url: {str(error) or type(error).__name__}") from error


def _check_status(response: "aiohttp.ClientResponse") -> None:
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
    raise error(f"url: the server answered HTTP {status}")


async def _save(
    response: "aiohttp.ClientResponse", destination: str, partial: "_Partial", size_max: int
) -> None:
    if (response.content_length or 0) > size_max:
        raise InvalidArgument(f"url: {response.content_length} bytes, max_bytes is {size_max}")
    size = 0
    held = bytearray()
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > size_max:
            raise InvalidArgument(f"url: more than {size_max} bytes, which max_bytes is")
        held += piece
        if len(held) >= _PIECE_BYTES:
            await on_path("destination", destination, partial.write, bytes(held))
            held.clear()
    await on_path("destination", destination, partial.write, bytes(held))


class _Partial:
    """The file until it is whole, in the destination's own folder; a link at the destination is followed.

    `close` may come while a thread is at another call, or before `open` began (the job was cancelled): what
    comes after it does nothing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._partial = ""
        self._fd = -1
        self._closed = False
        self._lock = threading.Lock()

    @off_loop
    def open(self) -> None:
        """OSError says what is wrong with the destination, before anything is fetched."""
        with self._lock:
            if self._closed:
                return
            self._path = os.path.realpath(self._path)
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(self._path).st_mode):
                    raise OSError(errno.EINVAL, "there is something else than a file", self._path)
            folder, name = os.path.split(self._path)
            partial = f"{folder}/.{name[:40]}.{secrets.token_hex(6)}"
            self._fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._partial = partial

    @off_loop
    def write(self, data: bytes) -> None:
        with self._lock:
            if not self._closed:
                write_all(self._fd, data)

    @off_loop
    def commit(self) -> None:
        with self._lock:
            if not self._closed:
                os.fchmod(self._fd, MODE)
                os.fsync(self._fd)
                os.rename(self._partial, self._path)
                self._partial = ""

    @off_loop
    def close(self) -> None:
        """What was not committed is removed."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(OSError):
                if self._fd >= 0:
                    os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                if self._partial:
                    os.unlink(self._partial)
