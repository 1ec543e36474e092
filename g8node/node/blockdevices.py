"""Block devices named by callers, and what must not be overwritten (async).

Whatever writes to a whole device asks here first: nothing that the kernel holds, nothing write-protected, and
nothing with a signature unless the caller said `overwrite`.
"""

import errno
from collections.abc import Sequence
from typing import Final

from g8node.errors import Conflict, FailedPrecondition, InvalidArgument, NodeError, NotFound
from g8node.linux import disk
from g8node.linux.disk import Device
from g8node.node import programs
from g8node.runtime import blocking
from g8node.runtime.process import Reaper
from g8node.wire.disktools import parse_blkid

_NOTHING_FOUND: Final = 2
_AMBIVALENT: Final = 8
_BATCH: Final = 64


async def resolve(given: str, field: str) -> Device:
    """Symbolic links followed. The path may lie anywhere, so that it is looked at in the pool "path"."""
    try:
        return await blocking.run("path", disk.resolve, given)
    except OSError as error:
        if error.errno == errno.ENOTBLK:
            raise InvalidArgument(f"{field}: {given} is no block device") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO):
            raise NotFound(f"{field}: there is no device {given}") from error
        raise NodeError(f"{field}: {given}: {(error.strerror or '').lower()}") from error


async def resolve_all(given: Sequence[str], field: str) -> list[Device]:
    """As `resolve`; the same device twice is refused."""
    devices = [await resolve(each, field) for each in given]
    if len({device.number for device in devices}) != len(devices):
        raise InvalidArgument(f"{field}: a device is named twice")
    return devices


async def tags(reaper: Reaper, paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """What blkid reads from the devices themselves; its cache and udev's are not asked."""
    found: dict[str, dict[str, str]] = {}
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        done = await programs.attempt(reaper, "blkid", "-p", "-o", "export", *batch)
        if done.code not in (0, _NOTHING_FOUND, _AMBIVALENT):
            raise programs.failure("blkid", done)
        found |= parse_blkid(done.stdout.decode(errors="replace"))
    return found


async def refuse_use(device: Device, field: str) -> None:
    """Conflict when it or one of its partitions is held by the kernel, 412 when it is write-protected."""
    paths = [device.path]
    if not device.is_partition:
        paths += await blocking.run("disk", disk.partitions, device.disk)
    for path in paths:
        try:
            used = await blocking.run("disk", disk.in_use, path)
        except OSError as error:
            raise NodeError(f"{field}: {path}: {(error.strerror or '').lower()}") from error
        if used:
            raise Conflict(f"{field}: {path} is in use", hint="unmount it, or take it out of what holds it")
    if await blocking.run("disk", disk.is_read_only, device):
        raise FailedPrecondition(f"{field}: {device.path} is write-protected")


async def refuse_data(reaper: Reaper, device: Device, field: str, *, table_too: bool) -> None:
    """412 when a file system, swap, volume or array was made on it or on one of its partitions.

    `table_too`: a partition table counts as well.
    """
    paths = [device.path]
    if not device.is_partition:
        paths += await blocking.run("disk", disk.partitions, device.disk)
    for path in paths:
        done = await programs.attempt(reaper, "blkid", "-p", "-o", "export", path)
        if done.code == _NOTHING_FOUND:
            continue
        if done.code not in (0, _AMBIVALENT):
            raise programs.failure("blkid", done)
        seen = next(iter(parse_blkid(done.stdout.decode(errors="replace")).values()), {})
        kind = seen.get("TYPE") or ("several signatures" if done.code == _AMBIVALENT else "")
        if table_too and path == device.path:
            kind = kind or seen.get("PTTYPE", "")
        if kind:
            raise FailedPrecondition(
                f"{field}: {path} holds data ({kind})", hint="overwrite=true destroys it"
            )


async def refuse_overwriting(
    reaper: Reaper, device: Device, field: str, *, overwrite: bool, table_too: bool = True
) -> None:
    """Both refusals; `overwrite` lifts the one for data, nothing lifts the one for use."""
    await refuse_use(device, field)
    if not overwrite:
        await refuse_data(reaper, device, field, table_too=table_too)
