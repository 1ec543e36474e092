"""Group commit."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from g8node.errors import Unavailable
from g8node.runtime import blocking
from g8node.vdisk.commit import GroupCommit


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    blocking.close()


class Disk:
    def __init__(self) -> None:
        self.syncs = 0
        self.go = threading.Event()
        self.begun = threading.Event()
        self.error: Exception | None = None

    def sync(self) -> None:
        self.begun.set()
        assert self.go.wait(60)
        self.syncs += 1
        if self.error is not None:
            raise self.error


async def test_those_who_ask_together_share_a_sync() -> None:
    disk = Disk()
    commits = GroupCommit(disk.sync)
    first = asyncio.create_task(commits.commit())
    await asyncio.to_thread(disk.begun.wait, 60)
    commits.changed()
    others = [asyncio.create_task(commits.commit()) for _ in range(10)]
    await asyncio.sleep(0)
    disk.go.set()
    await asyncio.gather(first, *others)
    assert disk.syncs == 2


async def test_change_during_a_sync_needs_another_one() -> None:
    disk = Disk()
    commits = GroupCommit(disk.sync)
    first = asyncio.create_task(commits.commit())
    await asyncio.to_thread(disk.begun.wait, 60)
    commits.changed()
    disk.go.set()
    await first
    assert commits.dirty
    await commits.commit()
    assert not commits.dirty
    await commits.commit()
    assert disk.syncs == 2


async def test_failure_is_final() -> None:
    disk = Disk()
    disk.go.set()
    disk.error = OSError(5, "disk")
    commits = GroupCommit(disk.sync)
    with pytest.raises(OSError, match="disk"):
        await commits.commit()
    disk.error = None
    with pytest.raises(Unavailable):
        await commits.commit()
    with pytest.raises(Unavailable):
        commits.check()
    assert disk.syncs == 1


async def test_waiter_that_leaves_does_not_stop_the_others() -> None:
    disk = Disk()
    commits = GroupCommit(disk.sync)
    one, two = asyncio.create_task(commits.commit()), asyncio.create_task(commits.commit())
    await asyncio.to_thread(disk.begun.wait, 60)
    one.cancel()
    await asyncio.wait([one])
    disk.go.set()
    await two
    assert disk.syncs == 1


async def test_work_and_sync_in_one_trip_leave_nothing_to_do() -> None:
    disk, done = Disk(), []
    disk.go.set()
    commits = GroupCommit(disk.sync)
    assert commits.idle
    assert await commits.together(lambda: done.append(disk.syncs) or "value") == "value"
    assert (done, disk.syncs, commits.dirty, commits.idle) == ([0], 1, False, True)


async def test_change_beside_work_and_sync_needs_another_sync() -> None:
    disk = Disk()
    commits = GroupCommit(disk.sync)
    first = asyncio.create_task(commits.together(lambda: None))
    await asyncio.to_thread(disk.begun.wait, 60)
    assert not commits.idle
    commits.changed()
    second = asyncio.create_task(commits.commit())
    await asyncio.sleep(0)
    disk.go.set()
    await asyncio.gather(first, second)
    assert (disk.syncs, commits.dirty) == (2, False)


async def test_failed_sync_after_work_is_final_and_failed_work_is_not() -> None:
    disk = Disk()
    disk.go.set()
    commits = GroupCommit(disk.sync)
    with pytest.raises(ZeroDivisionError):
        await commits.together(lambda: 1 // 0)
    assert commits.dirty
    assert disk.syncs == 0
    commits.check()
    disk.error = OSError(5, "disk")
    with pytest.raises(OSError, match="disk"):
        await commits.together(lambda: None)
    with pytest.raises(Unavailable):
        await commits.commit()


async def test_thread_that_holds_it_is_alone_and_all_others_sync_meanwhile() -> None:
    disk = Disk()
    disk.go.set()
    commits = GroupCommit(disk.sync)
    await commits.commit()
    assert commits.hold()
    assert not commits.hold()
    assert not commits.wanted
    await commits.commit()  # what the thread has written may not be synced
    assert (disk.syncs, commits.wanted, commits.dirty) == (2, True, True)
    commits.release()
    await commits.commit()
    assert (disk.syncs, commits.dirty) == (3, False)


async def test_nobody_holds_it_while_others_wait_for_a_sync() -> None:
    disk = Disk()
    commits = GroupCommit(disk.sync)
    first = asyncio.create_task(commits.commit())
    await asyncio.to_thread(disk.begun.wait, 60)
    assert not commits.hold()
    disk.go.set()
    await first
    assert commits.hold()


async def test_failure_in_a_thread_is_final_for_a_sync_that_waits_for_it() -> None:
    """The kernel tells a failure once: the next sync would be a success."""
    disk = Disk()
    disk.error = OSError(5, "disk")
    commits = GroupCommit(disk.sync)
    assert commits.hold()
    mine = asyncio.create_task(asyncio.to_thread(commits.sync_here))
    await asyncio.to_thread(disk.begun.wait, 60)
    other = asyncio.create_task(commits.commit())
    await asyncio.sleep(0)
    disk.go.set()
    for task in (mine, other):
        with pytest.raises((OSError, Unavailable), match="disk"):
            await task
    assert disk.syncs == 1
    commits.release()
    assert not commits.hold()
