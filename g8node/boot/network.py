"""Network bring-up (async): DHCP on every wired link, by one busybox udhcpc a link that stays to renew.

spec core0-protocol 1.6: links named by `noautonic=` on the kernel command line are left alone. Each client is
the job `udhcpc/<link>`, protected, so a client that gives up is started again.
"""

import asyncio
import shlex
import socket
from collections.abc import Collection, Sequence

from g8node.jobs.manager import Manager
from g8node.jobs.model import Command
from g8node.linux import links
from g8node.runtime import blocking, logs
from g8node.runtime.process import Reaper

log = logs.get("network")

_BUSYBOX = "/usr/bin/busybox"
_SCRIPT = "/usr/share/udhcpc/default.script"


def dhcp_client(link: str, hostname: str) -> Command:
    """The DHCP client of a link: in the foreground, first try at once, then ten tries a second apart."""
    args = ["udhcpc", "-f", "-i", link, "-t", "10", "-T", "1", "-A", "3", "-s", _SCRIPT]
    return Command.make(
        f"udhcpc/{link}",
        "core.system",
        {"name": _BUSYBOX, "args": [*args, "-x", f"hostname:{hostname}"]},
    )


class Network:
    """Brings the links up; `online` is set at the first IPv4 address."""

    def __init__(self, reaper: Reaper, jobs: Manager) -> None:
        self._reaper = reaper
        self._jobs = jobs
        self.online = asyncio.Event()

    async def start(self, noautonic: Collection[str]) -> None:
        """Set loopback and the wired links up and start their DHCP clients; does not wait for addresses."""
        found = [link for link in await blocking.run("disk", links.wired) if link.name not in noautonic]
        events = links.address_events()
        self._watch(events, {socket.if_nametoindex(link.name) for link in found})
        await self._set_up(["lo", *(link.name for link in found)])
        for link in found:
            self._jobs.submit(dhcp_client(link.name, socket.gethostname()), protected=True)

    async def _set_up(self, names: Sequence[str]) -> None:
        script = "\n".join(f"ip link set {shlex.quote(name)} up" for name in names)
        done = await self._reaper.run([_BUSYBOX, "sh", "-c", script])
        if done.code or done.stderr:
            log.warning("a link stays down", reason=done.stderr.decode(errors="replace").strip())

    def _watch(self, events: socket.socket, indexes: Collection[int]) -> None:
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                added = links.addresses_added(events.recv(65536))
            except OSError as error:
                log.warning("address events lost", reason=str(error))
                return
            if not self.online.is_set() and set(added) & set(indexes):
                self.online.set()
                loop.remove_reader(events)
                blocking.pool("disk").submit(events.close)  # waits for the kernel's other readers (RCU)

        loop.add_reader(events, readable)
