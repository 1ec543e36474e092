"""The original suite's checks against an agent, over a real Redis connection; docs/acceptance.md."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.acceptance import SCENARIOS, Client
from tests.support.daemon import daemon

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with daemon(tmp_path_factory.mktemp("node")) as node, node.gate() as gate:
        yield Client(gate)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_acceptance(client: Client, scenario: Callable[[Client], None]) -> None:
    scenario(client)
