"""What the btrfs command prints, as values (pure).

The text forms, since `--format json` is missing from some of these subcommands in the versions of Debian 12.
All are read with `--raw`, so that numbers are bytes.
"""

import re
from typing import Any, Final

_LABEL: Final = re.compile(r"^Label: (?:'(?P<label>.*)'|none)\s+uuid: (?P<uuid>[0-9a-f-]{36})\s*$")
_TOTAL: Final = re.compile(r"^\s*Total devices (\d+) FS bytes used (\d+)\s*$")
_DEVICE: Final = re.compile(r"^\s*devid\s+(\d+) size (\d+) used (\d+) path (.+?)\s*$")
_GROUP: Final = re.compile(r"^([\w+]+), ([\w./]+): total=(\d+), used=(\d+)\s*$")
_SUBVOLUME: Final = re.compile(r"^ID (\d+) gen (\d+) top level (\d+) path (.+)$")
_QGROUP: Final = re.compile(r"^0/(\d+)\s+\S+\s+\S+\s+(\d+|none)\s+(?:\d+|none)(?:\s|$)")


def parse_show(text: str) -> list[dict[str, Any]]:
    """`btrfs filesystem show --raw`: `{label, uuid, total_devices, used, devices, warnings}` of each.

    Lines that belong to no file system (warnings before the first label) are left out.
    """
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        if match := _LABEL.match(line):
            found.append(
                {
                    "label": match["label"] or "none",
                    "uuid": match["uuid"],
                    "total_devices": 0,
                    "used": 0,
                    "devices": [],
                    "warnings": "",
                }
            )
        elif found:
            _show_line(found[-1], line)
    return found


def _show_line(entry: dict[str, Any], line: str) -> None:
    if match := _TOTAL.match(line):
        entry["total_devices"], entry["used"] = int(match[1]), int(match[2])
    elif match := _DEVICE.match(line):
        dev_id, size, used = (int(match[number]) for number in (1, 2, 3))
        entry["devices"].append({"dev_id": dev_id, "size": size, "used": used, "path": match[4]})
    elif line.strip().startswith("***"):
        entry["warnings"] = "\n".join(filter(None, (entry["warnings"], line.strip())))


def parse_df(text: str) -> dict[str, dict[str, Any]]:
    """`btrfs filesystem df --raw`: `{data, system, metadata, globalreserve}`, each `{profile, total, used}`.

    A group that is being converted has two lines; their bytes are added and the first profile is told.
    """
    groups: dict[str, dict[str, Any]] = {
        name: {"profile": "", "total": 0, "used": 0}
        for name in ("data", "system", "metadata", "globalreserve")
    }
    for line in text.splitlines():
        match = _GROUP.match(line)
        if match is None:
            continue
        # Mixed block groups hold both kinds.
        names = ("data", "metadata") if match[1] == "Data+Metadata" else (match[1].lower(),)
        for name in names:
            if (group := groups.get(name)) is not None:
                group["profile"] = group["profile"] or match[2].lower()
                group["total"] += int(match[3])
                group["used"] += int(match[4])
    return groups


def parse_subvolumes(text: str) -> list[dict[str, Any]]:
    """`btrfs subvolume list`, without quotas."""
    rows = []
    for line in text.splitlines():
        if match := _SUBVOLUME.match(line):
            rows.append(
                {
                    "ID": int(match[1]),
                    "Gen": int(match[2]),
                    "TopLevel": int(match[3]),
                    "Path": match[4],
                    "Quota": 0,
                }
            )
    return rows


def parse_quotas(text: str) -> dict[int, int]:
    """`btrfs qgroup show -re --raw`: subvolume id -> most referenced bytes; unlimited ones are left out."""
    found = {}
    for line in text.splitlines():
        match = _QGROUP.match(line.strip())
        if match is not None and match[2] != "none":
            found[int(match[1])] = int(match[2])
    return found
