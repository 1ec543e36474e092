"""A content pool (blocking): the blocks of all deduplicated vdisks of one block size, each content once.

    state.json    where the log begins that the vdisks' mappings do not have yet
    seg.000000    slots: entries of the log, and content (segments.py)
    hints         digests and slots (hints.py)

Theory of operation. A write appends slots: new content with its entry, or an entry alone for content that is
there already. That is one or two sequential writes a batch, after which the kernel has all of it: it survives
the end of the process. A flush syncs the segments, for all vdisks at once. What the log says is also in
memory (mapping.py); a checkpoint syncs the segments, writes the mappings into their files, syncs those, and
moves the beginning of the log. So a mapping's file never refers to what a power loss could take.

After a crash the log is replayed: entries with a good checksum, whose content has the digest that they tell,
in the order of their slots. Others were not flushed. No slot is appended beyond `window` slots from the
log's beginning, so that everything a crash can have left lies in there, in whatever part; the next slots are
taken from behind it.
"""

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Table
from itertools import groupby
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from g8node.errors import InvalidArgument, Unavailable
from g8node.linux.diskfile import Disk, read_whole, write_whole
from g8node.vdisk.entries import CLEAR, ENTRY, SET, Entry, pack, unpack
from g8node.vdisk.grace import Grace
from g8node.vdisk.hints import Hints
from g8node.vdisk.mapping import CLEARED, Mapping
from g8node.vdisk.marks import Marks
from g8node.vdisk.segments import GROUP, Buffer, Segments
from g8node.wire.kernels import blake2b_each

_STATE: Final = "state.json"
_HINTS: Final = "hints"
_STATE_BYTES_MAX: Final = 4096
_WINDOW_BYTES: Final = 512 << 20
_WINDOW_SLOTS: Final = 1 << 17
_NO_DIGEST: Final = bytes(32)
_EMPTY: Final = bytes(GROUP * ENTRY)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class State(Struct, frozen=True):
    """`log`: the slot where it begins."""

    block_size: int
    log: Annotated[int, Meta(ge=GROUP, lt=1 << 60)] = GROUP
    version: Literal[1] = 1


def runs(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of consecutive ones; `slots` ascend."""
    if isinstance(slots, range):
        yield slots.start, len(slots)
        return
    for _, run in groupby(enumerate(slots), key=lambda one: one[1] - one[0]):
        found = [slot for _, slot in run]
        yield found[0], len(found)


class Pool:
    """See the module. `find` opens the mapping of a vdisk by its number, None for one that is gone.

    `keys`: for digests and for content (see seal.py), where that lies encrypted.
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        block_size: int,
        find: Callable[[int], Mapping | None],
        keys: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self._disk = disk
        self._path = path
        self.block_size = block_size
        self._find = find
        self._digest_key, content_key = keys
        self.segments = Segments(disk, path, block_size, content_key)
        self.grace = Grace()
        self.marks: Marks | None = None  # while a collection runs
        self.lock = threading.Lock()  # appends, and changes of mappings
        self.settling = threading.Lock()  # checkpoints; taken before `lock`
        self.window = min(_WINDOW_SLOTS, max(GROUP, _WINDOW_BYTES // block_size))
        self._mappings: dict[int, Mapping] = {}
        self._recent: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}
        self._start = self._next = GROUP
        self.failed: BaseException | None = None

    # Opening and closing

    def open(self) -> None:
        """Replay the log. InvalidArgument and Unavailable for what is damaged."""
        names = self._disk.names(self._path)
        if _STATE not in names:
            if any(name.startswith("seg.") for name in names):
                raise Unavailable(f"{self._path}/{_STATE}: missing")
            self._save(GROUP)
        self._start = self._next = self._load().log
        self.hints = Hints(self._disk.open(f"{self._path}/{_HINTS}", create=_HINTS not in names))
        self.segments.open()
        if self._replay():
            self._next = self._start + self.window
            self.checkpoint()

    def _load(self) -> State:
        path = f"{self._path}/{_STATE}"
        try:
            state = msgspec.json.decode(read_whole(self._disk, path, _STATE_BYTES_MAX), type=State)
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"{path}: {error}") from error
        if state.block_size != self.block_size:
            raise InvalidArgument(f"{path}: block_size: expected {self.block_size}")
        return state

    def _save(self, log: int) -> None:
        write_whole(self._disk, f"{self._path}/{_STATE}", msgspec.json.encode(State(self.block_size, log)))

    def close(self) -> None:
        """With a checkpoint, so that the next one to open it has nothing to replay."""
        try:
            if self.failed is None:
                self.checkpoint()
        finally:
            for mapping in self._mappings.values():
                mapping.close()
            self.segments.close()
            self.hints.close()

    def mapping(self, number: int) -> Mapping | None:
        """Of a vdisk, the same one for all; None when it is gone."""
        if (mapping := self._mappings.get(number)) is None and (mapping := self._find(number)) is not None:
            with self.lock:
                kept = self._mappings.setdefault(number, mapping)
            if kept is not mapping:
                mapping.close()
            return kept
        return mapping

    def resize(self, number: int, blocks: int) -> None:
        """The vdisk has grown, whether or not somebody has it open."""
        with self.lock:
            if mapping := self._mappings.get(number):
                mapping.resize(blocks)

    def forget(self, number: int) -> None:
        """The vdisk is being deleted."""
        with self.settling, self.lock:
            if mapping := self._mappings.pop(number, None):
                mapping.close()

    def _replay(self) -> bool:
        """Whether the log had anything. What cannot be used of it is cleared away."""
        found = False
        good: set[int] = set()
        for group in range(self._start // GROUP * GROUP, self._start + self.window, GROUP):
            first, last = max(group, self._start), group + GROUP
            entries = self.segments.entries(group)
            useless: Sequence[int] = range(first, last)
            if entries != _EMPTY:
                found = True
                useless = [
                    slot for slot in useless if not self._redo(slot, entries[(slot - group) * ENTRY :], good)
                ]
            for slot, count in runs(useless):
                self.segments.discard(slot, count)
        return found

    def _redo(self, slot: int, data: bytes, good: set[int]) -> bool:
        """Whether the entry at the beginning of `data` was good, as `good` slots of content are."""
        entry = unpack(slot, data[:ENTRY])
        if entry is None or not self._is_good(slot, entry, good):
            return False
        if (mapping := self.mapping(entry.vdisk)) is None:
            return True
        if entry.kind == SET:
            mapping.set(entry.block, entry.ref)
        elif entry.kind == CLEAR and entry.ref == 1:
            mapping.set(entry.block, CLEARED)
        elif entry.kind == CLEAR:
            mapping.clear(entry.block, min(entry.ref, mapping.blocks - entry.block))
        return True

    def _is_good(self, slot: int, entry: Entry, good: set[int]) -> bool:
        """Whether all that an entry needs is there."""
        if entry.kind == SET and entry.ref == slot:
            if self.digest(slot) != entry.digest:
                return False
            good.add(slot)
            self._recent[entry.digest] = slot
            return True
        return entry.kind != SET or entry.ref < self._start or entry.ref in good

    def digest(self, slot: int) -> bytes:
        """Of what a slot holds now."""
        data = bytearray(self.block_size)
        self.segments.read(slot, 0, memoryview(data))
        return self._digest_of(data)

    def _digest_of(self, data: Buffer) -> bytes:
        (digest,) = blake2b_each([data], self._digest_key)
        return digest

    def content(self, slot: int) -> Entry | None:
        """The entry of a slot, if it is one of content."""
        entry = unpack(slot, self.segments.entry(slot))
        return entry if entry is not None and entry.kind == SET and entry.ref == slot else None

    # Changing

    def _check(self) -> None:
        if self.failed is not None:
            raise Unavailable(f"an earlier write failed: {self.failed}", hint="open the vdisks anew")

    def put(
        self, mapping: Mapping, blocks: Table[int, Buffer | None], expected: Table[int, int] | None = None
    ) -> bool:
        """Give blocks new content, None for zeros; at most a quarter of `window` of them.

        False, and nothing is done, when one of the blocks in `expected` has another value by now.
        """
        contents = {block: data for block, data in blocks.items() if data is not None}
        digests = dict(zip(contents, blake2b_each(list(contents.values()), self._digest_key), strict=True))
        unknown = {one for one in digests.values() if one not in self._recent and one not in self._older}
        hinted = self.hints.find_many(list(unknown))
        while True:
            with self.lock:
                self._check()
                if expected and any(mapping.get(block) != value for block, value in expected.items()):
                    return False
                if self._next + len(blocks) < self._start + self.window:
                    self._append(mapping, blocks, digests, hinted)
                    break
            self.checkpoint()
        return True

    def _append(
        self,
        mapping: Mapping,
        blocks: Table[int, Buffer | None],
        digests: Table[int, bytes],
        hinted: Table[bytes, list[int]],
    ) -> None:
        new: list[tuple[int, Buffer]] = []
        known: list[tuple[int, int]] = []
        cleared: list[int] = []
        first = self._next
        for block, data in blocks.items():
            if data is None:
                if not mapping.is_zero(block):
                    cleared.append(block)
            elif (slot := self._lookup(digests[block], hinted)) is not None:
                known.append((block, slot))
            else:
                self._recent[digests[block]] = first + len(new)
                new.append((block, data))
        values = [(block, first + at) for at, (block, _) in enumerate(new)] + known
        lines = [(SET, block, ref, digests[block]) for block, ref in values]
        lines += [(CLEAR, block, 1, _NO_DIGEST) for block in cleared]
        try:
            self._log(mapping, lines, [data for _, data in new])
        except BaseException:
            for block, _ in new:
                self._recent.pop(digests[block], None)
            raise
        for block, slot in values:
            mapping.set(block, slot)
        for block in cleared:
            mapping.set(block, CLEARED)

    def _log(self, mapping: Mapping, lines: list[tuple[int, int, int, bytes]], data: list[Buffer]) -> None:
        """Append; the slots are used up also when that fails."""
        first, number = self._next, mapping.number
        self._next += len(lines)
        entries = [
            pack(first + at, kind, number, block, ref, digest)
            for at, (kind, block, ref, digest) in enumerate(lines)
        ]
        self.segments.append(first, entries, data)

    def _lookup(self, digest: bytes, hinted: Table[bytes, list[int]]) -> int | None:
        """The slot that has a content. What the hints say was asked before, without the lock."""
        slot = self._recent.get(digest) or self._older.get(digest)
        if slot is None:
            for hint in hinted[digest] if digest in hinted else self.hints.find(digest):
                entry = self.content(hint)
                if entry is not None and entry.digest == digest:
                    slot = hint
                    break
        if slot is not None and self.marks is not None:
            self.marks.add(slot)
        return slot

    def clear(self, mapping: Mapping, first: int, count: int) -> None:
        """Make a long range read as zeros, with one entry."""
        with self.settling:
            self._checkpoint()  # nothing is frozen afterwards
            with self.lock:
                self._check()
                self._log(mapping, [(CLEAR, first, count, _NO_DIGEST)], [])
                mapping.clear(first, count)

    # Making it last

    def sync(self) -> None:
        """All that was put before survives a power loss when this returns. The first failure is final."""
        self._check()
        try:
            self.segments.sync()
        except BaseException as error:
            self.failed = self.failed or error
            raise

    def checkpoint(self) -> None:
        """Bring the mappings' files up to date, and begin the log anew."""
        with self.settling:
            self._checkpoint()

    @property
    def due(self) -> bool:
        """Whether a checkpoint should be made beside the writers, before they have to wait for one."""
        return self._next - self._start > self.window // 4 and not self.settling.locked()

    def checkpoint_if_idle(self) -> None:
        """Unless one is being made. A full disk is told by writes, not here."""
        if self.settling.acquire(blocking=False):
            try:
                self._checkpoint()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
            finally:
                self.settling.release()

    def _checkpoint(self) -> None:
        self._check()
        with self.lock:
            slot = self._next
            if slot == self._start:
                return
            changed = [mapping for mapping in self._mappings.values() if mapping.freeze()]
            self._older, self._recent = self._older | self._recent, {}
        self.sync()
        for mapping in changed:
            mapping.write_frozen()
        self.hints.add(self._older.items())
        try:
            for mapping in changed:
                mapping.sync()
            self._save(slot)
        except BaseException as error:
            self.failed = self.failed or error
            raise
        with self.lock:
            for mapping in changed:
                mapping.thaw()
            self._older = {}
            self._start = slot

    # What a collection asks

    def drop_segment(self, number: int) -> None:
        """Remove a file of slots that nobody refers to, and nobody will."""
        self.segments.remove(number, self.grace.wait)

    def mark(self) -> Marks:
        """Begin to keep an eye on what is referred to anew."""
        with self.lock:
            self.marks = Marks(self._next)
            return self.marks
