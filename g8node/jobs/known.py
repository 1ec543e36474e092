"""Finished jobs for as long as redis keeps their results: whose they were, and what they were (pure).

There may be tens of thousands, so an entry is small: fingerprint and time share one bytes object, owners are
shared, and the oldest are forgotten a generation at a time.
"""

from typing import Final

from msgspec import Struct

from g8node.jobs.model import Caller

FINGERPRINT_BYTES: Final = 16
_TIME_BYTES: Final = 4
_OWNERS_MAX: Final = 1000


class _Entry(Struct, frozen=True, gc=False):
    mark: bytes  # fingerprint, then the second until which the entry counts
    owner: Caller


class Known:
    """`most` entries, each for `ttl_s` seconds. Times are of any clock that begins near 0, in seconds."""

    def __init__(self, most: int, ttl_s: int) -> None:
        self._half = most // 2
        self._ttl_s = ttl_s
        self._young: dict[str, _Entry] = {}
        self._old: dict[str, _Entry] = {}
        self._turned_s = 0.0
        self._owners: dict[Caller, Caller] = {}

    def add(self, id: str, fingerprint: bytes, owner: Caller, now_s: float) -> None:
        if len(self._young) >= self._half or now_s - self._turned_s > self._ttl_s:
            self._old, self._young, self._turned_s = self._young, {}, now_s
        if len(self._owners) >= _OWNERS_MAX:
            self._owners.clear()
        until = (int(now_s) + self._ttl_s).to_bytes(_TIME_BYTES, "big")
        self._old.pop(id, None)
        self._young[id] = _Entry(fingerprint + until, self._owners.setdefault(owner, owner))

    def _find(self, id: str, now_s: float) -> _Entry | None:
        entry = self._young.get(id) or self._old.get(id)
        if entry is None or int.from_bytes(entry.mark[-_TIME_BYTES:], "big") <= now_s:
            return None
        return entry

    def owner(self, id: str, now_s: float) -> Caller | None:
        """Whose it was; None when it is not known (any more)."""
        entry = self._find(id, now_s)
        return None if entry is None else entry.owner

    def fingerprint(self, id: str, now_s: float) -> bytes | None:
        """What it was."""
        entry = self._find(id, now_s)
        return None if entry is None else entry.mark[:-_TIME_BYTES]
