"""Every async test runs on the loop that the node runs on."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import HealthCheck, settings

settings.register_profile(
    "g8node",
    # A busy machine is no failure, neither of an example nor of making ten of them.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # The same examples every time; `make fuzz` looks for new ones.
    derandomize="G8NODE_FUZZ_INPUTS" not in os.environ,
)
settings.load_profile("g8node")

# What a shell starts in the background ignores some, and so would all that the tests start.
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """A skip is a failure: everything that is tested here can be tested here."""
    if call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception):
        raise AssertionError(f"{item.nodeid} skipped: {call.excinfo.value}")


@pytest.fixture(params=["erofs", "tree"])
def view(request: pytest.FixtureRequest) -> str:
    """How mounted flists are shown: tests of `tests.support.mounted` that use it run once for each."""
    return str(request.param)
