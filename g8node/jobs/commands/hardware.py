"""info.*: links, sockets, disks and firmware (async); spec core0-protocol 4.2."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from g8node.jobs.registry import Context, command
from g8node.node import hardware
from g8node.wire import dmi


@command("info.nic", base=True, role="reader")
async def nic(ctx: Context) -> list[dict[str, Any]]:
    """The network links with addresses, speed and state."""
    return await hardware.nics()


@command("info.disk", base=True, role="reader")
async def disk(ctx: Context) -> list[dict[str, Any]]:
    """The file systems that are mounted from disks."""
    return await hardware.disks()


@command("info.port", base=True, role="reader")
async def port(ctx: Context) -> list[dict[str, Any]]:
    """The listening sockets and who holds them; pid 0 when nobody here does."""
    return await hardware.ports()


class DmiArgs(Struct, frozen=True):
    types: Annotated[
        list[
            Annotated[int, Meta(ge=0, le=dmi.TYPE_MAX)]
            | Annotated[str, Meta(max_length=40, extra={"kind": "keyword"})]
        ],
        Meta(max_length=64, description=f"numbers, or {', '.join(dmi.KEYWORDS)}; none: all"),
    ] = []


@command("info.dmi", role="reader")
async def dmi_(ctx: Context, args: DmiArgs) -> dict[str, Any]:
    """The firmware's tables as dmidecode prints them."""
    return await hardware.firmware(ctx.node.reaper, dmi.type_numbers(list(args.types)))
