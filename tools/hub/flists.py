"""Flists over HTTP (async): browse, download, publish. Paths of the original Hub where they are cheap."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, BinaryIO, Final

import msgspec
from litestar import HttpMethod, MediaType, Response, get, post, put, route
from litestar.datastructures import UploadFile
from litestar.response import Stream

from g8node.errors import Conflict, InvalidArgument, NotFound
from g8node.runtime import blocking
from g8tools.flist.contents import chunk_ids
from g8tools.hub import beside, names
from g8tools.hub.catalog import Listed
from g8tools.hub.chunks import MISSING_COUNT_MAX, HubPart
from g8tools.hub.repository import Entry, Repository, Staged
from g8tools.hub.service import Body, HttpRequest, Hub

FLIST_BYTES_MAX: Final = 512 << 20
"""No Hub takes a larger flist; `Hub.flist_bytes_max` may be smaller."""
_PIECE: Final = 256 << 10
_BINARY: Final = "application/octet-stream"
_STAGE_AT_ONCE: Final = 1 << 20
_NAMED_MISSING: Final = 5
_DIGESTS: Final = ("md5", "digest")


class Success(msgspec.Struct, frozen=True):
    """The original's answer to a change."""

    payload: Entry
    status: str = "success"


class Kept(msgspec.Struct, frozen=True):
    """The answer to what was put beside an flist: of which flist it is, and whether that is published."""

    name: str
    flist_digest: str
    published: bool
    status: str = "success"


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of a listing, with the original's words and ours. Digests are of what a link stands for."""

    name: str
    size: str
    updated: int
    size_bytes: int
    digest: str
    md5: str
    type: str
    target: str = ""
    linktime: int = 0


class Inspection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One flist: what a client wants to know before it downloads."""

    name: str
    size: int
    updated: int
    digest: str
    md5: str
    type: str
    target: str = ""


class RepositorySummary(msgspec.Struct, frozen=True):
    name: str
    updated: int
    official: bool = False


@get("/api/flist")
async def list_all(hub: HubPart) -> list[str]:
    return await blocking.run("disk", _all_names, hub)


def _all_names(hub: Hub) -> list[str]:
    return [
        f"{repository.name}/{name}"
        for repository in hub.catalog.repositories()
        for name in hub.catalog.names(repository.name)
    ]


@get("/api/repositories")
async def list_repositories(hub: HubPart) -> list[RepositorySummary]:
    found: list[Repository] = await blocking.run("disk", hub.catalog.repositories)
    return [RepositorySummary(repository.name, int(repository.updated)) for repository in found]


@get("/api/flist/{repo:str}")
async def list_repository(hub: HubPart, repo: str) -> list[Summary]:
    found = await blocking.run("disk", hub.catalog.listed, names.repository(repo))
    return list(map(_summary, found))


@get("/api/flist/{repo:str}/tags/{tag:str}")
async def list_tag(hub: HubPart, repo: str, tag: str) -> list[Summary]:
    found = await blocking.run("disk", hub.catalog.tagged, names.repository(repo), names.tag(tag))
    return list(map(_summary, found))


def _summary(one: Listed) -> Summary:
    entry = one.entry or Entry(one.name, 0, one.linktime, "", "")
    return Summary(
        one.name,
        f"{entry.size_bytes / 1024:.2f} KB",
        int(entry.updated),
        entry.size_bytes,
        entry.digest,
        entry.md5,
        one.type,
        one.target,
        int(one.linktime),
    )


@get(["/api/flist/{repo:str}/{name:str}", "/api/flist/{repo:str}/{name:str}/light"])
async def inspect(hub: HubPart, repo: str, name: str) -> Inspection:
    return await _inspected(hub, repo, name)


@get("/api/flist/me/{name:str}")
async def inspect_own(hub: HubPart, request: HttpRequest, name: str) -> Inspection:
    return await _inspected(hub, hub.user(request), name)


async def _inspected(hub: Hub, repo: str, name: str) -> Inspection:
    one = await blocking.run("disk", hub.catalog.one, names.repository(repo), names.flist(name))
    entry = one.entry
    assert entry is not None
    return Inspection(
        one.name, entry.size_bytes, int(entry.updated), entry.digest, entry.md5, one.type, one.target
    )


@get("/api/flist/{repo:str}/{name:str}/taglink")
async def tag_link(hub: HubPart, repo: str, name: str) -> dict[str, str]:
    found = await blocking.run("disk", hub.catalog.tag_target, names.repository(repo), names.tag(name))
    return {"target": found}


@get("/api/flist/me")
async def whoami(hub: HubPart, request: HttpRequest) -> dict[str, str]:
    return {"username": hub.publisher(request).user}


@route("/{repo:str}/{file:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def download(hub: HubPart, request: HttpRequest, repo: str, file: str) -> Response[Any]:
    return await _download(hub, request, repo, file)


@route("/{repo:str}/tags/{tag:str}/{file:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def download_tagged(
    hub: HubPart, request: HttpRequest, repo: str, tag: str, file: str
) -> Response[Any]:
    name = names.flist(_named(file))
    place = await blocking.run("disk", hub.catalog.in_tag, names.repository(repo), names.tag(tag), name)
    return await _download(hub, request, place.repository, place.name + file.removeprefix(name))


def _named(file: str) -> str:
    """The flist that a file is of: itself, its digests, what lies beside it."""
    for suffix in (*_DIGESTS, *beside.KINDS):
        if file.endswith(f"{names.SUFFIX}.{suffix}"):
            return file.removesuffix(f".{suffix}")
    return file


async def _download(hub: Hub, request: HttpRequest, repo: str, file: str) -> Response[Any]:
    names.repository(repo)
    names.flist(_named(file))
    for suffix in _DIGESTS:
        if file.endswith(f"{names.SUFFIX}.{suffix}"):
            entry = await blocking.run("disk", hub.catalog.get, repo, file.removesuffix(f".{suffix}"))
            return Response(getattr(entry, suffix), media_type=MediaType.TEXT)
    name, kind = beside.split(file)
    if kind:
        return await _download_beside(hub, request, repo, name, kind)
    opened, entry = await blocking.run("disk", hub.catalog.open, repo, file)
    headers = {
        "ETag": f'"{entry.digest}"',
        "Cache-Control": "no-cache",
        "Content-Disposition": f'attachment; filename="{entry.name}"',
        "Access-Control-Allow-Origin": "*",
    }
    if request.method == "HEAD" or request.headers.get("if-none-match") == headers["ETag"]:
        opened.close()
        headers["Content-Length"] = str(entry.size_bytes)
        status = 200 if request.method == "HEAD" else 304
        return Response(b"", status_code=status, headers=headers, media_type=_BINARY)
    headers["Content-Length"] = str(entry.size_bytes)
    return Stream(_pieces(opened), headers=headers, media_type=_BINARY)


async def _download_beside(
    hub: Hub, request: HttpRequest, repo: str, name: str, kind: str
) -> Response[bytes]:
    data = await blocking.run("disk", hub.catalog.beside, repo, name, kind)
    headers = {
        "ETag": f'"{hashlib.blake2b(data, digest_size=32).hexdigest()}"',
        "Cache-Control": "no-cache",
        "Content-Disposition": f'attachment; filename="{name}.{kind}"',
    }
    if request.method == "HEAD" or request.headers.get("if-none-match") == headers["ETag"]:
        headers["Content-Length"] = str(len(data))
        status = 200 if request.method == "HEAD" else 304
        return Response(b"", status_code=status, headers=headers, media_type=_BINARY)
    return Response(data, headers=headers, media_type=_BINARY)


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while data := await blocking.run("disk", file.read, _PIECE):
            yield data


@put("/api/flist/{repo:str}/{name:str}", status_code=200, request_max_body_size=FLIST_BYTES_MAX)
async def publish(hub: HubPart, request: HttpRequest, repo: str, name: str) -> Success | Kept:
    async with Body(request) as body:
        publisher = hub.publisher(request)
        flist, kind = beside.split(name)
        if kind:
            names.flist(flist)
            publisher.authorise(names.repository(repo))
            return await _publish_beside(hub, body, repo, flist, kind)
        names.flist(name)
        publisher.authorise(names.repository(repo))
        _refuse_announced(hub, request)
        return Success(await _publish(hub, body.pieces(), repo, name))


@post("/api/flist/me/upload-flist", status_code=200, request_max_body_size=FLIST_BYTES_MAX + (1 << 20))
async def upload_flist(hub: HubPart, request: HttpRequest) -> Success:
    """The original's upload: multipart `file`, into the repository of the token's user."""
    async with Body(request) as body:
        user = hub.user(request)
        _refuse_announced(hub, request)
        async with hub.uploads:
            form = await body.form()
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise InvalidArgument("form field `file`: expected a file")
        given = request.headers.get("x-original-name") or upload.filename
        name = names.flist(given.rpartition("/")[2])
        return Success(await _publish(hub, _upload_pieces(upload), user, name))


async def _publish_beside(hub: Hub, body: Body, repo: str, name: str, kind: str) -> Kept:
    """What it is of need not be published yet: so there is no moment without a signature."""
    data = bytearray()
    async for piece in body.pieces():
        data += piece
        if len(data) > beside.BYTES_MAX:
            raise InvalidArgument(f"{name}.{kind}: at most {beside.BYTES_MAX} bytes are taken")
    try:
        current = (await blocking.run("disk", hub.flists.get, repo, name)).digest
    except NotFound:
        current = ""
    digest = await blocking.run("disk", hub.beside.put, repo, name, kind, bytes(data), current)
    return Kept(f"{name}.{kind}", digest, digest == current)


async def _upload_pieces(upload: UploadFile) -> AsyncIterator[bytes]:
    while data := await upload.read(_PIECE):
        yield data


def _refuse_announced(hub: Hub, request: HttpRequest) -> None:
    """Refuse by the announced length before any of the body is read."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        _check_size(hub, int(announced))


def _check_size(hub: Hub, size_bytes: int) -> None:
    if size_bytes > hub.flist_bytes_max:
        raise InvalidArgument(f"flist has {size_bytes} bytes or more, expected at most {hub.flist_bytes_max}")


async def _publish(hub: Hub, pieces: AsyncIterator[bytes], repo: str, name: str) -> Entry:
    await blocking.run("disk", hub.catalog.refuse_link, repo, name)
    async with hub.uploads:
        staged = await blocking.run("disk", hub.flists.stage)
        try:
            await _fill(hub, staged, pieces)
            await _check(hub, staged, f"{repo}/{name}")
            entry = await blocking.run("disk", hub.flists.publish, staged, repo, name)
            await blocking.run("disk", hub.beside.keep, repo, name, (entry.digest,))
            return entry
        finally:
            await blocking.run("disk", staged.discard)


async def _fill(hub: Hub, staged: Staged, pieces: AsyncIterator[bytes]) -> None:
    held: list[bytes] = []
    size = 0
    async for data in pieces:
        held.append(data)
        size += len(data)
        if size >= _STAGE_AT_ONCE:
            _check_size(hub, staged.size_bytes + size)
            await blocking.run("disk", staged.write, b"".join(held))
            held, size = [], 0
    _check_size(hub, staged.size_bytes + size)
    await blocking.run("disk", staged.write, b"".join(held))
    await blocking.run("disk", staged.flush)


async def _check(hub: Hub, staged: Staged, what: str) -> None:
    """The whole flist is valid and every chunk it names is here, or it is not published."""
    try:
        ids = await blocking.run("cpu", chunk_ids, staged.path)
    except InvalidArgument as error:
        # The reader names the file it was given; the client knows it by another name.
        reason = str(error).removeprefix(f"flist {staged.path}").removeprefix(":").strip()
        raise InvalidArgument(f"flist {what} refused: {reason}") from error
    missing = 0
    first: list[str] = []
    for at in range(0, len(ids), MISSING_COUNT_MAX):
        part = ids[at : at + MISSING_COUNT_MAX]
        absent = await hub.chunks.missing(part)
        missing += len(absent)
        first += [id.hex() for id in part if id in absent][: _NAMED_MISSING - len(first)]
    if missing:
        shown = ", ".join(first) + (" …" if missing > len(first) else "")
        raise Conflict(
            f"flist {what} refused: {missing} of its {len(ids)} chunks are not on this Hub: {shown}",
            hint="upload the chunks first",
        )


HANDLERS: Final[Sequence[Any]] = (
    list_all,
    list_repositories,
    list_repository,
    list_tag,
    inspect,
    inspect_own,
    tag_link,
    whoami,
    download,
    download_tagged,
    publish,
    upload_flist,
)
