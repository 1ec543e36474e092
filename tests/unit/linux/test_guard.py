"""What blocks refuses to run on a loop thread."""

import asyncio

import pytest

from g8node.linux.guard import off_loop
from g8node.runtime import blocking


@off_loop
def wait(value: int) -> int:
    return value


def test_off_loop_runs_where_no_loop_runs() -> None:
    assert wait(1) == 1


async def test_off_loop_refuses_on_the_loop() -> None:
    with pytest.raises(AssertionError, match="wait blocks; call it through"):
        wait(1)


async def test_off_loop_runs_in_a_pool() -> None:
    assert await blocking.run("disk", wait, 2) == 2
    assert asyncio.get_running_loop().is_running()
