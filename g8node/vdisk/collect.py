"""Collection of content that no vdisk refers to any more (blocking steps; `Vdisks` paces them).

Mark: all mappings are walked, and what is referred to anew meanwhile is marked as it happens. Settle: a
checkpoint, so that no power loss brings back a reference to what is dead now, and a wait for those who read
before it. Sweep: entries of dead content become DEAD, which is synced, so that nobody finds the content
any more; then it is punched, then the entry; a file of slots that has none left is removed. Nothing is
kept of all that: a collection that was killed is begun anew, and meets its DEAD entries again.
"""

from typing import Final

from g8node.vdisk.entries import CLEAR, ENTRY, dead, unpack
from g8node.vdisk.mapping import WIDTH, Mapping
from g8node.vdisk.pool import Pool, runs
from g8node.vdisk.segments import GROUP, SLOTS

_GROUPS: Final = 64
_EMPTY: Final = bytes(GROUP * ENTRY)
_BUCKET_BYTES: Final = 4096


class Collection:
    """One run over one pool. `freed` and `kept` count blocks."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._marks = pool.mark()
        self._used: set[int] = set()
        self.freed = self.kept = 0

    def begin(self) -> None:
        """What is in the log already is older than the marks: bring it into the mappings."""
        self._pool.checkpoint()

    def mark(self, number: int, at: int) -> tuple[int | None, int]:
        """A piece of a vdisk's mapping: where to go on, and bytes that were read."""
        with self._pool.settling:
            mapping = self._pool.mapping(number)
            return self._mark(mapping, at) if mapping is not None else (None, 0)

    def mark_stray(self, mapping: Mapping, at: int) -> tuple[int | None, int]:
        """The same for a mapping that the pool does not have."""
        with self._pool.settling:
            return self._mark(mapping, at)

    def _mark(self, mapping: Mapping, at: int) -> tuple[int | None, int]:
        piece = mapping.pieces(at)
        if piece is None:
            return None, 0
        end, values = piece
        self._marks.update(values)
        return end, len(values) * WIDTH

    def settle(self) -> None:
        self._pool.checkpoint()
        self._pool.grace.wait()

    def groups(self) -> list[tuple[int, int]]:
        """(first slot, number of slots) of the pieces to sweep."""
        step = min(_GROUPS * GROUP, SLOTS)
        return [
            (first, min(step, -(-self._marks.limit // GROUP) * GROUP - first))
            for number in self._pool.segments.numbers()
            for first in range(number * SLOTS, (number + 1) * SLOTS, step)
            if first < self._marks.limit
        ]

    def sweep(self, first: int, count: int) -> int:
        """Some groups; bytes that were read or given back."""
        plan: list[tuple[int, list[int]]] = []
        moved = 0
        for group in range(first, first + count, GROUP):
            if self._pool.segments.entries(group) != _EMPTY:
                plan.append((group, self._condemn(group)))
                moved += GROUP * ENTRY
        if any(slots for _, slots in plan):
            self._pool.sync()
            for _, slots in plan:
                for slot, number in runs(slots):
                    self._pool.segments.punch(slot, number)
                    self._pool.segments.forget(slot, number)
                    moved += number * self._pool.block_size
        return moved

    def _condemn(self, group: int) -> list[int]:
        """Make the entries of a group's dead slots DEAD; the slots."""
        found: list[int] = []
        segments = self._pool.segments
        with self._pool.lock:
            entries = bytearray(segments.entries(group))
            for slot in range(group, min(group + GROUP, self._marks.limit)):
                at = (slot - group) * ENTRY
                entry = unpack(slot, bytes(entries[at : at + ENTRY]))
                if entry is None:
                    continue
                content = entry.kind != CLEAR and entry.ref == slot
                if content and not self._marks.is_dead(slot):
                    self.kept += 1
                    self._used.add(slot // SLOTS)
                    continue
                self.freed += content
                entries[at : at + ENTRY] = dead(slot, content=content)
                found.append(slot)
            if found:
                segments.set_entries(group, bytes(entries))
        return found

    def drop_segments(self) -> None:
        """Remove the files of slots in which nothing was kept, once all of `groups` are swept."""
        for number in self._pool.segments.numbers():
            if (number + 1) * SLOTS <= self._marks.limit and number not in self._used:
                self._pool.drop_segment(number)

    def buckets(self) -> int:
        return self._pool.hints.buckets

    def drop_hints(self, bucket: int) -> int:
        """Of one bucket; bytes that were read."""
        with self._pool.settling, self._pool.lock:
            self._pool.hints.drop(bucket, self._marks.is_dead)
        return _BUCKET_BYTES

    def end(self) -> None:
        self._pool.marks = None
