"""Chunks of a Hub over HTTP (async).

    GET  {base}/chunks/{hex digits}      the stored bytes; 404
    POST {base}/chunks/get               body: 32-byte ids, at most 256; reply: for each id in order
                                         u32 LE length (0xFFFFFFFF = absent) and the bytes
    POST {base}/chunks/missing           body: 32-byte ids, at most 65536; reply: those that are absent
    POST {base}/chunks                   body: repeated 32-byte id, u32 LE length and bytes; authenticated;
                                         the Hub checks every id and names a wrong one

Ids of N bytes instead of 32 are sent apart, with `?id=N`. A base without the batch call (a plain file server)
is asked chunk by chunk. aiohttp is imported on first use, in a thread: it would stop the loop for longer than
the watchdog allows.
"""

import asyncio
import base64
import importlib
import io
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from g8node.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.store.base import STORED_SIZE_MAX, StoreError
from g8node.wire.chunk import ID_SIZE

if TYPE_CHECKING:
    import aiohttp

BATCH: Final = 256
_MISSING_BATCH: Final = 16384
_UPLOAD_BYTES: Final = 8 << 20
_LENGTH: Final = struct.Struct("<I")
_ABSENT: Final = 0xFFFFFFFF
_SINGLES: Final = 16
_TYPE: Final = {"Content-Type": "application/octet-stream"}


class HttpStore:
    """Keep-alive connections, opened on first use. `token` is for writing, `user` for a server that asks."""

    def __init__(
        self,
        base: str,
        *,
        token: str = "",
        user: str = "",
        password: str = "",
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 10.0,
    ) -> None:
        if not base.startswith(("http://", "https://")):
            raise InvalidArgument(f"chunk store {base!r}: expected http:// or https://")
        self._base = base.rstrip("/")
        self._token = token
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._login = {"Authorization": f"Basic {basic}"} if user or password else {}
        self._timeouts = (connect_timeout_s, read_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._batches = True

    async def _client(self) -> "aiohttp.ClientSession":
        async with self._opening:
            if self._session is None:
                http = await blocking.run("disk", importlib.import_module, "aiohttp")
                connect_s, read_s = self._timeouts
                self._session = http.ClientSession(
                    timeout=http.ClientTimeout(total=None, sock_connect=connect_s, sock_read=read_s),
                    connector=http.TCPConnector(limit=2 * _SINGLES, keepalive_timeout=30),
                    headers=self._login,
                    auto_decompress=False,
                    trust_env=False,
                )
            return self._session

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
        slots = asyncio.Semaphore(_SINGLES)

        async def one(id: ChunkId) -> bytes | StoreError:
            async with slots:
                return await self._get(id)

        return dict(zip(ids, await asyncio.gather(*map(one, ids)), strict=True))

    async def _get(self, id: ChunkId) -> bytes | StoreError:
        url = f"{self._base}/chunks/{id.hex()}"
        try:
            client = await self._client()
            async with client.get(url) as response:
                if response.status == 404:
                    return NotFound(f"chunk {id.hex()} is not in {self._base}")
                if response.status != 200:
                    return Unavailable(f"{url}: HTTP {response.status}")
                return await _bounded(response, STORED_SIZE_MAX)
        except _failures() as error:
            return Unavailable(f"{url}: {_reason(error)}")
        except Unavailable as error:
            return error

    async def _get_batch(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError] | None:
        """None when the server does not know the call."""
        url = f"{self._base}/chunks/get{_size_query(ids[0])}"
        answers: dict[ChunkId, bytes | StoreError] = {}
        try:
            client = await self._client()
            async with client.post(url, data=b"".join(ids), headers=_TYPE) as response:
                if response.status in (404, 405, 501):
                    return None
                if response.status != 200:
                    raise Unavailable(f"{url}: HTTP {response.status}")
                for id in ids:
                    answers[id] = await self._next(response, id)
        except _failures(Unavailable) as error:
            failed = Unavailable(f"{url}: {_reason(error)}")
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
            for id in alike:
                stored = chunks[id]
                if body and len(body) + len(stored) > _UPLOAD_BYTES:
                    await self._post(call, bytes(body), 1 << 20)
                    body.clear()
                body += id + _LENGTH.pack(len(stored)) + stored
            await self._post(call, bytes(body), 1 << 20)

    async def _post(self, call: str, body: bytes, reply_max: int) -> bytes:
        url = f"{self._base}/chunks{call}"
        headers = dict(_TYPE)
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            client = await self._client()
            # As a stream: aiohttp would write a large bytes object to the socket in one go.
            async with client.post(url, data=io.BytesIO(body), headers=headers) as response:
                reply = await _bounded(response, reply_max)
                if response.status in (401, 403):
                    raise PermissionDenied(f"{url}: HTTP {response.status}", hint="check the Hub token")
                if 400 <= response.status < 500 and response.status not in (408, 429):
                    raise InvalidArgument(
                        f"{url}: HTTP {response.status}: {reply[:200].decode(errors='replace')}"
                    )
                if response.status not in (200, 201):
                    raise Unavailable(f"{url}: HTTP {response.status}")
                return reply
        except _failures() as error:
            raise Unavailable(f"{url}: {_reason(error)}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = None


def _by_size(ids: Iterable[ChunkId]) -> Iterator[list[ChunkId]]:
    """The distinct ids, those of equal length together: the calls carry rows of ids."""
    sizes: dict[int, dict[ChunkId, None]] = {}
    for id in ids:
        sizes.setdefault(len(id), {})[id] = None
    return iter(list(alike) for alike in sizes.values())


def _size_query(id: ChunkId) -> str:
    return "" if len(id) == ID_SIZE else f"?id={len(id)}"


def _failures(*also: type[Exception]) -> tuple[type[Exception], ...]:
    """What a network does to us. Nothing of aiohttp is raised before it is imported."""
    usual: tuple[type[Exception], ...] = (OSError, TimeoutError, asyncio.IncompleteReadError, *also)
    http = sys.modules.get("aiohttp")
    return usual if http is None else (http.ClientError, *usual)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _bounded(response: "aiohttp.ClientResponse", limit: int) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise Unavailable(f"{response.url}: more than {limit} bytes")
    return bytes(body)
