"""Which slots of a pool somebody refers to, while a collection runs (pure)."""

from collections.abc import Iterable


class Marks:
    """Slots below `limit` that are referred to.

    `update` is for the one who walks the mappings, `add` for those who append, under the pool's lock.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bits = bytearray(limit // 8 + 1)
        self._added: set[int] = set()

    def add(self, slot: int) -> None:
        self._added.add(slot)

    def update(self, slots: Iterable[int]) -> None:
        bits, limit = self._bits, self.limit
        for slot in slots:
            if slot < limit:
                bits[slot >> 3] |= 1 << (slot & 7)

    def is_dead(self, slot: int) -> bool:
        return slot < self.limit and not self._bits[slot >> 3] >> (slot & 7) & 1 and slot not in self._added
