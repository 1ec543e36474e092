"""bridge.*: ports of bridges, by an agent in a network namespace of its own."""

from collections.abc import Iterator

import pytest

from tests.support.netns import Inside, daemon_inside

pytestmark = [pytest.mark.root]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    script = "ip link add v0 type veth peer name v1; ip link add foreign type bridge"
    with daemon_inside(tmp_path_factory.mktemp("node"), script) as running:
        yield running
        assert "Traceback" not in running.log()


def test_bridge_takes_a_port_lists_it_and_lets_it_go(node: Inside) -> None:
    assert node.direct("bridge.list") == ["foreign"]
    node.direct("bridge.nic-add", name="foreign", nic="v0")
    assert node.direct("bridge.nic-list", name="foreign") == ["v0"]
    assert node.refused("bridge.nic-add", name="foreign", nic="v0")[0] == 409
    node.direct("bridge.nic-remove", nic="v0")
    node.direct("bridge.nic-remove", nic="v0")
    assert node.direct("bridge.nic-list", name="foreign") == []


def test_missing_links_and_what_is_no_bridge_are_refused(node: Inside) -> None:
    assert node.refused("bridge.nic-add", name="nope", nic="v0")[0] == 404
    assert node.refused("bridge.nic-add", name="foreign", nic="nope")[0] == 404
    assert node.refused("bridge.nic-add", name="v1", nic="v0")[0] == 400
    assert node.refused("bridge.nic-list", name="nope")[0] == 404
    assert node.refused("bridge.nic-list", name="v1")[0] == 400
    assert node.refused("bridge.nic-remove", nic="nope")[0] == 404
