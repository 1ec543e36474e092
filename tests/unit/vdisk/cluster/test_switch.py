"""Blocks whose servers are replaced, again and again."""

import asyncio
from typing import Any, cast

import pytest

from g8node.errors import Unavailable
from g8node.vdisk.cluster import switch
from g8node.vdisk.cluster.blocks import Blocks
from g8node.vdisk.cluster.locks import Locks
from g8node.vdisk.cluster.switch import SwitchedBlocks


class FakeBlocks:
    """Says who it is, who was before it, and whether it is closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.locks = Locks()
        self.closed = 0
        self.before = ""

    def inherit(self, before: "FakeBlocks") -> None:
        self.before = before.name

    def states(self) -> list[dict[str, Any]]:
        return [{"name": self.name}]

    async def flush(self) -> None:
        assert not self.closed

    async def close(self) -> None:
        self.closed += 1


async def test_those_that_were_opened_too_late_are_closed() -> None:
    """A configuration came while the servers of the one before it were being opened."""
    old, middle, new = (FakeBlocks(name) for name in ("old", "middle", "new"))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Blocks:
        begun.set()
        await go_on.wait()
        return cast(Blocks, middle)

    async def at_once() -> Blocks:
        return cast(Blocks, new)

    switched = SwitchedBlocks(cast(Blocks, old))
    switched.switch(slowly)
    await begun.wait()
    switched.switch(at_once)
    go_on.set()
    await switched.flush()  # waits until there are blocks
    assert switched.states() == [{"name": "new"}]
    assert (old.closed, middle.closed, new.closed) == (1, 1, 0)
    assert new.before == "old"
    await switched.close()
    assert new.closed == 1


async def test_those_of_a_new_configuration_are_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of the one before it could not be used, and are tried again only in a while."""
    monkeypatch.setattr(switch, "_RETRY_S", 3600.0)
    old, new = (FakeBlocks(name) for name in ("old", "new"))

    async def refused() -> Blocks:
        raise Unavailable("no server is there")

    async def at_once() -> Blocks:
        return cast(Blocks, new)

    switched = SwitchedBlocks(cast(Blocks, old))
    switched.switch(refused)
    while True:
        try:
            await asyncio.wait_for(switched.flush(), 60)
        except Unavailable:  # as told after the first attempt
            break
        await asyncio.sleep(0)
    switched.switch(at_once)
    async with asyncio.timeout(60):
        while switched.states() != [{"name": "new"}]:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)
    await switched.flush()
    await switched.close()
