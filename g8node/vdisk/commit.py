"""Group commit (async): many who want their changes on the disk share one sync.

A sync covers what was changed before it began. Who asks while one runs waits for the next, together with all
others who ask meanwhile. Who asks when nothing has changed since the last good sync has nothing to wait for.

After a failed sync the kernel may have thrown the changes away and would call the next sync a success
(LWN 752063), so the first failure is final: everything fails until the vdisk is opened anew. Syncs of several
threads come one after the other, since the kernel tells a failure once, to whoever syncs first.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from g8node.errors import Unavailable
from g8node.runtime import blocking

T = TypeVar("T")


class GroupCommit:
    """`sync` is called in the "fsync" pool, never twice at once."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._changes = 1  # what an earlier process wrote may not be on the disk
        self._synced = 0
        self._running: asyncio.Task[Any] | None = None
        self._next: asyncio.Task[None] | None = None
        self._one_by_one = threading.Lock()
        self._held = False
        self.wanted = False
        """Somebody else has asked for a sync since `hold`."""
        self.failed: Exception | None = None

    def changed(self) -> None:
        """Something was written; call it after the fact, for a sync under way need not cover it."""
        self._changes += 1

    @property
    def dirty(self) -> bool:
        return self._held or self._changes != self._synced

    def check(self) -> None:
        """Raises Unavailable after a failed sync."""
        if self.failed is not None:
            raise Unavailable(f"an earlier flush failed: {self.failed}", hint="open the vdisk anew")

    async def commit(self) -> None:
        """Everything that was changed before this call survives a power loss when it returns."""
        self.check()
        self.wanted = True
        if not self.dirty:
            return
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running))
        await asyncio.shield(self._next)

    @property
    def idle(self) -> bool:
        """Whether no sync runs or is to run."""
        return self._running is None and self._next is None

    async def together(self, work: Callable[[], T]) -> T:
        """Call `work` and then sync, in one trip to a thread; only while `idle`.

        What it changed survives a power loss when this returns, and needs no `changed`.
        """
        self.check()
        self.wanted = True
        self._running = running = asyncio.create_task(self._together(work))
        return await asyncio.shield(running)

    async def _together(self, work: Callable[[], T]) -> T:
        before = self._changes
        try:
            value, failure = await blocking.run("fsync", self._work_and_sync, work)
        except Exception:
            self.changed()  # some of it may have been done
            raise
        finally:
            self._running = None
        if failure is not None:
            self.failed = self.failed or failure
            raise failure
        self._synced = before
        return value

    def _work_and_sync(self, work: Callable[[], T]) -> tuple[T, Exception | None]:
        value = work()
        try:
            self.sync_here()
        except Exception as error:  # noqa: BLE001 - it reaches who waits, and is final
            return value, error
        return value, None

    def hold(self) -> bool:
        """Whether a thread may change things and sync them by itself, with `sync_here`, until `release`.

        Only one, and only when nobody else asks for syncs: those who do share them, which it does not.
        """
        if self._held or not self.idle or self.failed is not None:
            return False
        self._held, self.wanted = True, False
        return True

    def release(self) -> None:
        """The thread is done; what it changed last may not be synced."""
        self._held = False
        self.changed()

    def sync_here(self) -> None:
        """Sync in this thread (blocking). What it raises is final; Unavailable after a failed sync."""
        with self._one_by_one:
            self.check()
            try:
                self._sync()
            except Exception as error:
                self.failed = self.failed or error
                raise

    async def _run(self, before: "asyncio.Task[Any] | None") -> None:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        try:
            self.check()
            changes = self._changes
            await blocking.run("fsync", self.sync_here)
            self._synced = changes
        except Exception as error:
            self.failed = self.failed or error
            raise
        finally:
            self._running = None
