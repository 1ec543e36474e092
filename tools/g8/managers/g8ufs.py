"""g8ufs.*: mounted flists and the node's chunk cache (pure)."""

from collections.abc import Sequence
from typing import Any

from g8tools.g8.flow import Flow, M, call
from g8tools.g8.managers.manager import Manager


class G8ufs(Manager[M]):
    """Mounted flists and the chunks that the node keeps of them."""

    @call
    def list(self) -> Flow[list[dict[str, Any]]]:
        """The mounted flists: where, from which stores, and what their readers asked for."""
        return self._json("g8ufs.list")

    @call
    def stats(self) -> Flow[dict[str, Any]]:
        """Reads, fetches, the cache and the stores, all mounts together."""
        return self._json("g8ufs.stats")

    @call
    def prefetch(self, flist: str, storage: str = "", paths: Sequence[str] = ()) -> Flow[dict[str, Any]]:
        """Fetch an flist, and its chunks (of `paths`): `{chunks, size_bytes, cached, failed, error}`"""
        return self._json("g8ufs.prefetch", flist=flist, storage=storage, paths=paths)

    @call
    def pin(self, flist: str) -> Flow[dict[str, Any]]:
        """Never evict an flist and its chunks: `{digest, chunks, size_bytes}`."""
        return self._json("g8ufs.pin", flist=flist)

    @call
    def unpin(self, flist: str) -> Flow[bool]:
        """Undo `pin`, by the flist or its digest; False when it was not pinned."""
        return self._json("g8ufs.unpin", flist=flist)

    @call
    def profile(self, flist: str) -> Flow[dict[str, Any]]:
        """What a start of the flist reads first: `{digest, chunks, profile}`, the last in base64."""
        return self._json("g8ufs.profile", flist=flist)

    @call
    def drop(self) -> Flow[int]:
        """Empty the chunk cache but for what is pinned; the bytes that became free."""
        return self._json("g8ufs.drop")
