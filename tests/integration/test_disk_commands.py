"""disk.*: partitions, mounts, what is in use or holds data, on loop devices of the tests' own."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, daemon
from tests.support.loops import Loops

pytestmark = [pytest.mark.root]


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
def disk(loops: Loops) -> str:
    return loops.make(64)


@pytest.fixture
def target(node: Daemon, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Folders to mount on; what is mounted there in the agent's namespace is unmounted again."""
    made = []

    def folder(name: str) -> str:
        path = tmp_path / name
        path.mkdir()
        made.append(str(path))
        return str(path)

    yield folder
    mounted = {row["mountpoint"] for rows in node.direct("disk.mounts").values() for row in rows}
    for path in made:
        if path in mounted:
            node.direct("disk.umount", source=path)


def refused(node: Daemon, command: str, /, **arguments: Any) -> tuple[int, str]:
    done = node.job(command, arguments)
    assert done["state"] == "ERROR", done
    return done["code"], json.loads(done["data"])


def shell(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def mkfs(path: str) -> None:
    shell("mkfs.ext4", "-q", "-F", path)


def test_getinfo_equals_lsblk_and_sysfs(node: Daemon, disk: str) -> None:
    name = Path(disk).name
    for given in (disk, name):
        found = node.direct("disk.getinfo", disk=given)
        assert (found["name"], found["path"]) == (name, disk)
        assert (found["start"], found["end"]) == (0, (64 << 20) - 1)
        assert (found["size"], found["blocksize"]) == (64 << 20, 512)
        assert (found["table"], found["free"], found["children"]) == ("unknown", [], [])
        assert found["rota"] in ("0", "1")
        assert found["ro"] == "0"


def test_list_has_the_disk_and_its_parts(node: Daemon, disk: str) -> None:
    node.direct("disk.mktable", disk=disk, table_type="gpt")
    node.direct("disk.mkpart", disk=disk, start="0%", end="50%", part_type="primary")
    row = next(row for row in node.direct("disk.list") if row["path"] == disk)
    assert row["table"] == "gpt"
    assert row["pttype"] == "gpt"
    assert [child["path"] for child in row["children"]] == [f"{disk}p1"]
    assert isinstance(row["children"][0]["size"], str)
    assert row["free"][-1]["size"] > 30 << 20
    assert all(block["end"] - block["start"] + 1 == block["size"] for block in row["free"])


def test_part_of_a_disk_has_its_extent(node: Daemon, disk: str) -> None:
    node.direct("disk.mktable", disk=Path(disk).name, table_type="gpt")
    node.direct("disk.mkpart", disk=Path(disk).name, start=1, end="50%", part_type="primary")
    part = node.direct("disk.getinfo", disk=disk, part=f"{Path(disk).name}p1")
    sectors = int(Path(f"/sys/class/block/{Path(disk).name}p1/start").read_text())
    assert part["start"] == sectors * 512
    assert part["end"] == part["start"] + part["size"] - 1
    assert part["free"] == []
    assert refused(node, "disk.getinfo", disk=disk, part="loop999p9")[0] == 404
    assert refused(node, "disk.getinfo", disk=disk, part=disk)[0] == 404


def test_symbolic_link_names_its_device(node: Daemon, disk: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(disk)
    assert node.direct("disk.getinfo", disk=str(link))["path"] == disk
    assert refused(node, "disk.getinfo", disk="/dev/null")[0] == 400
    assert refused(node, "disk.getinfo", disk=str(tmp_path))[0] == 400
    assert refused(node, "disk.getinfo", disk="/dev/nope")[0] == 404


def test_partitions_come_and_go(node: Daemon, disk: str) -> None:
    code, text = refused(node, "disk.mkpart", disk=disk, start="0%", end="50%", part_type="primary")
    assert code == 1001
    assert "disk label" in text
    node.direct("disk.mktable", disk=disk, table_type="gpt")
    node.direct("disk.mkpart", disk=disk, start="0%", end="50%", part_type="primary")
    node.direct("disk.mkpart", disk=disk, start="50%", end="100%", part_type="primary")
    assert len(node.direct("disk.getinfo", disk=disk)["children"]) == 2
    assert refused(node, "disk.mkpart", disk=disk, start="20%", end="80%", part_type="primary")[0] == 1001
    assert refused(node, "disk.mktable", disk=f"{disk}p1", table_type="gpt")[0] == 400
    for number in (1, 2):
        node.direct("disk.rmpart", disk=disk, number=number)
        assert refused(node, "disk.rmpart", disk=disk, number=number)[0] == 404
    assert node.direct("disk.getinfo", disk=disk)["children"] == []


def test_msdos_table_with_a_logical_partition_mounted(
    node: Daemon, disk: str, target: Callable[[str], str]
) -> None:
    node.direct("disk.mktable", disk=disk, table_type="msdos")
    node.direct("disk.mkpart", disk=disk, start="1MiB", end="30MiB", part_type="primary")
    node.direct("disk.mkpart", disk=disk, start="30MiB", end="100%", part_type="extended")
    node.direct("disk.mkpart", disk=disk, start="31MiB", end="100%", part_type="logical")
    for number, name in ((1, "a"), (5, "b")):
        mkfs(f"{disk}p{number}")
        folder = target(name)
        node.direct("disk.mount", source=f"{disk}p{number}", target=folder, options="")
        code, text = refused(node, "disk.rmpart", disk=disk, number=number)
        assert code == 409
        assert "in use" in text
        (row,) = node.direct("disk.mounts")[f"{disk}p{number}"]
        assert (row["mountpoint"], row["filesystem"]) == (folder, "ext4")
        assert row["options"]["rw"] == "1"
    for number in (5, 1):
        node.direct("disk.umount", source=f"{disk}p{number}")
        node.direct("disk.rmpart", disk=disk, number=number)
    assert refused(node, "disk.umount", source=f"{disk}p2")[0] == 404


def test_second_mount_is_refused(node: Daemon, disk: str, target: Callable[[str], str]) -> None:
    mkfs(disk)
    folder = target("m")
    node.direct("disk.mount", source=disk, target=folder, options="auto")
    assert refused(node, "disk.mount", source=disk, target=folder, options="auto")[0] == 409
    node.direct("disk.umount", source=folder)
    assert refused(node, "disk.umount", source=folder)[0] in (400, 404)


def test_mount_options_reach_the_kernel(node: Daemon, disk: str, target: Callable[[str], str]) -> None:
    mkfs(disk)
    folder = target("m")
    node.direct("disk.mount", source=disk, target=folder, options="ro,nodev,errors=continue")
    options = node.direct("disk.mounts")[disk][0]["options"]
    assert {"ro", "nodev"} <= set(options)
    assert node.job("bash", {"script": f"touch {folder}/x"})["state"] == "ERROR"
    node.direct("disk.umount", source=disk)
    code, text = refused(node, "disk.mount", source=disk, target=folder, options="no_such_option")
    assert code == 400
    assert "source" in text
    assert refused(node, "disk.mount", source=disk, target=f"{folder}/none", options="")[0] == 404


def test_mount_of_an_empty_device_is_refused(node: Daemon, disk: str, target: Callable[[str], str]) -> None:
    code, text = refused(node, "disk.mount", source=disk, target=target("m"), options="")
    assert code == 400
    assert "no file system" in text


def test_disk_with_data_keeps_it_unless_told_otherwise(node: Daemon, disk: str) -> None:
    mkfs(disk)
    code, text = refused(node, "disk.mktable", disk=disk, table_type="gpt")
    assert code == 412
    assert "ext4" in text
    assert "ext4" in shell("blkid", "-p", disk)
    node.direct("disk.mktable", disk=disk, table_type="gpt", overwrite=True)
    node.direct("disk.mkpart", disk=disk, start="0%", end="100%", part_type="primary")
    node.direct("disk.mktable", disk=disk, table_type="msdos")
    node.direct("disk.mkpart", disk=disk, start="0%", end="100%", part_type="primary")
    mkfs(f"{disk}p1")
    assert refused(node, "disk.mktable", disk=disk, table_type="gpt")[0] == 412
    assert refused(node, "btrfs.create", label="x", devices=[disk])[0] == 412
    assert refused(node, "btrfs.create", label="x", devices=[f"{disk}p1"])[0] == 412


def test_mounted_disk_is_never_overwritten(node: Daemon, disk: str, target: Callable[[str], str]) -> None:
    node.direct("disk.mktable", disk=disk, table_type="gpt")
    node.direct("disk.mkpart", disk=disk, start="0%", end="100%", part_type="primary")
    mkfs(f"{disk}p1")
    node.direct("disk.mount", source=f"{disk}p1", target=target("m"), options="")
    for path in (disk, f"{disk}p1"):
        code, text = refused(node, "btrfs.create", label="x", devices=[path], overwrite=True)
        assert code == 409
        assert "in use" in text
    assert refused(node, "disk.mktable", disk=disk, table_type="gpt", overwrite=True)[0] == 409
    assert len(node.direct("disk.getinfo", disk=disk)["children"]) == 1


def test_protected_partition_and_its_disk_refuse_writes(node: Daemon, disk: str) -> None:
    node.direct("disk.mktable", disk=disk, table_type="gpt")
    node.direct("disk.mkpart", disk=disk, start="0%", end="100%", part_type="primary")
    (child,) = node.direct("disk.getinfo", disk=disk)["children"]
    node.direct("disk.protect", partuuid="00000000-0000-0000-0000-000000000000")
    assert node.direct("disk.getinfo", disk=disk)["ro"] == "0"
    node.direct("disk.protect", partuuid=child["partuuid"].upper())
    assert node.direct("disk.getinfo", disk=disk)["ro"] == "1"
    assert node.direct("disk.getinfo", disk=disk, part=f"{disk}p1")["ro"] == "1"
    for command, more in (("disk.mktable", {"disk": disk}), ("btrfs.create", {"devices": [f"{disk}p1"]})):
        code, text = refused(node, command, **more, label="", overwrite=True)
        assert code == 412
        assert "write-protected" in text


def test_seek_time_is_measured_on_the_device(node: Daemon, disk: str) -> None:
    found = node.direct("disk.seektime", disk=disk)
    assert found["device"] == disk
    assert found["elapsed"] >= 0
    assert found["type"] == ("SSD" if found["elapsed"] < 1000 else "HDD")


def test_drive_commands_say_what_a_loop_device_cannot_tell(node: Daemon, disk: str) -> None:
    assert refused(node, "disk.smartctl-info", device=disk)[0] > 1000
    assert refused(node, "disk.smartctl-health", device=disk)[0] > 1000
    assert refused(node, "disk.isstandby", disk=disk)[0] in (400, 1022, 1025)
    assert refused(node, "disk.spindown", disk=disk, spindown=241)[0] == 400


def test_absent_program_is_named(tmp_path: Path) -> None:
    hide = 'for name in hdparm smartctl; do mount --bind /dev/null /usr/sbin/$name; done; exec "$@"'
    prefix = ["unshare", "--mount", "/bin/sh", "-ec", hide, "sh"]
    with daemon(tmp_path, prefix=prefix) as bare, Loops(tmp_path) as loops:
        disk = loops.make(1)
        for command, arguments in (
            ("disk.isstandby", {"disk": disk}),
            ("disk.spindown", {"disk": disk, "spindown": 0}),
            ("disk.smartctl-info", {"device": disk}),
            ("disk.smartctl-health", {"device": disk}),
        ):
            code, text = refused(bare, command, **arguments)
            assert code == 503
            assert "is not installed on this node" in text


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("disk.getinfo", {}, "disk"),
    ("disk.getinfo", {"disk": 5}, "disk"),
    ("disk.getinfo", {"disk": ""}, "disk"),
    ("disk.getinfo", {"disk": "../sda"}, "disk"),
    ("disk.getinfo", {"disk": "-x"}, "disk"),
    ("disk.getinfo", {"disk": "/dev/a\0b"}, "disk"),
    ("disk.getinfo", {"disk": "/dev/null", "part": ["x"]}, "part"),
    ("disk.smartctl-info", {}, "device"),
    ("disk.smartctl-health", {"device": 1}, "device"),
    ("disk.spindown", {"disk": "sda"}, "spindown"),
    ("disk.spindown", {"disk": "sda", "spindown": 241}, "spindown"),
    ("disk.spindown", {"disk": "sda", "spindown": "1"}, "spindown"),
    ("disk.spindown", {"spindown": 1}, "disk"),
    ("disk.isstandby", {}, "disk"),
    ("disk.seektime", {"disk": None}, "disk"),
    ("disk.protect", {"partuuid": "x y"}, "partuuid"),
    ("disk.protect", {}, "partuuid"),
    ("disk.mktable", {"disk": "sda", "table_type": "ntfs"}, "table_type"),
    ("disk.mktable", {"disk": "sda", "overwrite": "yes"}, "overwrite"),
    ("disk.mktable", {"table_type": "gpt"}, "disk"),
    ("disk.mkpart", {"disk": "sda", "start": 1}, "end"),
    ("disk.mkpart", {"disk": "sda", "start": 1, "end": "; reboot"}, "end"),
    ("disk.mkpart", {"disk": "sda", "start": True, "end": 2}, "start"),
    ("disk.mkpart", {"disk": "sda", "start": 1, "end": 2, "part_type": "quaternary"}, "part_type"),
    ("disk.rmpart", {"disk": "sda", "number": 0}, "number"),
    ("disk.rmpart", {"disk": "sda", "number": "1"}, "number"),
    ("disk.rmpart", {"disk": "sda"}, "number"),
    ("disk.mount", {"source": "sda", "target": "/mnt"}, "options"),
    ("disk.mount", {"source": "sda", "target": "mnt", "options": ""}, "target"),
    ("disk.mount", {"source": "sda", "target": "/mnt", "options": "bind"}, "options"),
    ("disk.mount", {"source": "", "target": "/mnt", "options": ""}, "source"),
    ("disk.umount", {"source": 5}, "source"),
    ("disk.umount", {}, "source"),
]


def test_wrong_arguments_are_refused_with_the_name_of_the_field(node: Daemon) -> None:
    for command, arguments, field in WRONG:
        code, text = refused(node, command, **arguments)
        assert code == 400, (command, arguments, code, text)
        assert field in text, (command, arguments, text)
