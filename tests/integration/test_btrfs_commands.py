"""btrfs.*: file systems over loop devices, subvolumes, snapshots, quotas."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, daemon
from tests.support.loops import Loops

pytestmark = [pytest.mark.root]

SIZE_MIB = 300


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[Loops]:
    with Loops(tmp_path) as made:
        yield made


@pytest.fixture
def volume(node: Daemon, loops: Loops, tmp_path: Path) -> Iterator[str]:
    """A btrfs over two loop devices, mounted."""
    devices = [loops.make(SIZE_MIB), loops.make(SIZE_MIB)]
    node.direct("btrfs.create", label="pool", devices=devices, metadata="raid1", data="raid0")
    folder = tmp_path / "volume"
    folder.mkdir()
    node.direct("disk.mount", source=devices[0], target=str(folder), options="")
    yield str(folder)
    node.direct("disk.umount", source=str(folder))


def refused(node: Daemon, command: str, /, **arguments: Any) -> tuple[int, str]:
    done = node.job(command, arguments)
    assert done["state"] == "ERROR", done
    return done["code"], json.loads(done["data"])


def script(node: Daemon, text: str) -> dict[str, Any]:
    return node.job("bash", {"script": text})


def subvolumes(node: Daemon, path: str) -> dict[str, dict[str, Any]]:
    return {row["Path"]: row for row in node.direct("btrfs.subvol_list", path=path)}


def test_file_system_is_created_listed_and_described(node: Daemon, volume: str, loops: Loops) -> None:
    (row,) = [
        row
        for row in node.direct("btrfs.list")
        if {each["path"] for each in row["devices"]} == set(loops.paths)
    ]
    assert (row["label"], row["total_devices"], row["warnings"]) == ("pool", 2, "")
    assert [device["dev_id"] for device in row["devices"]] == [1, 2]
    assert all(device["size"] == SIZE_MIB << 20 for device in row["devices"])
    info = node.direct("btrfs.info", mountpoint=volume)
    assert info["uuid"] == row["uuid"]
    assert info["metadata"]["profile"] == "raid1"
    assert info["data"]["profile"] == "raid0"
    assert info["globalreserve"]["total"] > 0
    assert info["system"]["used"] <= info["system"]["total"]


def test_file_system_without_label_is_called_none(node: Daemon, loops: Loops) -> None:
    device = loops.make(SIZE_MIB)
    node.direct("btrfs.create", label="", devices=[device])
    (row,) = [row for row in node.direct("btrfs.list") if row["devices"][0]["path"] == device]
    assert row["label"] == "none"
    code, text = refused(node, "btrfs.create", label="x", devices=[device])
    assert code == 412
    assert "btrfs" in text
    node.direct("btrfs.create", label="x", devices=[device], overwrite=True)


def test_any_device_of_a_file_system_names_its_mount(node: Daemon, loops: Loops, tmp_path: Path) -> None:
    devices = [loops.make(SIZE_MIB), loops.make(SIZE_MIB)]
    node.direct("btrfs.create", label="two", devices=devices)
    folder = tmp_path / "two"
    folder.mkdir()
    for source in devices:
        for named in devices:
            node.direct("disk.mount", source=source, target=str(folder), options="")
            node.direct("disk.umount", source=named)
    assert refused(node, "disk.umount", source=devices[0])[0] == 404


def test_devices_are_added_and_removed(node: Daemon, volume: str, loops: Loops) -> None:
    third = loops.make(SIZE_MIB)
    node.direct("btrfs.device_add", mountpoint=volume, devices=[third])
    assert node.direct("btrfs.info", mountpoint=volume)["total_devices"] == 3
    assert refused(node, "btrfs.device_add", mountpoint=volume, devices=[third])[0] == 409
    node.direct("btrfs.device_remove", mountpoint=volume, devices=[third])
    assert node.direct("btrfs.info", mountpoint=volume)["total_devices"] == 2
    assert refused(node, "btrfs.device_remove", mountpoint=volume, devices=[third])[0] == 1001


def test_device_commands_refuse_what_is_not_there(node: Daemon, volume: str, loops: Loops) -> None:
    other = loops.make(SIZE_MIB)
    for command in ("btrfs.device_add", "btrfs.device_remove"):
        assert refused(node, command, mountpoint=f"{volume}/none", devices=[other])[0] == 404
        assert refused(node, command, mountpoint="/proc", devices=[other])[0] == 404
        assert refused(node, command, mountpoint=volume, devices=["/dev/nope"])[0] == 404
        assert refused(node, command, mountpoint=volume, devices=["/dev/null"])[0] == 400
        assert refused(node, command, mountpoint=volume, devices=[other, other])[0] == 400


def test_subvolumes_nest_and_a_parent_stays_while_it_has_children(node: Daemon, volume: str) -> None:
    for path in ("a", "a/b"):
        node.direct("btrfs.subvol_create", path=f"{volume}/{path}")
    found = subvolumes(node, volume)
    assert set(found) == {"a", "a/b"}
    assert set(found["a"]) == {"ID", "Gen", "TopLevel", "Path", "Quota"}
    assert found["a/b"]["TopLevel"] == found["a"]["ID"]
    assert found["a"]["Quota"] == 0
    assert refused(node, "btrfs.subvol_create", path=f"{volume}/a")[0] == 1001
    assert refused(node, "btrfs.subvol_delete", path=f"{volume}/a")[0] == 1001
    for path in ("a/b", "a"):
        node.direct("btrfs.subvol_delete", path=f"{volume}/{path}")
    assert refused(node, "btrfs.subvol_delete", path=f"{volume}/a")[0] == 1001
    assert subvolumes(node, volume) == {}


def test_subvolumes_of_another_file_system_are_refused(node: Daemon) -> None:
    assert refused(node, "btrfs.subvol_list", path="/proc")[0] == 1001
    assert refused(node, "btrfs.info", mountpoint="/proc")[0] == 404


def test_snapshots_are_writable_or_read_only(node: Daemon, volume: str) -> None:
    node.direct("btrfs.subvol_create", path=f"{volume}/a")
    script(node, f"echo first > {volume}/a/file")
    node.direct("btrfs.subvol_snapshot", source=f"{volume}/a", destination=f"{volume}/rw")
    node.direct("btrfs.subvol_snapshot", source=f"{volume}/a", destination=f"{volume}/rw/ro", read_only=True)
    assert script(node, f"echo more >> {volume}/rw/file")["state"] == "SUCCESS"
    assert script(node, f"cat {volume}/rw/ro/file")["streams"][0] == "first\n"
    assert "Read-only" in script(node, f"echo more >> {volume}/rw/ro/file")["streams"][1]
    code, _ = refused(
        node, "btrfs.subvol_snapshot", source=f"{volume}/a", destination=f"{volume}/rw/ro/inside"
    )
    assert code == 1001
    assert set(subvolumes(node, volume)) == {"a", "rw", "rw/ro"}


def test_quota_stops_what_exceeds_it(node: Daemon, volume: str) -> None:
    node.direct("btrfs.subvol_create", path=f"{volume}/a")
    node.direct("btrfs.subvol_quota", path=f"{volume}/a", limit="10M")
    assert subvolumes(node, volume)["a"]["Quota"] == 10 << 20
    write = f"dd if=/dev/urandom of={volume}/a/big bs=1M count=20 conv=fsync"
    assert "Disk quota exceeded" in script(node, write)["streams"][1]
    node.direct("btrfs.subvol_quota", path=f"{volume}/a", limit="none")
    assert subvolumes(node, volume)["a"]["Quota"] == 0
    assert script(node, write)["state"] == "SUCCESS"


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("btrfs.info", {}, "mountpoint"),
    ("btrfs.info", {"mountpoint": "mnt"}, "mountpoint"),
    ("btrfs.info", {"mountpoint": "/" + "x" * 5000}, "mountpoint"),
    ("btrfs.create", {"devices": ["sda"]}, "label"),
    ("btrfs.create", {"label": "x", "devices": []}, "devices"),
    ("btrfs.create", {"label": "x", "devices": "sda"}, "devices"),
    ("btrfs.create", {"label": "x", "devices": ["-f"]}, "devices"),
    ("btrfs.create", {"label": "x\n", "devices": ["sda"]}, "label"),
    ("btrfs.create", {"label": "x", "devices": ["sda"], "metadata": "raid7"}, "metadata"),
    ("btrfs.create", {"label": "x", "devices": ["sda"], "data": 1}, "data"),
    ("btrfs.create", {"label": "x", "devices": ["sda"], "overwrite": 1}, "overwrite"),
    ("btrfs.device_add", {"mountpoint": "/", "devices": [1]}, "devices"),
    ("btrfs.device_add", {"devices": ["sda"]}, "mountpoint"),
    ("btrfs.device_remove", {"mountpoint": "/"}, "devices"),
    ("btrfs.subvol_create", {"path": "relative"}, "path"),
    ("btrfs.subvol_create", {"path": "/a\0b"}, "path"),
    ("btrfs.subvol_delete", {}, "path"),
    ("btrfs.subvol_list", {"path": 5}, "path"),
    ("btrfs.subvol_quota", {"path": "/x"}, "limit"),
    ("btrfs.subvol_quota", {"path": "/x", "limit": "ten"}, "limit"),
    ("btrfs.subvol_quota", {"path": "x", "limit": "1M"}, "path"),
    ("btrfs.subvol_snapshot", {"source": "/a"}, "destination"),
    ("btrfs.subvol_snapshot", {"source": "a", "destination": "/b"}, "source"),
    ("btrfs.subvol_snapshot", {"source": "/a", "destination": "/b", "read_only": "no"}, "read_only"),
]


def test_wrong_arguments_are_refused_with_the_name_of_the_field(node: Daemon) -> None:
    for command, arguments, field in WRONG:
        code, text = refused(node, command, **arguments)
        assert code == 400, (command, arguments, code, text)
        assert field in text, (command, arguments, text)
