"""The node's own table of chunk stores (pure): `/var/cache/router.yaml`, by way of filesystem.*.

The original called its FUSE file system zero-fs; hence the name. `{pools: {name: {"00:FF": url}}, lookup:
[names], cache: [names]}`; what is mounted later is looked for there first.
"""

import io
from typing import Any, Final, overload

import msgspec

from g8node.errors import InvalidArgument
from g8tools.g8.base import BaseClient
from g8tools.g8.flow import Asyncio, Blocking, Flow, M, call
from g8tools.g8.managers.filesystem import Filesystem
from g8tools.g8.managers.manager import Manager

PATH: Final = "/var/cache/router.yaml"
Table = dict[str, Any]

_SHAPE: Final = dict[str, dict[str, dict[str, str]] | list[str]]
_EMPTY: Final[Table] = {"pools": {}, "lookup": [], "cache": []}


class _Config:
    """`zfs.config`: the table when read; setting it (blocking clients) writes it."""

    @overload
    def __get__(self, owner: "ZFS[Blocking]", kind: Any = None) -> Table: ...
    @overload
    def __get__(self, owner: "ZFS[Asyncio]", kind: Any = None) -> Any: ...
    def __get__(self, owner: "ZFS[Any]", kind: Any = None) -> Any:
        return self if owner is None else owner.get_config()

    def __set__(self, owner: "ZFS[Blocking]", table: Table) -> None:
        owner.set_config(table)


class ZFS(Manager[M]):
    """`config`, or `get_config` and `set_config`, which asyncio clients can await."""

    config = _Config()

    def __init__(self, client: BaseClient[M]) -> None:
        super().__init__(client)
        self._files: Filesystem[M] = Filesystem(client)

    @call
    def get_config(self) -> Flow[Table]:
        """The table; an empty one when there is none."""
        return self._get()

    @call
    def set_config(self, table: dict[str, Any]) -> Flow[None]:
        """Replace the table. What is mounted already stays as it is."""
        return self._set(table)

    @call
    def purge(self) -> Flow[None]:
        """Remove the table."""
        return self._files.removal(PATH)

    @call
    def set_cache(self, url: str) -> Flow[None]:
        """Look for chunks in that store first, and keep there what was fetched elsewhere."""
        return self._set_cache(url)

    def _get(self) -> Flow[Table]:
        if not (yield from self._files.presence(PATH)):
            return {name: type(part)() for name, part in _EMPTY.items()}
        file = io.BytesIO()
        yield from self._files.downloading(PATH, file)
        try:
            return _EMPTY | msgspec.yaml.decode(file.getvalue(), type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"{PATH}: {error}") from error

    def _set(self, table: Table) -> Flow[None]:
        try:
            msgspec.convert(table, _SHAPE)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"config: {error}") from None
        unknown = {*table.get("lookup", ()), *table.get("cache", ())} - set(table.get("pools", ()))
        if unknown:
            raise InvalidArgument(f"config: {', '.join(sorted(unknown))}: no such pool")
        yield from self._files.uploading(PATH, io.BytesIO(msgspec.yaml.encode(table)))

    def _set_cache(self, url: str) -> Flow[None]:
        table = yield from self._get()
        table["pools"] = {**table["pools"], "cache": {"00:FF": url}}
        table["lookup"] = ["cache", *(name for name in table["lookup"] if name != "cache")]
        table["cache"] = ["cache"]
        yield from self._set(table)
