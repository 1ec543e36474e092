"""Changes of what is published (async): promote, rename, remove, links and tags, as the original has them.

All are of the repository of the token's user, `me`. The original made them with GET, which old clients still
send; a browser cannot, for it has no token. New clients use POST.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from litestar import HttpMethod, delete, route

from g8node.runtime import blocking
from g8tools.hub import names
from g8tools.hub.chunks import HubPart
from g8tools.hub.links import Place
from g8tools.hub.service import HttpRequest

_CHANGE: Final[Any] = {"http_method": [HttpMethod.GET, HttpMethod.POST], "status_code": 200}


class Change(msgspec.Struct, frozen=True):
    name: str
    target: str = ""


class Changed(msgspec.Struct, frozen=True):
    """The original's answer to a change."""

    payload: Change
    status: str = "success"


async def _do(change: Callable[..., Any], *arguments: Any, name: str, target: object = "") -> Changed:
    await blocking.run("disk", change, *arguments)
    return Changed(Change(name, str(target)))


def _flist(repository: str, name: str) -> Place:
    return Place(names.repository(repository), names.flist(name))


def _tag(repository: str, name: str) -> Place:
    return Place(names.repository(repository), names.tag(name))


@delete("/api/flist/me/{name:str}", status_code=200)
async def remove(hub: HubPart, request: HttpRequest, name: str) -> Changed:
    kind = _flist if name.endswith(names.SUFFIX) else _tag
    return await _do(hub.catalog.delete, kind(hub.user(request), name), name=name)


@route("/api/flist/me/{name:str}/rename/{new:str}", **_CHANGE)
async def rename(hub: HubPart, request: HttpRequest, name: str, new: str) -> Changed:
    user = hub.user(request)
    return await _do(hub.catalog.rename, _flist(user, name), _flist(user, new), name=new)


@route("/api/flist/me/promote/{repo:str}/{name:str}/{local:str}", **_CHANGE)
async def promote(hub: HubPart, request: HttpRequest, repo: str, name: str, local: str) -> Changed:
    source = _flist(repo, name)
    target = _flist(hub.user(request), local)
    return await _do(hub.catalog.promote, source, target, name=local, target=source)


@route("/api/flist/me/{name:str}/link/{new:str}", **_CHANGE)
async def link(hub: HubPart, request: HttpRequest, name: str, new: str) -> Changed:
    user = hub.user(request)
    target = _flist(user, name)
    return await _do(hub.catalog.link, _flist(user, new), target, name=new, target=target)


@route("/api/flist/me/{name:str}/crosslink/{repo:str}/{file:str}", **_CHANGE)
async def crosslink(hub: HubPart, request: HttpRequest, name: str, repo: str, file: str) -> Changed:
    target = _flist(repo, file)
    return await _do(hub.catalog.link, _flist(hub.user(request), name), target, name=name, target=target)


@route("/api/flist/me/{tag:str}/{name:str}/tag/{repo:str}/{file:str}", **_CHANGE)
async def tag(hub: HubPart, request: HttpRequest, tag: str, name: str, repo: str, file: str) -> Changed:
    target, place = _flist(repo, file), _tag(hub.user(request), tag)
    return await _do(hub.catalog.tag, place, names.flist(name), target, name=f"{tag}/{name}", target=target)


@delete("/api/flist/me/{tag:str}/{name:str}/tag/{repo:str}/{file:str}", status_code=200)
async def untag(hub: HubPart, request: HttpRequest, tag: str, name: str, repo: str, file: str) -> Changed:
    _flist(repo, file)
    return await _do(hub.catalog.untag, _tag(hub.user(request), tag), names.flist(name), name=f"{tag}/{name}")


@route("/api/flist/me/{name:str}/crosstag/{repo:str}/{tag:str}", **_CHANGE)
async def crosstag(hub: HubPart, request: HttpRequest, name: str, repo: str, tag: str) -> Changed:
    target = _tag(repo, tag)
    return await _do(hub.catalog.link_tag, _tag(hub.user(request), name), target, name=name, target=target)


HANDLERS: Final[Sequence[Any]] = (remove, rename, promote, link, crosslink, tag, untag, crosstag)
