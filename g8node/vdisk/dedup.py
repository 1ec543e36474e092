"""A deduplicated vdisk (async): see volume.py for its bytes, plain.py for what a client may rely on."""

from collections.abc import Sequence

from g8node.vdisk.plain import PlainVdisk
from g8node.vdisk.record import Record
from g8node.vdisk.volume import Volume


class DedupVdisk(PlainVdisk):
    """An export over a `Volume`, which it owns; the writes of a batch are put together."""

    def __init__(self, volume: Volume, record: Record) -> None:
        super().__init__(volume, record, lanes=2)
        self._volume = volume

    def _write_all(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        return self._volume.write_many(writes)
