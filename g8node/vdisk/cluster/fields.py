"""What a vdisk keeps on servers (pure): numbered fields of its hash, and content under its hashes."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol

from g8node.errors import Unavailable


class Fields(Protocol):
    """`Mirror` over single servers, `SlotMirror` over a Redis Cluster. Failures are by item."""

    @property
    def late(self) -> bool:
        """Whether some may take long to be read."""

    def lane(self, index: int) -> int:
        """Of a field, or the first byte of a hash: what has the same lane is likely to be on one server."""

    async def get(self, fields: Sequence[int]) -> dict[int, bytes | Unavailable | None]: ...

    async def get_contents(self, hashes: Sequence[bytes]) -> dict[bytes, bytes | Unavailable | None]: ...

    async def present(self, fields: Sequence[int]) -> dict[int, bool | Unavailable]: ...

    def fields(self) -> AsyncIterator[dict[int, bytes]]:
        """All there are, in pieces. Unavailable."""

    async def put(self, fields: Mapping[int, bytes | memoryview]) -> dict[int, Unavailable]: ...

    async def drop(self, fields: Iterable[int]) -> dict[int, Unavailable]: ...

    async def put_contents(
        self, contents: Mapping[bytes, bytes | memoryview]
    ) -> dict[bytes, Unavailable]: ...

    async def flush(self) -> None:
        """Unavailable."""

    def states(self) -> list[dict[str, Any]]:
        """Of every server."""

    async def close(self) -> None: ...
