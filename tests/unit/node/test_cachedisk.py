"""Which disk becomes the cache disk."""

from typing import Any

import pytest

from g8node.node.cachedisk import considered, labelled


def row(name: str, **fields: Any) -> dict[str, Any]:
    usual = {"name": name, "path": f"/dev/{name}", "type": "disk", "rm": "0", "ro": "0", "rota": "0"}
    return usual | {"size": str(10 << 30), "tran": None, "serial": f"S-{name}", "wwn": None} | fields


@pytest.mark.parametrize(
    "fields",
    [{"tran": "usb"}, {"rm": "1"}, {"ro": "1"}, {"size": str(100 << 20)}, {"type": "rom"}, {"tran": "iscsi"}],
)
def test_auto_leaves_what_is_no_fixed_disk(fields: dict[str, Any]) -> None:
    assert considered([row("sda", **fields)], "auto") == []


@pytest.mark.parametrize("name", ["loop0", "zram0", "nbd0", "ram1", "sr0", "dm-0", "md0", "fd0"])
def test_auto_leaves_what_is_no_drive(name: str) -> None:
    assert considered([row(name)], "auto") == []


def test_auto_prefers_solid_state() -> None:
    rows = [row("sda", rota="1"), row("sdb", rota="1"), row("vda"), row("nvme0n1")]
    assert [one["name"] for one in considered(rows, "auto")] == ["nvme0n1", "vda", "sda", "sdb"]


@pytest.mark.parametrize("choice", ["vdb", "/dev/vdb", "S-vdb", "eui.5"])
def test_disk_is_named_by_name_path_serial_or_wwn(choice: str) -> None:
    rows = [row("vda"), row("vdb", wwn="eui.5"), row("loop3")]
    assert [one["name"] for one in considered(rows, choice)] == ["vdb"]


def test_name_that_no_disk_has_is_none() -> None:
    assert considered([row("vda", serial=None)], "") == []
    assert considered([row("vda")], "vd") == []


def test_our_file_system_is_found_by_its_label_on_disk_or_partition() -> None:
    ours = {"fstype": "btrfs", "label": "sp_zos-cache"}
    assert labelled([row("vda"), row("vdb", children=[row("vdb1", **ours)])]) == "/dev/vdb1"
    assert labelled([row("vda", **ours)]) == "/dev/vda"
    assert labelled([row("vda", fstype="ext4", label="sp_zos-cache"), row("vdb", fstype="btrfs")]) == ""
