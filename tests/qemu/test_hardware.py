"""What only a booted node has: network.toml (static, DHCP, none, tap, noautonic, and a link that cannot be
configured), bonds, dummy links, real-looking drives; and the image's own disk tools.
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.vm import NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

DISK_MIB = 300

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
    """A node with a network.toml, one SATA and two virtio drives, all empty."""
    folder = tmp_path_factory.mktemp("vm")
    (folder / "network.toml").write_text(NETWORK)
    options = ["-fw_cfg", f"name=opt/g8node/network,file={folder}/network.toml"]
    for number in (1, 2, 3):
        options += ["-nic", f"user,model=virtio-net-pci,net=10.7.{number}.0/24"]
    options += ["-device", "ahci,id=ahci"]
    devices = ["ide-hd,bus=ahci.0,serial=G8SATA", "virtio-blk-pci,serial=v0", "virtio-blk-pci,serial=v1"]
    for number, device in enumerate(devices):
        image = folder / f"disk{number}"
        with image.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        options += ["-drive", f"file={image},if=none,id=d{number},format=raw"]
        options += ["-device", f"{device},drive=d{number}"]
    with node(folder, append=["noautonic=eth3"], options=options) as booted:
        yield booted


def refused(vm: NodeVm, command: str, /, **arguments: Any) -> str:
    with pytest.raises(redis.ResponseError) as caught:
        vm.direct(command, **arguments)
    return str(caught.value)


def script(vm: NodeVm, text: str) -> str:
    return str(vm.job("bash", {"script": text})["streams"][0])


def links(vm: NodeVm) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in vm.direct("ip.link.list")}


def addresses(vm: NodeVm) -> dict[str, Any]:
    """Of each link: whether it is up, and those of IPv4."""
    found = json.loads(script(vm, "/usr/bin/ip -j address"))
    return {
        row["ifname"]: (
            "UP" in row["flags"],
            [f"{a['local']}/{a['prefixlen']}" for a in row["addr_info"] if a["family"] == "inet"],
        )
        for row in found
    }


def test_each_link_is_as_its_entry_says(vm: NodeVm) -> None:
    deadline = time.monotonic() + 90
    # They are set up at once.
    while not ((seen := addresses(vm))["eth1"][1] and seen["eth2"][0] and seen["t0"][0]):
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
    while "nameserver 10.7.1.3" not in (resolver := script(vm, "cat /etc/resolv.conf")):  # the lease's last
        assert time.monotonic() < deadline, resolver
        time.sleep(0.2)
    assert "nameserver 10.0.2.3\nnameserver 10.0.2.4\n" in resolver
    routes = script(vm, "/usr/bin/ip route show default").splitlines()
    assert routes[0] == "default via 10.0.2.2 dev eth0 src 10.0.2.15 metric 50 onlink "
    assert "10.7.1.2" in routes[1]


def test_what_is_wrong_is_told_on_the_console(vm: NodeVm) -> None:
    vm.vm.wait_for('Device "eth9" does not exist', 90)
    console = vm.vm.console()
    assert "interface.eth4: Invalid enum value 'guess'" in console
    assert re.search(r"link eth9 is not configured .*reason='Device \"eth9\" does not exist", console)
    assert "phase network (1/" in console
    assert "phase online" in console
    assert "online: failed" not in console


def test_only_dhcp_links_have_a_client(vm: NodeVm) -> None:
    jobs = [row["cmd"]["id"] for row in vm.direct("job.list")]
    assert [id for id in jobs if id.startswith("udhcpc/")] == ["udhcpc/eth1"]


def test_bond_over_dummy_links(vm: NodeVm) -> None:
    script(vm, "for n in 0 1; do ip link add d$n type dummy; done")
    assert links(vm)["d0"]["type"] == "dummy"
    assert vm.direct("ip.bond.list") == {}
    vm.direct("ip.bond.add", bond="bond7", interfaces=["d0", "d1"], mtu=1400)
    seen = links(vm)
    assert "bond0" not in seen  # the module's own
    assert seen["bond7"]["type"] == "bond"
    for name in ("bond7", "d0", "d1"):
        assert (seen[name]["up"], seen[name]["mtu"]) == (True, 1400)
    assert {seen["d0"]["master"], seen["d1"]["master"]} == {"bond7"}
    sections = vm.direct("ip.bond.list")["bond7"]
    assert any("round-robin" in section.get("Bonding Mode", "") for section in sections)
    assert {section["Slave Interface"] for section in sections if "Slave Interface" in section} == {
        "d0",
        "d1",
    }
    assert "409" in refused(vm, "ip.bond.add", bond="bond8", interfaces=["d0"])
    assert "bond8" not in links(vm)
    assert "404" in refused(vm, "ip.bond.add", bond="bond8", interfaces=["nope"])
    assert "400" in refused(vm, "ip.bond.del", bond="d0")
    vm.direct("ip.bond.del", bond="bond7")
    assert vm.direct("ip.bond.list") == {}
    assert "404" in refused(vm, "ip.bond.del", bond="bond7")


def test_bridge_with_a_dummy_link(vm: NodeVm) -> None:
    script(vm, "ip link add d5 type dummy")
    vm.direct("ip.bridge.add", name="br5")
    vm.direct("ip.bridge.addif", name="br5", inf="d5")
    assert links(vm)["d5"]["master"] == "br5"
    vm.direct("ip.bridge.delif", name="br5", inf="d5")
    vm.direct("ip.bridge.del", name="br5")
    assert "br5" not in links(vm)


def test_drives_are_listed_with_their_serials(vm: NodeVm) -> None:
    rows = {row["name"]: row for row in vm.direct("disk.list")}
    assert {"sda", "vda", "vdb"} <= set(rows)
    assert (rows["sda"]["serial"], rows["sda"]["tran"]) == ("G8SATA", "sata")
    assert (rows["vda"]["serial"], rows["vdb"]["serial"]) == ("v0", "v1")
    assert rows["sda"]["size"] == DISK_MIB << 20


def test_drive_tells_its_model_health_and_power(vm: NodeVm) -> None:
    found = vm.direct("disk.smartctl-info", device="sda")
    assert found["model"] == "QEMU HARDDISK"
    assert found["serial_number"] == "G8SATA"
    assert (found["user_capacity"], found["sector_size"]) == (DISK_MIB << 20, 512)
    assert found["smart_support_available"] is True
    assert vm.direct("disk.smartctl-health", device="/dev/sda") == {"passed": True}
    assert vm.direct("disk.isstandby", disk="sda") is False
    assert vm.direct("disk.seektime", disk="sda")["type"] in ("SSD", "HDD")


def test_partition_with_btrfs_over_two_drives(vm: NodeVm) -> None:
    vm.direct("disk.mktable", disk="vda", table_type="gpt")
    vm.direct("disk.mkpart", disk="vda", start="0%", end="100%", part_type="primary")
    vm.direct("btrfs.create", label="pool", devices=["vda1", "vdb"], metadata="raid1", data="raid1")
    script(vm, "mkdir -p /mnt/pool")
    vm.direct("disk.mount", source="/dev/vdb", target="/mnt/pool", options="noatime")
    info = vm.direct("btrfs.info", mountpoint="/mnt/pool")
    assert (info["label"], info["total_devices"]) == ("pool", 2)
    assert info["data"]["profile"] == "raid1"
    vm.direct("btrfs.subvol_create", path="/mnt/pool/a")
    vm.direct("btrfs.subvol_quota", path="/mnt/pool/a", limit="10M")
    (row,) = vm.direct("btrfs.subvol_list", path="/mnt/pool")
    assert (row["Path"], row["Quota"]) == ("a", 10 << 20)
    done = vm.job("bash", {"script": "dd if=/dev/zero of=/mnt/pool/a/x bs=1M count=20 conv=fsync"})
    assert "quota exceeded" in done["streams"][1].lower()
    assert "409" in refused(vm, "disk.mktable", disk="vda", table_type="gpt", overwrite=True)
    assert "409" in refused(vm, "disk.rmpart", disk="vda", number=1)
    vm.direct("disk.umount", source="/dev/vda1")
    assert "412" in refused(vm, "disk.mktable", disk="vda", table_type="gpt")
    vm.direct("disk.rmpart", disk="vda", number=1)


def test_loop_device_inside_the_node(vm: NodeVm) -> None:
    path = script(vm, "truncate -s 8M /tmp/l && losetup -f && losetup $(losetup -f) /tmp/l").strip()
    assert vm.direct("disk.getinfo", disk=path)["size"] == 8 << 20
    script(vm, f"losetup -d {path}")
