"""Chunks over HTTP (async): get one, get many, which are missing, store.

Ids are content hashes and every upload is hashed here, so what is stored under an id is that chunk: anyone
may read, and a chunk never changes once it is here.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, get, post, put
from litestar.params import Dependency
from litestar.response import Stream

from g8node.errors import InvalidArgument, NotFound, Unavailable
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.wire.codecs import is_stored_as
from g8tools.hub import framing, names
from g8tools.hub.service import Body, HttpRequest, Hub

GET_COUNT_MAX: Final = 256
MISSING_COUNT_MAX: Final = 65536
UPLOAD_BYTES_MAX: Final = 64 << 20
_READ_AT_ONCE: Final = 16
_STORE_AT_ONCE_BYTES: Final = 8 << 20
_BINARY: Final = "application/octet-stream"

HubPart = Annotated[Hub, Dependency(skip_validation=True)]


class Stored(msgspec.Struct, frozen=True):
    """Answer of an upload: chunks that were new, and chunks that were here already."""

    stored: int
    present: int


@get("/chunks/{id:str}", media_type=_BINARY)
async def get_chunk(hub: HubPart, request: HttpRequest, id: str) -> Response[bytes]:
    chunk = names.chunk(id)
    headers = {"ETag": f'"{id}"', "Cache-Control": "public, max-age=31536000, immutable"}
    if request.headers.get("if-none-match") == f'"{id}"':
        return Response(b"", status_code=304, headers=headers, media_type=_BINARY)
    stored = (await hub.chunks.get_many([chunk]))[chunk]
    if not isinstance(stored, bytes):
        raise NotFound(f"no chunk {id} here") if isinstance(stored, NotFound) else stored
    return Response(stored, headers=headers, media_type=_BINARY)


@post("/chunks/get", status_code=200, request_max_body_size=GET_COUNT_MAX * framing.ID_SIZES[-1])
async def get_chunks(hub: HubPart, request: HttpRequest) -> Stream:
    async with Body(request) as body:
        ids = framing.split_ids(await body.whole(), GET_COUNT_MAX, _id_size(request))
    # The first slice is read before the answer begins, so that a store that is down is a 503.
    first = await _read(hub, ids[:_READ_AT_ONCE])

    async def answers() -> AsyncIterator[bytes]:
        yield first
        for at in range(_READ_AT_ONCE, len(ids), _READ_AT_ONCE):
            yield await _read(hub, ids[at : at + _READ_AT_ONCE])

    return Stream(answers(), media_type=_BINARY)


def _id_size(request: HttpRequest) -> int:
    return framing.id_size(request.query_params.get("id"))


async def _read(hub: Hub, ids: Sequence[ChunkId]) -> bytes:
    """A slice of a download. Unavailable is never told as absent: absent is final for the reader."""
    got = await hub.chunks.get_many(ids)
    answers = []
    for id in ids:
        stored = got[id]
        if isinstance(stored, Unavailable):
            raise stored
        answers.append(framing.answer(stored if isinstance(stored, bytes) else None))
    return b"".join(answers)


@post(
    "/chunks/missing",
    status_code=200,
    media_type=_BINARY,
    request_max_body_size=MISSING_COUNT_MAX * framing.ID_SIZES[-1],
)
async def missing_chunks(hub: HubPart, request: HttpRequest) -> bytes:
    async with Body(request) as body:
        ids = framing.split_ids(await body.whole(), MISSING_COUNT_MAX, _id_size(request))
    missing = await hub.chunks.missing(ids)
    return b"".join(id for id in dict.fromkeys(ids) if id in missing)


@post("/chunks", status_code=200, request_max_body_size=UPLOAD_BYTES_MAX)
async def put_chunks(hub: HubPart, request: HttpRequest) -> Stored:
    async with Body(request) as body:
        hub.publisher(request)
        parser = framing.Uploads(_id_size(request))
        stored = present = 0
        batch: list[tuple[ChunkId, bytes]] = []
        held = 0
        async for data in body.pieces():
            for chunk in parser.feed(data):
                batch.append(chunk)
                held += len(chunk[1])
            if held >= _STORE_AT_ONCE_BYTES:
                new, old = await _store(hub, batch)
                stored, present, held, batch = stored + new, present + old, 0, []
        parser.end()
        new, old = await _store(hub, batch)
        return Stored(stored + new, present + old)


@put("/chunks/{id:str}", status_code=200, request_max_body_size=framing.STORED_SIZE_MAX)
async def put_chunk(hub: HubPart, request: HttpRequest, id: str) -> Stored:
    async with Body(request) as body:
        hub.publisher(request)
        chunk = names.chunk(id)
        return Stored(*await _store(hub, [(chunk, await body.whole())]))


async def _store(hub: Hub, batch: Sequence[tuple[ChunkId, bytes]]) -> tuple[int, int]:
    """Check and store: how many were new, how many present. InvalidArgument names the first wrong one."""
    if not batch:
        return 0, 0
    await blocking.run("cpu", _check, batch)
    chunks = dict(batch)
    missing = await hub.chunks.missing(list(chunks))
    await hub.chunks.put_many({id: chunks[id] for id in missing})
    return len(missing), len(chunks) - len(missing)


def _check(batch: Sequence[tuple[ChunkId, bytes]]) -> None:
    for claimed, stored in batch:
        if not is_stored_as(claimed, stored):
            raise InvalidArgument(f"chunk {claimed.hex()}: the {len(stored)} bytes sent have another hash")


HANDLERS: Final[Sequence[Any]] = (get_chunk, get_chunks, missing_chunks, put_chunks, put_chunk)
