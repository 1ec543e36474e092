"""The listing pages (async): rendered on the server, no script, usable on a phone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import jinja2
from litestar import Response, get

from g8node.runtime import blocking
from g8tools.hub import names
from g8tools.hub.chunks import HubPart
from g8tools.hub.repository import Entry
from g8tools.hub.service import HttpRequest, Hub

_NEWEST: Final = 10
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_HTML: Final = "text/html"


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _when(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


_templates: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("g8tools.hub"), autoescape=True, undefined=jinja2.StrictUndefined
)
_templates.filters.update(size=_size, when=_when)


@get("/")
async def index(hub: HubPart, request: HttpRequest) -> Response[bytes]:
    text = await blocking.run("disk", _index, hub, str(request.base_url).rstrip("/"))
    return Response(text, headers=_HEADERS, media_type=_HTML)


@get("/{repo:str}")
async def repository(hub: HubPart, request: HttpRequest, repo: str) -> Response[bytes]:
    base = str(request.base_url).rstrip("/")
    text = await blocking.run("disk", _repository, hub, base, names.repository(repo))
    return Response(text, headers=_HEADERS, media_type=_HTML)


def _index(hub: Hub, base: str) -> bytes:
    groups = []
    for found in hub.catalog.repositories():
        newest = sorted(_entries(hub, found.name), key=lambda entry: entry.updated, reverse=True)
        groups.append((found.name, found.count, newest[:_NEWEST]))
    return _render(hub, "g8node Hub", base, groups)


def _repository(hub: Hub, base: str, repo: str) -> bytes:
    entries = _entries(hub, repo)
    return _render(hub, repo, base, [(repo, len(entries), entries)])


def _entries(hub: Hub, repo: str) -> list[Entry]:
    """Flists and links to them."""
    return [one.entry for one in hub.catalog.listed(repo) if one.entry]


def _render(hub: Hub, title: str, base: str, groups: Sequence[tuple[str, int, Sequence[Entry]]]) -> bytes:
    page = _templates.get_template("list.html")
    return page.render(title=title, base=base, groups=groups, read_only=not hub.tokens).encode()


HANDLERS: Final[Sequence[Any]] = (index, repository)
