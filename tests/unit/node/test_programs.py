"""Programs of the system: found, missing, failing."""

from collections.abc import AsyncIterator

import pytest

from g8node.errors import ProgramFailed, Unavailable
from g8node.node import programs
from g8node.runtime.process import Reaper


@pytest.fixture
async def reaper() -> AsyncIterator[Reaper]:
    started = Reaper(orphans=False)
    started.install()
    yield started
    started.uninstall()


async def test_output_is_text(reaper: Reaper) -> None:
    assert await programs.run(reaper, "echo", "hello") == "hello\n"


async def test_failure_keeps_the_exit_code_and_what_was_printed(reaper: Reaper) -> None:
    with pytest.raises(ProgramFailed, match=r"sh \(ERROR\): \[out err\]") as caught:
        await programs.run(reaper, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert caught.value.status == 1003


async def test_absent_program_is_unavailable_with_its_name(reaper: Reaper) -> None:
    with pytest.raises(Unavailable, match="no-such-program is not installed") as caught:
        await programs.run(reaper, "no-such-program")
    assert caught.value.status == 503


async def test_death_by_a_signal_is_told(reaper: Reaper) -> None:
    with pytest.raises(Exception, match="signal 9"):
        await programs.run(reaper, "sh", "-c", "kill -9 $$")
