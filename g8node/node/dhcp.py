"""Leases for the links of containers (async): busybox's udhcpc asks, core0 does what its answer says.

The client runs in the container's network namespace, but on the node's root: nothing that the container has
is executed or written by it, and nothing of the node is changed by what a server answers.
"""

import asyncio
import contextlib
import functools
import ipaddress
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from g8node.runtime import blocking, logs
from g8node.runtime.process import Reaper

log = logs.get("dhcp")

_BUSYBOX: Final = "/usr/bin/busybox"
_SCRIPT: Final = b"""#!/usr/bin/busybox sh
echo "$1" "ip=$ip" "mask=$mask" "router=${router%% *}" "lease=$lease" "dns=$dns"
"""
_ASK_S: Final = 60.0
_AGAIN_S: Final = (2.0, 60.0)
_LEASE_S: Final = (30, 86400)
_SERVERS_MAX: Final = 8
_OUTPUT_MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Lease:
    """What a DHCP server gave; `seconds` is how long it is good."""

    cidr: str
    gateway: str
    dns: tuple[str, ...]
    seconds: int


async def keep(
    reaper: Reaper,
    space: int,
    link: str,
    hostname: str,
    apply: Callable[[Lease], Awaitable[None]],
    *,
    had: Sequence[str] = (),
) -> None:
    """Get a lease for a link of the network namespace `space`, apply it, renew it; until cancelled.

    `had` is the address that it has already, if it has one.
    """
    wanted, pause_s = had[0].partition("/")[0] if had else "", _AGAIN_S[0]
    while True:
        lease = await _ask(reaper, space, link, hostname, wanted)
        if lease is None:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _AGAIN_S[1])
            continue
        await apply(lease)
        wanted, pause_s = lease.cidr.partition("/")[0], _AGAIN_S[0]
        await asyncio.sleep(lease.seconds / 2)


async def _ask(reaper: Reaper, space: int, link: str, hostname: str, wanted: str) -> Lease | None:
    script, output = await blocking.run("disk", _script), os.memfd_create("g8-dhcp", os.MFD_CLOEXEC)
    argv = [_BUSYBOX, "nsenter", "--net=/proc/self/fd/0", _BUSYBOX, "udhcpc", "-f", "-n", "-q"]
    argv += ["-i", link, "-t", "10", "-T", "1", "-s", f"/proc/self/fd/{script}"]
    argv += ["-x", f"hostname:{hostname}", *(["-r", wanted] if wanted else [])]
    try:
        # As stdin the namespace is held until the child has it, even if we are cancelled.
        child = await reaper.spawn(argv, stdin=space, stdout=output, pass_fds=(script,))
        try:
            await asyncio.wait_for(child.wait(), _ASK_S)
        except TimeoutError:
            return None
        finally:
            child.signal(signal.SIGKILL)
        return parse(os.pread(output, _OUTPUT_MAX_BYTES, 0).decode(errors="replace"))
    finally:
        os.close(output)


@functools.cache
def _script() -> int:
    """One for all, for good."""
    fd = os.memfd_create("g8-dhcp-script", os.MFD_CLOEXEC)
    os.write(fd, _SCRIPT)
    return fd


def parse(output: str) -> Lease | None:
    """The lease that the client's script told; None when there is none, or one that makes no sense."""
    for line in output.splitlines():
        event, _, rest = line.partition(" ")
        if event in ("bound", "renew"):
            head, _, servers = rest.partition(" dns=")
            words = dict(word.partition("=")[::2] for word in head.split())
            with contextlib.suppress(ValueError):
                return _lease(words, servers.split()[:_SERVERS_MAX])
    return None


def _lease(words: dict[str, str], servers: list[str]) -> Lease:
    """ValueError when something in it is no address or no number."""
    interface = ipaddress.IPv4Interface(f"{words.get('ip', '')}/{words.get('mask', '')}")
    gateway = words.get("router", "")
    seconds = min(max(int(words.get("lease") or 3600), _LEASE_S[0]), _LEASE_S[1])
    return Lease(
        str(interface),
        str(ipaddress.IPv4Address(gateway)) if gateway else "",
        tuple(str(ipaddress.IPv4Address(server)) for server in servers),
        seconds,
    )
