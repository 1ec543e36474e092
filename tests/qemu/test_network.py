"""network.toml on a booted node: static, DHCP, none, tap, noautonic, and a link that cannot be configured."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.vm import NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

# QEMU gives eth0 to the link of the gate, and the others in their order.
NETWORK = """
[network]
auto = true

[interface.eth0]
protocol = "static"
[static.eth0]
ip = "10.0.2.15/24"
gateway = "10.0.2.2"
dns = ["10.0.2.3", "10.0.2.4"]

[interface.eth2]
protocol = "none"

[interface.eth9]
protocol = "static"
[static.eth9]
ip = "10.9.0.1/24"

[tap.t0]
up = true

[interface.eth4]
protocol = "guess"
"""


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    folder = tmp_path_factory.mktemp("vm")
    (folder / "network.toml").write_text(NETWORK)
    options = ["-fw_cfg", f"name=opt/g8node/network,file={folder}/network.toml"]
    for number in (1, 2, 3):
        options += ["-nic", f"user,model=virtio-net-pci,net=10.7.{number}.0/24"]
    with node(folder, append=["noautonic=eth3"], options=options) as booted:
        yield booted


def shell(vm: NodeVm, script: str) -> str:
    done = vm.job("bash", {"script": script})
    assert done["state"] == "SUCCESS", done
    return str(done["streams"][0])


def links(vm: NodeVm) -> dict[str, Any]:
    found = json.loads(shell(vm, "/usr/bin/ip -j address"))
    return {
        row["ifname"]: (
            "UP" in row["flags"],
            [f"{a['local']}/{a['prefixlen']}" for a in row["addr_info"] if a["family"] == "inet"],
        )
        for row in found
    }


def test_each_link_is_as_its_entry_says(vm: NodeVm) -> None:
    deadline = time.monotonic() + 90
    while not (seen := links(vm))["eth1"][1] or not (seen["eth2"][0] and seen["t0"][0]):  # all come at once
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    assert seen["lo"] == (True, ["127.0.0.1/8"])
    assert seen["eth0"] == (True, ["10.0.2.15/24"])
    assert seen["eth1"] == (True, ["10.7.1.15/24"])  # DHCP, since it is not named
    assert seen["eth2"] == (True, [])
    assert seen["eth3"] == (False, [])  # noautonic
    assert seen["t0"] == (True, [])


def test_static_route_is_preferred_and_name_servers_are_those_of_all_links(vm: NodeVm) -> None:
    deadline = time.monotonic() + 90
    while "nameserver 10.7.1.3" not in (resolver := shell(vm, "cat /etc/resolv.conf")):  # the lease's last
        assert time.monotonic() < deadline, resolver
        time.sleep(0.2)
    assert "nameserver 10.0.2.3\nnameserver 10.0.2.4\n" in resolver
    routes = shell(vm, "/usr/bin/ip route show default").splitlines()
    assert routes[0] == "default via 10.0.2.2 dev eth0 src 10.0.2.15 metric 50 onlink "
    assert "10.7.1.2" in routes[1]


def test_what_is_wrong_is_told_on_the_console(vm: NodeVm) -> None:
    vm.vm.wait_for("link eth9 is not configured", 90)
    console = vm.vm.console()
    assert "interface.eth4: Invalid enum value 'guess'" in console
    assert re.search(r"link eth9 is not configured .*reason='Device \"eth9\" does not exist", console)
    assert "phase network (1/" in console
    assert "phase online" in console
    assert "online: failed" not in console


def test_only_dhcp_links_have_a_client(vm: NodeVm) -> None:
    jobs = [row["cmd"]["id"] for row in vm.direct("job.list")]
    assert [id for id in jobs if id.startswith("udhcpc/")] == ["udhcpc/eth1"]
