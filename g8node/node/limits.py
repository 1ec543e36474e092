"""Limits of a container as control group files (pure): one mapping for its start and for a live change."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

PERIOD_US: Final = 100_000
_MOST: Final = 2**62
_Count = Annotated[int, Meta(ge=0, le=_MOST)]
_Device = Annotated[
    str,
    Meta(
        pattern=r"\A(?:/dev/[!-9;-~]+|[A-Za-z0-9][A-Za-z0-9!._-]*)\Z",
        max_length=200,
        extra={"kind": "device"},
    ),
]
_IO_KEYS: Final = {
    "read_bps": ("rbps", "throttleReadBpsDevice"),
    "write_bps": ("wbps", "throttleWriteBpsDevice"),
    "read_iops": ("riops", "throttleReadIOPSDevice"),
    "write_iops": ("wiops", "throttleWriteIOPSDevice"),
}


class DeviceLimits(Struct, frozen=True):
    """What may be read from and written to one block device each second; 0: no limit."""

    read_bps: _Count | None = None
    write_bps: _Count | None = None
    read_iops: _Count | None = None
    write_iops: _Count | None = None


class Limits(Struct, frozen=True):
    """What a container may use; a field that is not given stays as it is, 0 lifts the limit."""

    cpu: Annotated[float, Meta(ge=0, le=4096, description="processors, e.g. 1.5")] | None = None
    memory: Annotated[int, Meta(ge=0, le=_MOST, description="bytes")] | None = None
    swap: Annotated[int, Meta(ge=0, le=_MOST, description="bytes beside memory")] | None = None
    pids: Annotated[int, Meta(ge=0, le=4 << 20, description="processes and threads")] | None = None
    io: Annotated[dict[_Device, DeviceLimits], Meta(max_length=16, description="by block device")] | None = (
        None
    )


def merged(old: Limits | None, new: Limits) -> Limits:
    """What is asked for after a live change; what was lifted counts as not given."""
    before, fields = old or Limits(), {}
    for name in ("cpu", "memory", "swap", "pids"):
        value = getattr(new, name)
        fields[name] = (getattr(before, name) if value is None else value) or None
    io = {**(before.io or {}), **(new.io or {})}
    return Limits(**fields, io=io or None)


def files(limits: Limits) -> dict[str, str]:
    """The text for each file of the group, all but io.max; cgroup-v2.rst of the kernel."""
    made = {}
    if limits.cpu is not None:
        quota = str(max(round(limits.cpu * PERIOD_US), 1000)) if limits.cpu else "max"
        made["cpu.max"] = f"{quota} {PERIOD_US}"
    if limits.memory is not None:
        made["memory.max"] = str(limits.memory or "max")
        # Else what does not fit in memory goes to the swap of all, and the limit is none.
        made["memory.swap.max"] = str(limits.swap or 0) if limits.memory else "max"
    elif limits.swap is not None:
        made["memory.swap.max"] = str(limits.swap)
    if limits.pids is not None:
        made["pids.max"] = str(limits.pids or "max")
    return made


def io_lines(limits: Limits, numbers: Mapping[str, tuple[int, int]]) -> list[str]:
    """The lines for io.max, written one by one; `numbers`: (major, minor) by device."""
    lines = []
    for device, each in (limits.io or {}).items():
        major, minor = numbers[device]
        rules = [
            f"{key}={getattr(each, field) or 'max'}"
            for field, (key, _) in _IO_KEYS.items()
            if getattr(each, field) is not None
        ]
        if rules:
            lines.append(f"{major}:{minor} {' '.join(rules)}")
    return lines


def resources(limits: Limits, numbers: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The same in `linux.resources` of the runtime; `unified` is written as it is."""
    made: dict[str, Any] = {}
    if unified := files(limits):
        made["unified"] = unified
    throttles: dict[str, list[dict[str, int]]] = {}
    for device, each in (limits.io or {}).items():
        major, minor = numbers[device]
        for field, (_, name) in _IO_KEYS.items():
            if rate := getattr(each, field):
                throttles.setdefault(name, []).append({"major": major, "minor": minor, "rate": rate})
    if throttles:
        made["blockIO"] = throttles
    return made
