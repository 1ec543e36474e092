"""info.* and config.get over a gate connection, compared with what the machine says elsewhere."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, daemon, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node"), "[containers]\nmax_count = 0\n") as running:
        yield running
        assert "Traceback" not in running.log()


def links_of_the_machine() -> dict[str, dict[str, Any]]:
    listed = subprocess.run(["ip", "-json", "addr"], capture_output=True, check=True, timeout=60).stdout
    return {link["ifname"]: link for link in json.loads(listed)}


def test_nic_agrees_with_ip(node: Daemon) -> None:
    def unchanged() -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """Links of others come and go, and get their addresses a bit later."""
        before, rows = links_of_the_machine(), node.direct("info.nic")
        return (before, rows) if links_of_the_machine() == before else None

    links, listed = eventually(unchanged)
    rows = {row["name"]: row for row in listed}
    assert rows.keys() == links.keys()
    for name, row in rows.items():
        link = links[name]
        assert row["mtu"] == link["mtu"]
        expected = [f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"]]
        assert [each["addr"] for each in row["addrs"]] == expected
        assert ("up" in row["flags"]) == ("UP" in link["flags"])
        assert row["operstate"] is (link["operstate"] == "UP")
    assert rows["lo"]["flags"] == ["up", "loopback"]
    assert rows["lo"]["hardwareaddr"] == ""


def test_disk_lists_real_file_systems_only(node: Daemon) -> None:
    rows = node.direct("info.disk")
    assert all(row.keys() == {"device", "mountpoint", "fstype", "opts"} for row in rows)
    assert not {row["fstype"] for row in rows} & {"proc", "sysfs", "tmpfs", "devtmpfs", "cgroup2", "overlay"}
    table = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    here = {(line[0], line[1], line[2]) for line in table if line[0].startswith("/dev/")}
    assert {(row["device"], row["mountpoint"], row["fstype"]) for row in rows} >= here


def test_port_lists_what_listens_and_who(node: Daemon, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as named,
        socket.create_connection(tcp.getsockname()),
    ):
        udp.bind(("127.0.0.1", 0))
        named.bind(str(tmp_path / "a socket"))
        named.listen()
        rows = node.direct("info.port")
        ports = [each.getsockname()[1] for each in (tcp, tcp6, udp)]
    mine = [row for row in rows if row["pid"] == os.getpid()]
    assert mine == [
        {"network": "tcp", "port": ports[0], "ip": "127.0.0.1", "pid": os.getpid()},
        {"network": "tcp6", "port": ports[1], "ip": "::1", "pid": os.getpid()},
        {"network": "udp", "port": ports[2], "ip": "127.0.0.1", "pid": os.getpid()},
        {"network": "unix", "unix": str(tmp_path / "a socket"), "pid": os.getpid()},
    ]
    order = [row["network"] for row in rows]
    assert order == sorted(order, key=("tcp", "tcp6", "udp", "udp6", "unix").index)
    assert node.port in [row.get("port") for row in rows]


def test_dmi_answers_or_says_why_not(node: Daemon) -> None:
    result = node.job("info.dmi", {"types": ["bios", 1]})
    if Path("/sys/firmware/dmi/tables/DMI").exists():
        sections = json.loads(result["data"])["sections"]
        assert {section["typenum"] for section in sections} <= {0, 1, 13}
    else:
        assert result["code"] == 503
        assert "dmidecode" in result["data"]


def test_config_has_the_original_shape(node: Daemon) -> None:
    shown = node.direct("config.get")
    assert shown["main"] == {"max_jobs": 524288, "include": [], "network": "", "log_level": "info"}
    assert shown["logger"] == {
        "file": {"levels": [2, 4, 7, 8, 9]},
        "Ledis": {"ledis": {"levels": []}, "size": 50000},
    }
    assert shown["containers"]["max_count"] == 1000
    assert shown["stats"]["enabled"] is True
    assert shown["extension"] == {}
    assert {"storage", "cache"} <= shown["globals"].keys()
    assert not re.search(node.password, json.dumps(shown))
