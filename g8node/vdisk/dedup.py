"""A deduplicated vdisk (async): see volume.py for its bytes, plain.py for what a client may rely on."""

import asyncio
from collections.abc import Sequence

from g8node.errors import NodeError
from g8node.runtime import blocking, logs
from g8node.vdisk.plain import PlainVdisk
from g8node.vdisk.record import Record
from g8node.vdisk.volume import Volume

log = logs.get("vdisk")


class DedupVdisk(PlainVdisk):
    """An export over a `Volume`, which it owns; the writes of a batch are put together.

    The pool's checkpoints are made beside the writes: nobody waits for one as long as they keep up.
    """

    def __init__(self, volume: Volume, record: Record) -> None:
        super().__init__(volume, record, lanes=2)
        self._volume = volume
        self._settling: asyncio.Task[None] | None = None

    def _write_all(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        return self._volume.write_many(writes)

    async def write_many(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        errors = await super().write_many(writes)
        self._settle_soon()
        return errors

    async def write_durably(self, writes: Sequence[tuple[int, memoryview]]) -> Sequence[Exception | None]:
        errors = await super().write_durably(writes)
        self._settle_soon()
        return errors

    def take(self) -> bool:
        """Never: somebody must look after the checkpoints."""
        return False

    def _settle_soon(self) -> None:
        if self._settling is None and self._volume.due:
            self._settling = asyncio.create_task(self._settle(), name="checkpoint of a pool")

    async def _settle(self) -> None:
        try:
            await blocking.run("fsync", self._volume.settle)
        except (NodeError, OSError) as error:
            log.error("checkpoint failed", vdisk=self.record.id, reason=str(error))
        finally:
            self._settling = None

    async def close(self) -> None:
        if self._settling is not None:
            await asyncio.wait([self._settling])
        await super().close()
