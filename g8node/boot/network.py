"""Network bring-up (async): what network.toml says of the links, all at once; spec core0-protocol 1.6.

Links named by `noautonic=` on the kernel command line are left alone; without a file, all but loopback are.
DHCP is one busybox udhcpc a link that stays to renew: the job `udhcpc/<link>`, protected, so a client that
gives up is started again. A link that cannot be configured is set down, with the reason on the console.
"""

import asyncio
import os
import shlex
import socket
from collections.abc import Collection

from g8node.boot.interfaces import LOOPBACK, Link, Plan, Static, load
from g8node.jobs.manager import Manager
from g8node.jobs.model import Command
from g8node.linux import links, textfiles
from g8node.runtime import blocking, logs
from g8node.runtime.process import Reaper

log = logs.get("network")

_BUSYBOX = "/usr/bin/busybox"
_SCRIPT = "/usr/share/udhcpc/default.script"
_FIRMWARE = "/sys/firmware/qemu_fw_cfg/by_name/opt/g8node/network/raw"
_SIZE_MAX = 1 << 20
_SET_UP_S = 30.0


def dhcp_client(link: str, hostname: str) -> Command:
    """The DHCP client of a link: in the foreground, first try at once, then ten tries a second apart."""
    args = ["udhcpc", "-f", "-i", link, "-t", "10", "-T", "1", "-A", "3", "-s", _SCRIPT]
    return Command.make(
        f"udhcpc/{link}",
        "core.system",
        {"name": _BUSYBOX, "args": [*args, "-x", f"hostname:{hostname}"]},
    )


def set_up_script(link: Link) -> str:
    """Shell commands that configure a link which has no DHCP client, the first failure ends them.

    A default route of a static link is preferred to those of DHCP.
    """
    name = shlex.quote(link.name)
    lines = [f"/usr/bin/ip address flush dev {name} scope global", f"/usr/bin/ip link set dev {name} up"]
    if link.static is not None:
        lines += _static_lines(name, link.name, link.static)
    return "\n".join(lines)


def _static_lines(name: str, plain: str, static: Static) -> list[str]:
    address = static.ip.partition("/")[0]
    lines = [f"/usr/bin/ip address replace {shlex.quote(static.ip)} dev {name}"]
    if static.gateway:
        # An IPv6 address cannot be a source while it is being checked for duplicates.
        family, source = ("-6", "") if ":" in static.gateway else ("-4", f"src {address} ")
        lines.append(
            f"/usr/bin/ip {family} route replace default via {static.gateway} dev {name} "
            f"{source}onlink metric 50"
        )
    if static.dns:
        servers = "".join(f"nameserver {server}\\n" for server in static.dns)
        lines.append("mkdir -p /run/resolv")
        lines.append(f"printf {shlex.quote(servers)} >{shlex.quote(f'/run/resolv/{plain}.conf')}")
        lines.append(f"interface={name} {_SCRIPT} resolver")
    return lines


class Network:
    """Brings the links up; `online` is set at the first IPv4 address of one of them."""

    def __init__(self, reaper: Reaper, jobs: Manager, *, file: str) -> None:
        """`file` is network.toml; one that QEMU hands over (`opt/g8node/network`) comes before it."""
        self._reaper = reaper
        self._jobs = jobs
        self._file = file
        self.online = asyncio.Event()

    async def start(self, noautonic: Collection[str]) -> None:
        """Configure the links; DHCP clients are started, and not waited for."""
        plan = await blocking.run("disk", self._plan)
        for problem in plan.problems:
            log.error(problem)
        for name, up in plan.taps.items():
            await self._run(name, _tap_script(name, up))
        wired = [link.name for link in await blocking.run("disk", links.wired)]
        chosen = plan.chosen(wired, noautonic)
        events = links.address_events()
        self._watch(events, {index for link in chosen if (index := _index(link.name))})
        loopback = self._run(LOOPBACK, _loopback_script(plan.links.get(LOOPBACK)))
        await asyncio.gather(loopback, *(self._configure(link) for link in chosen))

    def _plan(self) -> Plan:
        """A file that cannot be read counts as one that says nothing: a node should be reached."""
        for path in (_FIRMWARE, self._file):
            if path and (path == self._file or os.path.exists(path)):
                try:
                    return load(textfiles.read_text(path, _SIZE_MAX), path)
                except (OSError, ValueError) as error:
                    reason = getattr(error, "strerror", None) or error
                    return Plan(problems=[f"{path}: {reason}; DHCP on every wired link"])
        return Plan(auto=False)

    async def _configure(self, link: Link) -> None:
        if link.protocol == "dhcp":  # its client sets it up
            self._jobs.submit(dhcp_client(link.name, socket.gethostname()), protected=True)
        elif not await self._run(link.name, set_up_script(link)) and _index(link.name):
            await self._run(link.name, f"ip link set dev {shlex.quote(link.name)} down")

    async def _run(self, name: str, script: str) -> bool:
        done = await self._reaper.run([_BUSYBOX, "sh", "-ec", script], timeout_s=_SET_UP_S)
        if done.code or done.stderr:
            reason = " ".join(done.stderr.decode(errors="replace").split())
            log.error(f"link {name} is not configured", reason=reason or f"exit code {done.code}")
        return not done.code

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


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _tap_script(name: str, up: bool) -> str:
    quoted = shlex.quote(name)
    lines = ["/usr/sbin/modprobe -q tun || true", f"/usr/bin/ip tuntap add dev {quoted} mode tap"]
    return "\n".join([*lines, *([f"/usr/bin/ip link set dev {quoted} up"] if up else [])])


def _loopback_script(link: Link | None) -> str:
    """Up in any case. Nothing is flushed, and the kernel gives 127.0.0.1 by itself."""
    lines = ["ip link set dev lo up"]
    if link is not None and link.static is not None and link.static.ip != "127.0.0.1/8":
        lines.append(f"/usr/bin/ip address replace {link.static.ip} dev lo")
    return "\n".join(lines)
