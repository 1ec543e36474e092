"""From the address of a chunk store to the store (async): what each scheme and option means.

    dir:///path
    http(s)://[user:password@]host[:port]/base        a Hub, or a plain file server
    redis[+tls]://[user][:password]@host[:6379][/db][?hash=NAME]      also rediss:// and ardb://[:16379]
    redis+unix:///path/of.sock[?hash=NAME]
    redis+cluster[+tls]://[user][:password]@host[:6379][,host…]
    zdb[+tls]://[token][:password]@host[:9900][/namespace]
    s3[+tls]://KEY:SECRET@host[:port]/bucket[/prefix][?region=NAME]   also s3s:// and s3s+tls://

Options of all servers: `connect_timeout`, `timeout` (seconds of silence), `connections`, `ca` (a file with
the certificates to trust). A redis user without password is sent as password, as old routers mean it.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Final

from g8node.errors import InvalidArgument
from g8node.runtime.resp import Arg
from g8node.store.base import Store
from g8node.store.http import HttpStore
from g8node.store.limited import LimitedStore
from g8node.store.local import LocalStore
from g8node.store.retrying import RetryingStore
from g8node.store.url import StoreUrl, parse_url
from g8node.store.web import WebAccess

PORTS: Final = {
    "dir": 0,
    "http": 80,
    "https": 443,
    "redis": 6379,
    "rediss": 6379,
    "ardb": 16379,
    "redis+unix": 0,
    "redis+cluster": 6379,
    "zdb": 9900,
    "s3": 80,
    "s3s": 443,
}
_OWN: Final = {"dir", "redis+unix"}
_SERVER_OPTIONS: Final = ("connect_timeout", "timeout", "connections", "ca")
_CONNECTIONS_MAX: Final = 64
_TIMEOUT_MAX_S: Final = 3600.0


def open_store(url: str, *, token: str = "", retries: int = 3) -> Store:
    """The store of one address, retrying and with bounded requests; nothing is connected yet.

    `token` is for a Hub. InvalidArgument names the address, without its password. Ids are checked by whoever
    decodes the chunk (`ChunkRef.decode`); wrap in VerifiedStore otherwise.
    """
    store = connect(url, token=token)
    return store if isinstance(store, LocalStore) else RetryingStore(LimitedStore(store), attempts=retries)


def connect(url: str, *, token: str = "") -> Store:
    """The bare store of one address."""
    place = parse_url(url, ports=PORTS)
    return _OPENERS[place.scheme](place, token)


def is_remote(url: str) -> bool:
    """Whether it is an address that a stranger's flist may name: nothing of this machine's own files."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme.removesuffix("+tls") in PORTS.keys() - _OWN


def _directory(place: StoreUrl, _token: str) -> Store:
    place.check_options()
    if place.hosts or place.tls or not place.path.startswith("/"):
        raise InvalidArgument(f"chunk store {place.name}: expected dir:///path")
    return LocalStore(place.path)


def _http(place: StoreUrl, token: str) -> Store:
    place.check_options("connect_timeout", "timeout", "ca")
    if len(place.hosts) != 1 or place.tls:
        raise InvalidArgument(f"chunk store {place.name}: expected http(s)://host[:port]/base")
    headers = {}
    if place.user or place.password:
        basic = base64.b64encode(f"{place.user}:{place.password}".encode()).decode()
        headers["Authorization"] = f"Basic {basic}"
    return HttpStore(place.name, token=token, access=_web_access(place, headers))


def _s3(place: StoreUrl, _token: str) -> Store:
    from g8node.store.s3 import S3Store
    from g8node.wire.sigv4 import Keys

    place.check_options("region", "connect_timeout", "timeout", "ca")
    if len(place.hosts) != 1 or not place.user or not place.password:
        raise InvalidArgument(f"chunk store {place.name}: expected s3://KEY:SECRET@host[:port]/bucket")
    is_tls = place.tls or place.scheme == "s3s"
    host, port = place.hosts[0]
    host = f"[{host}]" if ":" in host else host
    # s3:// is rfs' scheme: its port is that of http, or of https with TLS.
    port = 443 if is_tls and port == PORTS["s3"] else port
    authority = host if port == (443 if is_tls else 80) else f"{host}:{port}"
    region = place.options.get("region") or "us-east-1"
    keys = Keys(place.user, place.password, region)
    origin = f"http{'s' * is_tls}://{authority}"
    return S3Store(place.name, origin, place.path, keys, _web_access(place, {}))


def _web_access(place: StoreUrl, headers: Mapping[str, str]) -> WebAccess:
    return WebAccess(
        headers,
        place.options.get("ca", ""),
        _seconds(place, "connect_timeout", 5.0),
        _seconds(place, "timeout", 10.0),
    )


def _redis(place: StoreUrl, _token: str) -> Store:
    place.check_options("hash", *_SERVER_OPTIONS)
    path = place.path.strip("/")
    handshake = [*_auth(place)]
    if place.scheme in ("redis", "rediss") and path:
        if not path.isdigit():
            raise InvalidArgument(f"chunk store {place.name}: database {path[:40]!r}, expected a number")
        handshake.append(("SELECT", path))
    return _resp_store(place, handshake, hash_name=place.options.get("hash", ""))


def _redis_unix(place: StoreUrl, _token: str) -> Store:
    place.check_options("hash", *_SERVER_OPTIONS)
    if place.hosts or place.tls or not place.path.startswith("/"):
        raise InvalidArgument(f"chunk store {place.name}: expected redis+unix:///path")
    return _resp_store(place, _auth(place), hash_name=place.options.get("hash", ""))


def _zdb(place: StoreUrl, _token: str) -> Store:
    """The user is the token of AUTH, the password that of the namespace; without one it is for AUTH."""
    place.check_options(*_SERVER_OPTIONS)
    namespace = place.path.strip("/")
    token, secret = place.user, place.password
    if not namespace and not token:
        token, secret = secret, ""
    handshake: list[tuple[Arg, ...]] = [("AUTH", token)] if token else []
    if namespace:
        handshake.append(("SELECT", namespace, secret) if secret else ("SELECT", namespace))
    return _resp_store(place, handshake, dialect="zdb")


def _cluster(place: StoreUrl, _token: str) -> Store:
    place.check_options(*_SERVER_OPTIONS)
    return _resp_store(place, _auth(place), dialect="cluster")


def _auth(place: StoreUrl) -> list[tuple[Arg, ...]]:
    if place.user and place.password:
        return [("AUTH", place.user, place.password)]
    return [("AUTH", place.user or place.password)] if place.user or place.password else []


def _resp_store(
    place: StoreUrl, handshake: list[tuple[Arg, ...]], *, dialect: str = "", hash_name: str = ""
) -> Store:
    from g8node.store.cluster import Cluster
    from g8node.store.redis import Dialect, Hash, Plain, RedisStore, Zdb
    from g8node.store.servers import Access, Server, Servers

    access = Access(
        tuple(handshake),
        tls=place.tls or place.scheme == "rediss",
        authority=place.options.get("ca", ""),
        connect_timeout_s=_seconds(place, "connect_timeout", 3.0),
        read_timeout_s=_seconds(place, "timeout", 10.0),
        connections=_count(place, "connections", 2, _CONNECTIONS_MAX),
    )
    if dialect == "cluster":
        if not place.hosts:
            raise InvalidArgument(f"chunk store {place.name}: expected a host")
        return RedisStore(place.name, Cluster(place.hosts, access), Plain(batches=False))
    if place.scheme != "redis+unix" and len(place.hosts) != 1:
        raise InvalidArgument(
            f"chunk store {place.name}: expected one host", hint="redis+cluster:// takes more"
        )
    server: Servers = Server(place.hosts[0] if place.hosts else place.path, access)
    words: Dialect = Zdb() if dialect == "zdb" else Hash(hash_name) if hash_name else Plain()
    return RedisStore(place.name, server, words)


def _seconds(place: StoreUrl, option: str, default: float) -> float:
    text = place.options.get(option)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _TIMEOUT_MAX_S:
        raise InvalidArgument(
            f"chunk store {place.name}: {option}={text[:40]!r}, expected seconds up to 3600"
        )
    return seconds


def _count(place: StoreUrl, option: str, default: int, largest: int) -> int:
    text = place.options.get(option, str(default))
    if not text.isdigit() or not 0 < int(text) <= largest:
        raise InvalidArgument(f"chunk store {place.name}: {option}={text[:40]!r}, expected 1..{largest}")
    return int(text)


_OPENERS: Final[dict[str, Callable[[StoreUrl, str], Store]]] = {
    "dir": _directory,
    "http": _http,
    "https": _http,
    "redis": _redis,
    "rediss": _redis,
    "ardb": _redis,
    "redis+unix": _redis_unix,
    "redis+cluster": _cluster,
    "zdb": _zdb,
    "s3": _s3,
    "s3s": _s3,
}
