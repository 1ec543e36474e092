"""What parted, blkid, hdparm, smartctl and /proc/mounts say, as values (pure)."""

import re
from typing import Any, Final

_STATE: Final = re.compile(r"drive state is:\s*(\S+)")
_FREE: Final = re.compile(r"^\d+:(\d+)B:(\d+)B:(\d+)B:free;$")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def parse_parted(text: str) -> dict[str, Any]:
    """`parted -m DISK unit B print free`: `{size, blocksize, table, free: [{start, end, size}]}`.

    A disk without a partition table has the table "unknown" and nothing free.
    """
    found: dict[str, Any] = {"size": 0, "blocksize": 0, "table": "unknown", "free": []}
    for line in text.splitlines():
        if match := _FREE.match(line.strip()):
            start, end, size = (int(number) for number in match.groups())
            found["free"].append({"start": start, "end": end, "size": size})
        elif line.startswith("/"):
            # path:size:transport:logical:physical:table:model:flags; the path may hold a colon
            fields = line.rstrip(";\n").rsplit(":", 7)
            if len(fields) == 8 and fields[1].endswith("B"):
                found["size"], found["blocksize"] = int(fields[1][:-1]), int(fields[3])
                found["table"] = fields[5] or "unknown"
    return found


def parse_blkid(text: str) -> dict[str, dict[str, str]]:
    """`blkid -p -o export DEVICE...`: device -> its tags (TYPE, UUID, PTTYPE, PART_ENTRY_UUID, ...)."""
    found: dict[str, dict[str, str]] = {}
    tags: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if not equals:
            continue
        if name == "DEVNAME":
            tags = found.setdefault(value, {})
        else:
            tags[name] = re.sub(r"\\(.)", r"\1", value)
    return found


def parse_power_state(text: str) -> bool | None:
    """`hdparm -C`: whether the drive stands by; None when it does not tell."""
    match = _STATE.search(text)
    if match is None or match[1] == "unknown":
        return None
    return match[1] in ("standby", "sleeping")


def parse_mounts(text: str) -> dict[str, list[dict[str, Any]]]:
    """/proc/mounts: device -> `[{mountpoint, filesystem, options: {name: value, or "1"}}]`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        source, target, fstype, options = (
            _OCTAL.sub(lambda match: chr(int(match[1], 8)), each) for each in fields[:4]
        )
        pairs = (option.partition("=") for option in options.split(","))
        found.setdefault(source, []).append(
            {
                "mountpoint": target,
                "filesystem": fstype,
                "options": {name: value if equals else "1" for name, equals, value in pairs},
            }
        )
    return found


def smart_information(report: dict[str, Any]) -> dict[str, Any]:
    """The fields of disk.smartctl-info from smartctl's JSON; what a drive does not tell is empty."""
    support = report.get("smart_support", {})
    rate = report.get("rotation_rate")
    return {
        "model": report.get("model_name", ""),
        "serial_number": report.get("serial_number", ""),
        "device_id": _wwn(report.get("wwn", {})),
        "firmware_version": report.get("firmware_version", ""),
        "user_capacity": int(report.get("user_capacity", {}).get("bytes", 0)),
        "sector_size": int(report.get("logical_block_size", 0)),
        "rotation_rate": "" if rate is None else "Solid State Device" if rate == 0 else f"{rate} rpm",
        "device": report.get("device", {}).get("name", ""),
        "ata_version": report.get("ata_version", {}).get("string", ""),
        "sata_version": report.get("sata_version", {}).get("string", ""),
        "smart_support_available": bool(support.get("available", False)),
        "smart_support_enabled": bool(support.get("enabled", False)),
    }


def _wwn(wwn: dict[str, int]) -> str:
    if not wwn:
        return ""
    return f"{wwn.get('naa', 0):x}{wwn.get('oui', 0):06x}{wwn.get('id', 0):09x}"
