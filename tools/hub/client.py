"""Client of a Hub (async): publish and download flists, and its chunks as a verified store."""

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import IO, Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from g8node.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NodeError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from g8node.runtime import blocking
from g8node.store.base import Store
from g8node.store.locate import open_store
from g8node.store.verified import VerifiedStore
from g8node.wire.chunk import ID_SIZE
from g8tools.hub import names

FLIST_TIMEOUT_S: Final = 600.0
_CONNECT_S: Final = 10.0
_IDLE_S: Final = 120.0
_PIECE: Final = 1 << 20
_ERRORS: Final[Mapping[int, type[NodeError]]] = {
    400: InvalidArgument,
    401: PermissionDenied,
    403: PermissionDenied,
    404: NotFound,
    405: InvalidArgument,
    409: Conflict,
    413: InvalidArgument,
    504: DeadlineExceeded,
}


class _Failure(msgspec.Struct):
    message: str = ""


class Published(msgspec.Struct):
    """What a Hub says of a flist it has just published."""

    name: str
    size_bytes: int
    digest: str


class _Success(msgspec.Struct):
    payload: Published


def split_url(url: str) -> tuple[str, str, str]:
    """(Hub, repository, name) of an flist's address."""
    base, _, name = url.rpartition("/")
    base, _, repository = base.rpartition("/")
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        raise InvalidArgument(f"{url}: expected http(s)://HUB/REPOSITORY/NAME.flist")
    return base, names.repository(repository), names.flist(name)


class HubClient:
    """One Hub. A context manager; may be used by many tasks at once."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc:
            raise InvalidArgument(f"Hub {url}: expected http(s)://HOST[:PORT]")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.chunks: Store = VerifiedStore(open_store(self.url, token=token))

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_IDLE_S)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=self._headers, auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.chunks.close()
        await self._session.close()

    async def publish(
        self, path: str, repository: str, name: str, told: Callable[[int], None] = lambda _: None
    ) -> Published:
        """Upload an flist file and have it checked and published. `told` hears of bytes sent."""
        size = await blocking.run("disk", os.path.getsize, path)
        target = f"/api/flist/{names.repository(repository)}/{names.flist(name)}"
        with await blocking.run("disk", open, path, "rb") as file:
            answer = await self._request(
                "PUT",
                target,
                _pieces(file, told),
                headers={"Content-Length": str(size)},
                # The Hub checks token and names before we send the body.
                expect100=True,
                timeout=aiohttp.ClientTimeout(total=FLIST_TIMEOUT_S, sock_connect=_CONNECT_S),
            )
        return msgspec.json.decode(answer, type=_Success).payload

    async def download(
        self, repository: str, name: str, path: str, told: Callable[[int, int], None] = lambda _a, _b: None
    ) -> str:
        """Fetch an flist into a file that is complete or not there; its digest, checked against the Hub's.

        `told` hears (bytes received, bytes in all).
        """
        partial = f"{path}.{os.getpid()}.partial"
        target = f"{self.url}/{names.repository(repository)}/{names.flist(name)}"
        try:
            async with self._session.get(target) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read(), self.url)
                with await blocking.run("disk", open, partial, "wb") as file:
                    digest = await self._save(response, file, told)
                expected = response.headers.get("ETag", "").strip('"')
            if digest != expected:
                raise Unavailable(f"{target} came with digest {digest}, the Hub said {expected}")
            await blocking.run("disk", os.replace, partial, path)
            return digest
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.url, error) from error
        finally:
            await blocking.run("disk", _remove, partial)

    async def put_beside(self, repository: str, name: str, kind: str, data: bytes) -> None:
        """Upload a signature (`sig`) or `profile` of an flist, which may still have to be published."""
        target = f"/api/flist/{names.repository(repository)}/{names.flist(name)}.{kind}"
        await self._request("PUT", target, io.BytesIO(data))

    async def get_beside(self, repository: str, name: str, kind: str) -> bytes | None:
        """None when the Hub has none."""
        try:
            target = f"/{names.repository(repository)}/{names.flist(name)}.{kind}"
            return await self._request("GET", target, None)
        except NotFound:
            return None

    async def user(self) -> str:
        """Whose repository `me` is; "" for a token without a user."""
        answer = await self._request("GET", "/api/flist/me", None)
        return msgspec.json.decode(answer, type=dict[str, str])["username"]

    async def change(self, call: str, path: str) -> None:
        """Of the own repository: a path below `/api/flist/me` of docs/hub.md, of names that were checked."""
        await self._request(call, f"/api/flist/me{path}", None)

    async def _save(
        self, response: aiohttp.ClientResponse, file: IO[bytes], told: Callable[[int, int], None]
    ) -> str:
        blake = hashlib.blake2b(digest_size=ID_SIZE)
        done = 0
        async for data in response.content.iter_chunked(_PIECE):
            await blocking.run("disk", file.write, data)
            blake.update(data)
            done += len(data)
            told(done, response.content_length or 0)
        await blocking.run("disk", _flush, file)
        return blake.hexdigest()

    async def _request(self, method: str, path: str, body: Any, **options: Any) -> bytes:
        try:
            async with self._session.request(method, self.url + path, data=body, **options) as response:
                answer = await response.read()
                if response.status != 200:
                    raise _error(response.status, answer, self.url)
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.url, error) from error


async def _pieces(file: IO[bytes], told: Callable[[int], None]) -> AsyncIterator[bytes]:
    while data := await blocking.run("disk", file.read, _PIECE):
        yield data
        told(len(data))


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _unreachable(url: str, error: BaseException) -> NodeError:
    if isinstance(error, asyncio.TimeoutError):
        return DeadlineExceeded(f"Hub {url} does not answer")
    return Unavailable(f"Hub {url}: {error}")


def _error(status: int, answer: bytes, url: str) -> NodeError:
    try:
        message = msgspec.json.decode(answer, type=_Failure).message
    except msgspec.DecodeError:
        message = f"HTTP status {status}"
    return _ERRORS.get(status, Unavailable)(f"Hub {url}: {message}")
