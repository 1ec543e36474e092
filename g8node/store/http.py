"""Chunks of a Hub over HTTP (async).

    GET  {base}/chunks/{hex digits}      the stored bytes; 404
    POST {base}/chunks/get               body: 32-byte ids, at most 256; reply: for each id in order
                                         u32 LE length (0xFFFFFFFF = absent) and the bytes
    POST {base}/chunks/missing           body: 32-byte ids, at most 65536; reply: those that are absent
    POST {base}/chunks                   body: repeated 32-byte id, u32 LE length and bytes; authenticated;
                                         the Hub checks every id and names a wrong one

Ids of N bytes instead of 32 are sent apart, with `?id=N`. A base without the batch call (a plain file server)
is asked chunk by chunk, also for `{base}/aa/{hex digits}`, as folders of chunks and rfs have them.
"""

import asyncio
import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from g8node.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from g8node.ids import ChunkId
from g8node.store.base import STORED_SIZE_MAX, StoreError
from g8node.store.web import SINGLES, Web, WebAccess, bounded, failures, reason
from g8node.wire.chunk import ID_SIZE

if TYPE_CHECKING:
    import aiohttp

BATCH: Final = 256
_MISSING_BATCH: Final = 16384
_UPLOAD_BYTES: Final = 8 << 20
_UPLOAD_COUNT: Final = 128
"""The Hub syncs each of them to its disk before it answers, within our time limit."""
_LENGTH: Final = struct.Struct("<I")
_ABSENT: Final = 0xFFFFFFFF
_FOLDER: Final = "chunks"
_TYPE: Final = {"Content-Type": "application/octet-stream"}


class HttpStore:
    """`token` is needed for writing only."""

    def __init__(self, base: str, *, token: str = "", access: WebAccess | None = None) -> None:
        if not base.startswith(("http://", "https://")):
            raise InvalidArgument(f"chunk store {base!r}: expected http:// or https://")
        self._base = base.rstrip("/")
        self._token = token
        self._web = Web(access or WebAccess())
        self._batches = True
        self._is_folder = False
        """Whether the last chunk that came lay there as in a folder of chunks."""

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        answers: dict[ChunkId, bytes | StoreError] = {}
        for alike in _by_size(ids):
            answers |= await self._get_alike(alike)
        return answers

    async def _get_alike(self, wanted: list[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        if not self._batches or len(wanted) == 1:
            return await self._get_singles(wanted)
        answers: dict[ChunkId, bytes | StoreError] = {}
        for at in range(0, len(wanted), BATCH):
            got = await self._get_batch(wanted[at : at + BATCH])
            if got is None:
                self._batches = False
                return answers | await self._get_singles(wanted[at:])
            answers |= got
        return answers

    async def _get_singles(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        slots = asyncio.Semaphore(SINGLES)

        async def one(id: ChunkId) -> bytes | StoreError:
            async with slots:
                return await self._get(id)

        return dict(zip(ids, await asyncio.gather(*map(one, ids)), strict=True))

    async def _get(self, id: ChunkId) -> bytes | StoreError:
        """A Hub is asked twice for what it does not have, a folder of chunks once for what it has."""
        got: bytes | StoreError = NotFound("")
        for is_folder in (self._is_folder, not self._is_folder):
            got = await self._get_at(id, id.hex()[:2] if is_folder else _FOLDER)
            if isinstance(got, bytes):
                self._is_folder = is_folder
            if not isinstance(got, NotFound):
                break
        return got

    async def _get_at(self, id: ChunkId, folder: str) -> bytes | StoreError:
        url = f"{self._base}/{folder}/{id.hex()}"
        try:
            client = await self._web.client()
            async with client.get(url) as response:
                if response.status == 404 or (response.status == 400 and folder != _FOLDER):
                    # 400 is a Hub's for what is no name of its own.
                    return NotFound(f"chunk {id.hex()} is not in {self._base}")
                if response.status != 200:
                    return Unavailable(f"{url}: HTTP {response.status}")
                return await bounded(response, STORED_SIZE_MAX)
        except failures() as error:
            return Unavailable(f"{url}: {reason(error)}")
        except Unavailable as error:
            return error

    async def _get_batch(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError] | None:
        """None when the server does not know the call."""
        url = f"{self._base}/chunks/get{_size_query(ids[0])}"
        answers: dict[ChunkId, bytes | StoreError] = {}
        try:
            client = await self._web.client()
            async with client.post(url, data=b"".join(ids), headers=_TYPE) as response:
                if response.status in (404, 405, 501):
                    return None
                if response.status != 200:
                    raise Unavailable(f"{url}: HTTP {response.status}")
                for id in ids:
                    answers[id] = await self._next(response, id)
        except failures(Unavailable) as error:
            failed = Unavailable(f"{url}: {reason(error)}")
            return {id: answers.get(id, failed) for id in ids}
        return answers

    async def _next(self, response: "aiohttp.ClientResponse", id: ChunkId) -> bytes | StoreError:
        (length,) = _LENGTH.unpack(await response.content.readexactly(_LENGTH.size))
        if length == _ABSENT:
            return NotFound(f"chunk {id.hex()} is not in {self._base}")
        if length > STORED_SIZE_MAX:
            raise Unavailable(f"chunk {id.hex()} would have {length} bytes")
        return await response.content.readexactly(length)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        absent: set[ChunkId] = set()
        for alike in _by_size(ids):
            size = len(alike[0])
            for at in range(0, len(alike), _MISSING_BATCH):
                part = alike[at : at + _MISSING_BATCH]
                reply = await self._post(f"/missing{_size_query(part[0])}", b"".join(part), len(part) * size)
                absent.update(ChunkId(reply[n : n + size]) for n in range(0, len(reply), size))
        return absent & set(ids)

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Also raises PermissionDenied (token) and InvalidArgument (the Hub refused the bytes)."""
        for alike in _by_size(chunks):
            call = _size_query(alike[0])
            body = bytearray()
            count = 0
            for id in alike:
                stored = chunks[id]
                if body and (count == _UPLOAD_COUNT or len(body) + len(stored) > _UPLOAD_BYTES):
                    await self._post(call, bytes(body), 1 << 20)
                    body.clear()
                    count = 0
                body += id + _LENGTH.pack(len(stored)) + stored
                count += 1
            await self._post(call, bytes(body), 1 << 20)

    async def _post(self, call: str, body: bytes, reply_max: int) -> bytes:
        url = f"{self._base}/chunks{call}"
        headers = dict(_TYPE)
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            client = await self._web.client()
            # As a stream: aiohttp would write a large bytes object to the socket in one go.
            async with client.post(url, data=io.BytesIO(body), headers=headers) as response:
                reply = await bounded(response, reply_max)
                if response.status in (401, 403):
                    raise PermissionDenied(f"{url}: HTTP {response.status}", hint="check the Hub token")
                if 400 <= response.status < 500 and response.status not in (408, 429):
                    raise InvalidArgument(
                        f"{url}: HTTP {response.status}: {reply[:200].decode(errors='replace')}"
                    )
                if response.status not in (200, 201):
                    raise Unavailable(f"{url}: HTTP {response.status}")
                return reply
        except failures() as error:
            raise Unavailable(f"{url}: {reason(error)}") from error

    async def close(self) -> None:
        await self._web.close()


def _by_size(ids: Iterable[ChunkId]) -> Iterator[list[ChunkId]]:
    """The distinct ids, those of equal length together: the calls carry rows of ids."""
    sizes: dict[int, dict[ChunkId, None]] = {}
    for id in ids:
        sizes.setdefault(len(id), {})[id] = None
    return iter(list(alike) for alike in sizes.values())


def _size_query(id: ChunkId) -> str:
    return "" if len(id) == ID_SIZE else f"?id={len(id)}"
