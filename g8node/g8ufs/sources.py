"""Which stores have an flist's chunks (async).

`storage` of the call; else the node's default; else all that is known of the flist, asked in this order:
its router, its metadata key `backend` (an address, or the JSON of the original's tools), then scheme, host
and port of the flist's URL (a Hub serves `http://hub/<repo>/<name>.flist` and `http://hub/chunks/`). What
an flist says comes from strangers: it may name stores on the network, never files of this machine or
stores to write to. A local flist without any is an InvalidArgument.

`storage` is addresses, `[xx-xx=]url`, separated by spaces and asked in this order; `router:///path` in it
stands for the pools of a router.yaml.
"""

import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

from g8node.errors import InvalidArgument, NotFound
from g8node.flist.image import ImageRef
from g8node.g8ufs.downloads import local_path
from g8node.linux.textfiles import read_text
from g8node.runtime import blocking
from g8node.store.locate import is_remote
from g8node.wire.router import (
    ROUTER_BYTES_MAX,
    Router,
    Rule,
    merged,
    of_stores,
    parse_router,
    parse_store,
    without_credentials,
)

_ROUTER: Final = "router://"


async def sources(flist: str, storage: str, ref: ImageRef) -> Router | None:
    """Where to look for the chunks; None for an flist without chunks that names no store."""
    routers = [await _given(word) for word in storage.split()] or [*_known(flist, ref)]
    if routers:
        return merged(routers)
    if ref.plan.chunk_count:
        raise InvalidArgument(
            f"flist {flist}: no chunk store is known", hint="give storage, as dir:///path or http://hub"
        )
    return None


async def _given(word: str) -> Router:
    if not word.startswith(_ROUTER):
        return of_stores([parse_store(word)])
    path = word.removeprefix(_ROUTER)
    if not path.startswith("/"):
        raise InvalidArgument(f"storage {word}: expected router:///path")
    try:
        return parse_router(await blocking.run("disk", read_text, path, ROUTER_BYTES_MAX))
    except FileNotFoundError:
        raise NotFound(f"storage {word}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"storage {word}: {error}") from None


def _known(flist: str, ref: ImageRef) -> Iterator[Router]:
    """One router for each thing that the flist says."""
    router = ref.plan.router
    if router is not None:
        pools = {
            name: tuple(rule for rule in rules if is_remote(rule.url)) for name, rules in router.pools.items()
        }
        if any(pools[name] for name in router.lookup):
            yield Router(pools, router.lookup)
    urls = [_address(ref.plan.info.get("backend", ""))]
    if local_path(flist) is None:
        parts = urlsplit(flist)
        urls.append(f"{parts.scheme}://{parts.netloc}")
    for url in dict.fromkeys(urls):
        if is_remote(url):
            yield of_stores([parse_store(url)])


def _address(backend: str) -> str:
    """An address; the original's JSON of `host`, `port`, `namespace` and `password` is a 0-db (spec 1.6)."""
    if not backend.startswith("{"):
        return backend
    try:
        said: dict[str, Any] = json.loads(backend)
    except ValueError:
        return ""
    host, port, namespace, password = (said.get(key) for key in ("host", "port", "namespace", "password"))
    if not isinstance(host, str) or not host or not isinstance(port, int | str):
        return ""
    secret = f":{quote(str(password), safe='')}@" if password else ""
    return f"zdb://{secret}{host}:{port}/{quote(str(namespace or ''), safe='')}"


def shown(router: Router | None) -> str:
    """The addresses in the order in which they are asked, without passwords."""
    if router is None:
        return ""
    rules = [rule for name in router.lookup for rule in router.pools[name]]
    return " ".join(dict.fromkeys(_shown(rule) for rule in rules))


def _shown(rule: Rule) -> str:
    url = without_credentials(rule.url)
    return f"{rule.range}={url}" if rule.range.first else url
