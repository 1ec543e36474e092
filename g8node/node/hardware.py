"""Links, sockets, mounted disks and firmware tables of the machine (async)."""

from typing import Any, Final

from g8node.errors import Unavailable
from g8node.linux import mount, netinfo
from g8node.runtime import blocking
from g8node.runtime.process import Reaper
from g8node.wire import dmi

_DMIDECODE: Final = ("/usr/sbin/dmidecode", "/sbin/dmidecode", "/usr/bin/dmidecode")
_TIMEOUT_S: Final = 20.0


async def nics() -> list[dict[str, Any]]:
    return await blocking.run("disk", netinfo.nics)


async def ports() -> list[dict[str, Any]]:
    return await blocking.run("disk", netinfo.ports)


async def disks() -> list[dict[str, Any]]:
    """What is mounted from a block device: `{device, mountpoint, fstype, opts}`."""
    return await blocking.run("disk", mounted_disks)


def mounted_disks(table: str = "/proc/self/mountinfo") -> list[dict[str, Any]]:
    """The same from a table of mounts; blocks."""
    real = mount.disk_types()
    return [
        {
            "device": entry.source,
            "mountpoint": entry.target,
            "fstype": entry.fstype,
            "opts": ",".join(dict.fromkeys([*entry.options.split(","), *entry.super_options.split(",")])),
        }
        for entry in mount.mounts(table)
        if entry.fstype in real
    ]


async def firmware(
    reaper: Reaper, types: list[int], programs: tuple[str, ...] = _DMIDECODE
) -> dict[str, Any]:
    """The DMI tables of these types (none: all). Unavailable says why when they cannot be read."""
    options = [word for number in types for word in ("--type", str(number))]
    for program in programs:
        try:
            done = await reaper.run([program, *options], timeout_s=_TIMEOUT_S)
        except FileNotFoundError:
            continue
        tables = dmi.parse(done.stdout.decode("utf-8", "replace"))
        if done.code != 0 or (not tables["sections"] and not _present(done.stdout)):
            raise Unavailable(f"dmidecode: {_reason(done.code, done.stdout, done.stderr)}")
        return tables
    raise Unavailable("dmidecode is not installed on this node", hint=f"looked for {', '.join(programs)}")


def _present(output: bytes) -> bool:
    """The machine has tables, if none of the types asked for."""
    return b"SMBIOS" in output and b"present" in output


def _reason(code: int, output: bytes, errors: bytes) -> str:
    lines = [line for line in (errors or output).decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip("# ") if lines else f"exit code {code}"
