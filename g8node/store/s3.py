"""Chunks as objects of an S3-compatible store: `<prefix>/<hex digits>`, as rfs names them (async).

GET, HEAD and PUT of single objects, a bounded number at once: S3 has no call for many. An object that is
there is not written again. "No such key" alone is NotFound: a bucket that is not there, or not ours, is
Unavailable.
"""

import asyncio
import hashlib
import io
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from g8node.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.store.base import STORED_SIZE_MAX, StoreError
from g8node.store.web import SINGLES, Web, WebAccess, bounded, failures, reason
from g8node.wire.sigv4 import EMPTY_SHA256, Keys, signed_headers

_BUCKET: Final = re.compile(r"/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9._-]+)*)/?")
_ERROR_BYTES: Final = 64 << 10
_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9]{1,80})</Code>")
_INLINE_BYTES: Final = 64 << 10

T = TypeVar("T")


class _Answer(Exception):
    """Neither success nor absence. `code` is S3's word for it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"HTTP {status} {code}".rstrip())
        self.status = status


class S3Store:
    """`name`: the store in messages; `origin`: `http(s)://host[:port]`; `path`: `/bucket[/prefix]`."""

    def __init__(self, name: str, origin: str, path: str, keys: Keys, access: WebAccess) -> None:
        found = _BUCKET.fullmatch(path)
        if found is None:
            raise InvalidArgument(f"chunk store {name}: path {path[:80]!r}, expected /bucket[/prefix]")
        self._name = name
        self._origin = origin
        self._host = origin.partition("://")[2]
        self._folder = f"/{found[1]}{found[2]}"
        self._keys = keys
        self._web = Web(access)

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        wanted = list(dict.fromkeys(ids))
        return dict(zip(wanted, await _each(self._get, wanted), strict=True))

    async def _get(self, id: ChunkId) -> bytes | StoreError:
        try:
            found = await self._call("GET", id)
        except failures(_Answer) as error:
            return Unavailable(f"chunk {id.hex()}: {self._name}: {reason(error)}")
        except Unavailable as error:
            return error
        return NotFound(f"chunk {id.hex()} is not in {self._name}") if found is None else found

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Raises PermissionDenied when the keys do not allow it."""
        absent = await self.missing(list(chunks))

        async def put(id: ChunkId) -> None:
            try:
                if await self._call("PUT", id, chunks[id]) is None:
                    raise Unavailable(f"{self._name}: there is no such bucket")
            except failures(_Answer) as error:
                raise self._refused(error) from error

        await _each(put, [id for id in chunks if id in absent])

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        async def is_absent(id: ChunkId) -> bool:
            try:
                return await self._call("HEAD", id) is None
            except failures(_Answer) as error:
                raise self._refused(error) from error

        wanted = list(dict.fromkeys(ids))
        found = await _each(is_absent, wanted)
        return {id for id, absent in zip(wanted, found, strict=True) if absent}

    def _refused(self, error: Exception) -> PermissionDenied | Unavailable:
        if isinstance(error, _Answer) and error.status in (401, 403):
            return PermissionDenied(f"{self._name}: {error}", hint="check the store's key and secret")
        return Unavailable(f"{self._name}: {reason(error)}")

    async def _call(self, method: str, id: ChunkId, stored: bytes = b"") -> bytes | None:
        """The body; None when there is no such object. _Answer, or what a network does."""
        path = f"{self._folder}/{id.hex()}"
        digest = EMPTY_SHA256
        if len(stored) > _INLINE_BYTES:
            digest = await blocking.run("cpu", _sha256, stored)
        elif stored:
            digest = _sha256(stored)
        headers = signed_headers(self._keys, method, self._host, path, datetime.now(UTC), digest)
        client = await self._web.client()
        # As a stream: aiohttp would write a large bytes object to the socket in one go.
        data = io.BytesIO(stored) if method == "PUT" else None
        url = self._origin + path
        async with client.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            if response.status == 200:
                return await bounded(response, STORED_SIZE_MAX)
            said = _CODE.search(await bounded(response, _ERROR_BYTES))
            code = said[1].decode() if said else ""
            if response.status == 404 and (method == "HEAD" or code == "NoSuchKey"):
                return None
            raise _Answer(response.status, code)

    async def close(self) -> None:
        await self._web.close()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def _each(work: Callable[[ChunkId], Awaitable[T]], ids: Sequence[ChunkId]) -> list[T]:
    """A bounded number at once; the first failure ends the others."""
    slots = asyncio.Semaphore(SINGLES)

    async def one(id: ChunkId) -> T:
        async with slots:
            return await work(id)

    tasks = [asyncio.ensure_future(one(id)) for id in ids]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
