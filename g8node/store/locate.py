"""From the URL of a chunk store to the store, with the decorators that its kind needs (async)."""

from urllib.parse import urlsplit

from g8node.errors import InvalidArgument
from g8node.store.base import Store
from g8node.store.http import HttpStore
from g8node.store.limited import LimitedStore
from g8node.store.local import LocalStore
from g8node.store.retrying import RetryingStore


def open_store(url: str, *, token: str = "", retries: int = 3) -> Store:
    """`http(s)://host/base` or `dir:///path`. Nothing is connected yet. InvalidArgument names the URL.

    Ids are checked by whoever decodes the chunk (`ChunkRef.decode`); wrap in VerifiedStore otherwise.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidArgument(f"chunk store {url!r} is no URL: {error}") from error
    if parts.scheme in ("http", "https") and parts.netloc:
        return RetryingStore(LimitedStore(HttpStore(url, token=token)), attempts=retries)
    if parts.scheme == "dir" and not parts.netloc and parts.path.startswith("/"):
        return LocalStore(parts.path)
    raise InvalidArgument(f"chunk store {url!r}: expected http://host/..., https://host/... or dir:///path")
