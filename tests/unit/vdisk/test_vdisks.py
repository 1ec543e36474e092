"""Who may open and change a vdisk, and when."""

import asyncio
from collections.abc import Iterator

import pytest

from g8node.runtime import blocking
from g8node.vdisk.plain import PlainVdisk
from g8node.vdisk.record import Record
from g8node.vdisk.vdisks import Vdisks
from tests.support.powerloss import MemoryDisk


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    blocking.close()


async def test_vdisk_that_is_closed_is_opened_anew_once_for_all() -> None:
    """One client waits until it is closed, another one comes when that is done."""
    disk = MemoryDisk()
    disk.make_folder("/pool")
    vdisks = Vdisks("/pool", disk)
    await vdisks.create(Record(id="vd", type="db", size=1 << 20))
    opening: list[asyncio.Task[PlainVdisk]] = []

    def open_it(_: object) -> None:
        opening.append(asyncio.create_task(vdisks.open("vd")))

    leaving = asyncio.create_task(vdisks.leave("vd", await vdisks.open("vd"), in_order=True))
    leaving.add_done_callback(open_it)
    await asyncio.sleep(0)  # it is being closed
    open_it(None)
    await leaving
    await asyncio.sleep(0)
    one, other = await asyncio.gather(*opening)
    assert one is other
    for export in (one, other):
        await vdisks.leave("vd", export, in_order=True)
    await vdisks.delete("vd")
    assert vdisks.records() == []
