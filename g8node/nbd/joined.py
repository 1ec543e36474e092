"""Several owners of exports as one (async); of two exports of one name the first owner's is served."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from g8node.errors import NotFound
from g8node.nbd.export import Export, Exports
from g8node.wire.nbd_handshake import Description


class JoinedExports:
    """See `Exports`."""

    def __init__(self, *owners: Exports) -> None:
        self._owners = owners
        self._owner_of: WeakKeyDictionary[Export, Exports] = WeakKeyDictionary()

    def names(self) -> Sequence[tuple[str, str]]:
        found: dict[str, str] = {}
        for owner in self._owners:
            for name, description in owner.names():
                found.setdefault(name, description)
        return list(found.items())

    async def describe(self, name: str) -> Description:
        return await self._owner(name).describe(name)

    async def open(self, name: str) -> Export:
        owner = self._owner(name)
        export = await owner.open(name)
        self._owner_of[export] = owner
        return export

    def _owner(self, name: str) -> Exports:
        """The empty name means the only export there is."""
        for owner in self._owners:
            names = [one for one, _ in owner.names()]
            if name in names or (not name and len(names) == 1):
                return owner
        raise NotFound("no such export")

    async def leave(self, name: str, export: Export, *, in_order: bool) -> None:
        await self._owner_of[export].leave(name, export, in_order=in_order)
