"""A node booted from the built kernel and initramfs: PID 1, redis, network, containers, power."""

import base64
import json
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from g8tools.up.cli import fetch
from tests.support.acceptance import SCENARIOS, Client
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish
from tests.support.vm import END_S, TOP, NodeVm, node

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]

HOST = "10.0.2.2"  # the host's loopback, seen from a guest with user networking


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeVm]:
    with node(tmp_path_factory.mktemp("vm"), forwards=[80, 8000], append=["softdog"]) as booted:
        yield booted


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    with hub(folder) as running:
        url = publish(running, busybox_tree(folder / "tree"), "busybox")
        (folder / "layer/data").mkdir(parents=True)
        (folder / "layer/data/4").write_text("new")
        publish(running, folder / "layer", "layer")
        yield url.replace("127.0.0.1", HOST)


def test_original_sequence_against_pid_1(vm: NodeVm) -> None:
    cli = ["redis-cli", "-p", str(vm.ports[6379]), "-a", vm.password, "--no-auth-warning"]

    def ask(*words: str) -> str:
        return subprocess.run([*cli, *words], capture_output=True, text=True, check=True).stdout

    ask("RPUSH", "core:default", '{"id":"1","command":"core.ping","arguments":{}}')
    result = json.loads(ask("BRPOPLPUSH", "result:1", "result:1", "60"))
    assert result["state"] == "SUCCESS"
    assert "PONG Version: " in result["data"]
    assert "PONG Version: " in ask("core.ping")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_acceptance(vm: NodeVm, scenario: Callable[[Client], None]) -> None:
    scenario(Client(vm.gate))


def test_core0_is_process_1(vm: NodeVm) -> None:
    done = vm.job("bash", {"script": "cat /proc/1/cmdline | tr '\\0' ' '; echo; ps | grep -c ' Z '"})
    assert "python3" in done["streams"][0]
    assert "g8node" in done["streams"][0]


def test_orphans_leave_no_zombie(vm: NodeVm) -> None:
    script = "i=0; while [ $i -lt 500 ]; do (setsid /bin/true &) ; i=$((i+1)); done"
    assert vm.job("bash", {"script": script})["state"] == "SUCCESS"
    count = (
        "n=0; for s in /proc/[0-9]*/stat; do read -r l <$s && "
        "case $l in *') Z '*) n=$((n+1));; esac; done; echo $n"
    )
    until(lambda: vm.job("bash", {"script": count})["streams"][0] == "0\n", "the end of the zombies", 60)


def test_secret_is_not_on_the_kernel_command_line(vm: NodeVm) -> None:
    cmdline = vm.job("bash", {"script": "cat /proc/cmdline"})["streams"][0]
    assert "console=ttyS0" in cmdline
    assert vm.password not in cmdline
    assert vm.password not in vm.vm.console()


def test_network_came_by_dhcp(vm: NodeVm) -> None:
    def shown() -> str:
        return str(vm.job("bash", {"script": "ip -4 -o addr; ip route; cat /etc/resolv.conf"})["streams"][0])

    until(lambda: "nameserver 10.0.2.3" in shown(), "the lease's last", 60)
    assert "10.0.2.15/24" in shown()
    assert "default via 10.0.2.2" in shown()


def test_version_is_the_commit_of_the_sources(vm: NodeVm) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert vm.direct("info.version")["revision"] == head.stdout.strip()


def test_info_commands_describe_the_machine(vm: NodeVm) -> None:
    assert vm.direct("info.os")["os"] == "linux"
    assert len(vm.direct("info.cpu")) == 2
    assert 700e6 < vm.direct("info.mem")["total"] < 1.1e9


def test_firmware_tables_are_read(vm: NodeVm) -> None:
    result = vm.job("info.dmi", {"types": ["bios", "system"]})
    assert result["state"] == "SUCCESS", result
    sections = {section["typestr"]: section for section in json.loads(result["data"])["sections"]}
    assert sections["BIOS"]["subsections"][0]["properties"]["Vendor"]["value"] == "SeaBIOS"
    assert sections["System"]["subsections"][0]["properties"]["Manufacturer"]["value"] == "QEMU"


def test_certificate_authorities_are_there_for_https(vm: NodeVm) -> None:
    script = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    done = vm.job("core.system", {"name": "python3", "args": ["-c", script]})
    assert int(done["streams"][0]) > 50


def test_links_disks_and_ports_of_the_machine(vm: NodeVm) -> None:
    nics = {row["name"]: row for row in json.loads(vm.job("info.nic", {})["data"])}
    up = [row for name, row in nics.items() if name != "lo" and row["operstate"]]
    assert "10.0.2.15/24" in [address["addr"] for row in up for address in row["addrs"]]
    assert vm.job("info.disk", {})["state"] == "SUCCESS"
    ports = json.loads(vm.job("info.port", {})["data"])
    assert {"network": "tcp", "port": 6379, "ip": "0.0.0.0", "pid": 1} in ports


def test_file_on_the_machine_is_written_read_and_given_away(vm: NodeVm) -> None:
    def ask(name: str, **arguments: object) -> object:
        result = vm.job(f"filesystem.{name}", arguments)
        assert result["state"] == "SUCCESS", result
        return json.loads(result["data"])

    fd = ask("open", file="/tmp/g8node-test", mode="w+")
    ask("write", fd=fd, block="aGVsbG8=")
    ask("close", fd=fd)
    ask("chown", path="/tmp/g8node-test", user="nobody", group="nogroup")
    fd = ask("open", file="/tmp/g8node-test", mode="r")
    assert ask("read", fd=fd) == "aGVsbG8="
    ask("close", fd=fd)
    assert vm.job("bash", {"script": "stat -c %U:%G /tmp/g8node-test"})["streams"][0] == "nobody:nogroup\n"
    ask("remove", path="/tmp/g8node-test")
    assert ask("exists", path="/tmp/g8node-test") is False


def test_container_from_an_flist(vm: NodeVm, busybox: str) -> None:
    command = "/bin/sh -c 'hostname; head -c 3 /data/4; id -u'"
    arguments = {"root": busybox, "hostname": "box", "command": command}
    container = json.loads(vm.job("corex.create", arguments)["data"])
    done = vm.result(f"core-{container}")
    assert done["streams"][0] == "box\nEEE0\n", done
    assert done["container"] == container


def test_layer_comes_over_a_container_that_runs(vm: NodeVm, busybox: str) -> None:
    layer = busybox.replace("busybox.flist", "layer.flist")
    container = json.loads(vm.job("corex.create", {"root": busybox})["data"])

    def inside(script: str) -> str:
        inner = {"command": "bash", "arguments": {"script": script}}
        return str(vm.result(vm.direct("corex.dispatch", container=container, command=inner))["streams"][0])

    assert inside("echo own >/mine; head -c 3 /data/4") == "EEE"
    vm.direct("corex.flist-layer", container=container, flist=layer)
    assert inside("cat /mine /data/4; head -c 3 /data/5") == "own\nnewFFF"
    assert vm.direct("corex.list")[str(container)]["container"]["live_layer"] == layer
    vm.direct("corex.terminate", container=container)
    assert vm.job("bash", {"script": "grep -c live /proc/mounts"})["streams"][0] == "0\n"


def test_container_serves_the_host_through_the_forwarded_port(vm: NodeVm, busybox: str) -> None:
    arguments = {
        "root": busybox,
        "nics": [{"type": "default"}],
        "port": {"80": 80},
        "command": [
            "/bin/sh",
            "-c",
            "mkdir /w; echo $G8NODE_CONTAINER_ID >/w/index.html; exec httpd -f -h /w",
        ],
    }
    container = json.loads(vm.job("corex.create", arguments)["data"])
    until(lambda: fetch(f"http://127.0.0.1:{vm.ports[80]}/") == f"{container}\n", "the page", 120)
    vm.direct("corex.terminate", container=container)
    assert vm.direct("corex.list") == {}


def test_terminated_container_leaves_nothing(vm: NodeVm, busybox: str) -> None:
    count = "grep -c . /proc/mounts; ls /sys/fs/cgroup/g8 | grep -c '^c'; ls /run/containers | wc -l"
    before = vm.job("bash", {"script": count})["streams"][0]
    container = json.loads(vm.job("corex.create", {"root": busybox})["data"])
    inner = {"id": "in", "command": "bash", "arguments": {"script": "head -c 1 /data/7"}}
    vm.direct("corex.dispatch", container=container, command=inner)
    assert vm.result("in")["streams"][0].endswith("H")
    assert vm.job("bash", {"script": count})["streams"][0] != before
    vm.direct("corex.terminate", container=container)
    assert vm.job("bash", {"script": count})["streams"][0] == before


def create(vm: NodeVm, busybox: str, *nics: dict[str, Any], **arguments: Any) -> int:
    made = vm.job("corex.create", {"root": busybox, "nics": list(nics), **arguments})
    assert made["state"] == "SUCCESS", made
    return int(made["data"])


def inside(vm: NodeVm, container: int, script: str) -> dict[str, Any]:
    inner = {"id": secrets.token_hex(8), "command": "bash", "arguments": {"script": script}}
    return vm.result(vm.direct("corex.dispatch", container=container, command=inner), 120)


def hears(vm: NodeVm, container: int, address: str) -> bool:
    script = f"for n in 1 2 3 4 5; do ping -c 1 -W 10 {address} && exit 0; done; exit 1"
    return bool(inside(vm, container, script)["state"] == "SUCCESS")


def ip(vm: NodeVm, words: str) -> str:
    return str(vm.job("bash", {"script": f"/usr/bin/ip {words}"})["streams"][0])


def end(vm: NodeVm, *containers: int) -> None:
    for container in containers:
        vm.direct("corex.terminate", container=container)


def silent(port: int) -> bool:
    """Whether a web server does not answer. QEMU takes every connection; what comes of it is the node's."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        try:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(1) == b""
        except OSError:
            return True


def test_port_of_the_node_is_closed_until_it_is_opened(vm: NodeVm) -> None:
    until(lambda: any("established" in rule for rule in vm.direct("nft.list")), "the firewall", 60)
    vm.job("bash", {"script": "busybox httpd -p 8000 -h /etc"})
    assert silent(vm.ports[8000])
    vm.direct("nft.open_port", port=8000)
    until(lambda: not silent(vm.ports[8000]), "an answer", 60)
    vm.direct("nft.drop_port", port=8000)
    assert silent(vm.ports[8000])


def test_containers_join_the_vlans_of_a_link(vm: NodeVm, busybox: str) -> None:
    ip(vm, "link add u9 type dummy")

    def vlan(tag: int, address: str) -> dict[str, Any]:
        return {"type": "vlan", "id": tag, "master": "u9", "config": {"cidr": f"{address}/24"}}

    one = create(vm, busybox, vlan(10, "10.71.0.1"))
    two = create(vm, busybox, vlan(10, "10.71.0.2"), vlan(11, "10.72.0.2"))
    other = create(vm, busybox, vlan(12, "10.72.0.1"))
    assert hears(vm, one, "10.71.0.2")
    assert inside(vm, two, "ping -c 1 -W 2 10.72.0.1")["state"] == "ERROR"
    assert "vlan protocol 802.1Q id 10 " in ip(vm, "-d link show type vlan")
    end(vm, one, two, other)
    assert ip(vm, "link show type vlan") == ""
    ip(vm, "link del u9")


def test_dummy_link_is_passed_and_comes_back(vm: NodeVm, busybox: str) -> None:
    ip(vm, "link add dm0 type dummy")
    container = create(vm, busybox)
    nic = {"type": "passthrough", "id": "dm0", "config": {"cidr": "10.73.0.1/24"}}
    vm.direct("corex.nic-add", container=container, nic=nic)
    assert "dm0" not in ip(vm, "-br link")
    assert "10.73.0.1" in inside(vm, container, "ip addr show dm0")["streams"][0]
    end(vm, container)
    assert "dm0" in ip(vm, "-br link")
    ip(vm, "link del dm0")


def test_container_with_ids_of_its_own_has_limits_and_a_volume(vm: NodeVm, busybox: str) -> None:
    """Here, where control groups are of version 2, and the node's own root is in memory."""
    container = create(
        vm,
        busybox,
        userns=True,
        limits={"memory": 48 << 20, "pids": 40},
        volumes={"/kept": {"name": "kept", "size": 32 << 20}},
    )
    script = "cat /proc/self/uid_map /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; echo here >/kept/a"
    shown = inside(vm, container, script)
    assert shown["state"] == "SUCCESS", shown
    assert shown["streams"][0].split() == ["0", str(container * 65536), "65536", str(48 << 20), "40"]
    pid = vm.direct("corex.get", query=container)["container"]["pid"]
    status = vm.job("bash", {"script": f"cat /proc/{pid}/status"})["streams"][0]
    assert f"Uid:\t{container * 65536}\t" in status
    end(vm, container)
    other = create(vm, busybox, volumes={"/kept": {"name": "kept", "readonly": True}})
    shown = inside(vm, other, "stat -c '%u %n' /kept/a; cat /kept/a; echo x >/kept/b")
    assert shown["state"] == "ERROR"
    assert shown["streams"][0] == "0 /kept/a\nhere\n"
    end(vm, other)
    assert vm.job("volume.remove", {"name": "kept"})["state"] == "SUCCESS"


def test_wireguard_joins_two_containers_and_its_keys_are_not_told(vm: NodeVm, busybox: str) -> None:
    keys = [X25519PrivateKey.generate() for _ in range(2)]
    private = [base64.b64encode(key.private_bytes_raw()).decode() for key in keys]
    public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys]

    def wireguard(number: int, port: int, **peer: Any) -> dict[str, Any]:
        other = {"public_key": public[1 - number], "allowed_ips": [f"10.74.0.{2 - number}/32"], **peer}
        device = {"private_key": private[number], "listen_port": port, "peers": [other]}
        return {"type": "wireguard", "wireguard": device | {"cidr": f"10.74.0.{1 + number}/24"}}

    one = create(vm, busybox, wireguard(0, 51820, preshared_key=private[1]))
    # The other end has moved when it is called for the first time: its name is asked for again.
    called = "vpn.peer.test"
    vm.job("bash", {"script": f"echo 192.0.2.1 {called} >>/etc/hosts"})
    two = create(
        vm, busybox, wireguard(1, 0, endpoint=f"{called}:51820", keepalive=5, preshared_key=private[1])
    )
    assert inside(vm, two, "ping -c 1 -W 1 10.74.0.1")["state"] == "ERROR"
    vm.job("bash", {"script": f"sed -i 's/^192.0.2.1 {called}/127.0.0.1 {called}/' /etc/hosts"})
    until(lambda: hears(vm, two, "10.74.0.1"), "the peer at its new address", 240)
    assert "udp dport 51820 accept" in vm.direct("nft.list")
    told = json.dumps([vm.direct("corex.list"), vm.direct("corex.get", query=one)])
    assert public[1] in told
    assert not [key for key in private if key in told]
    end(vm, one, two)
    assert "udp dport 51820 accept" not in vm.direct("nft.list")


def test_lease_and_names_on_a_bridge_of_the_node(vm: NodeVm, busybox: str) -> None:
    settings = {"cidr": "10.75.0.1/24", "start": "10.75.0.10", "end": "10.75.0.20"}
    vm.direct("bridge.create", name="lan", network={"mode": "dnsmasq", "nat": True, "settings": settings})
    nic = {"type": "bridge", "id": "lan", "config": {"dhcp": True}}
    one, two = create(vm, busybox, nic, name="one"), create(vm, busybox, nic, name="two")
    for container in (one, two):
        until(lambda c=container: "10.75.0." in inside(vm, c, "ip addr")["streams"][0], "a lease", 180)  # type: ignore[misc]
    until(lambda: hears(vm, one, "two"), "the name's answer", 240)
    assert "nobody" in vm.job("bash", {"script": "ps | grep [d]nsmasq"})["streams"][0]
    end(vm, one, two)
    vm.direct("bridge.delete", name="lan")


def until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_redis_killed_inside_the_node_comes_back(vm: NodeVm) -> None:
    script = "pid=$(pidof redis-server redis-check-rdb | cut -d' ' -f1); echo $pid; kill -9 $pid"
    assert re.fullmatch(r"\d+\n", vm.job("bash", {"script": script})["streams"][0])
    assert vm.job("core.ping", {})["state"] == "SUCCESS"


def test_console_tells_the_phases_and_no_traceback(vm: NodeVm) -> None:
    console = vm.vm.console()
    assert re.search(r"phase redis \(\d+/\d+\): done, [\d.]+s", console)
    assert "g8node ready" in console
    assert "Traceback" not in console


def test_reboot_ends_the_machine_and_its_watchdog(vm: NodeVm) -> None:
    until(
        lambda: vm.direct("core.state")["watchdog"]["device"] == "Software Watchdog", "the timer", 90
    )  # its module is loaded late
    vm.gate.rpush("core:default", json.dumps({"id": "end", "command": "core.reboot"}))
    vm.vm.wait_end(END_S)
    console = vm.vm.console()
    assert "shutting down" in console
    assert "watchdog did not stop" not in console
    assert "panic" not in console.lower()
