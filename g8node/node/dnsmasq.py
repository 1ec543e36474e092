"""dnsmasq as the DHCP and DNS server of one bridge (pure, but for its files: blocking).

<folder>/<bridge>/hosts/<key>   names that it answers, one file an owner; it sees each change by itself
                  dhcp/<ip>     `mac,ip` of each fixed lease, read again on SIGHUP
                  leases, pid
"""

import contextlib
import ipaddress
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from g8node.linux import pidfd
from g8node.linux.guard import off_loop

PROGRAM: Final = "dnsmasq"
_DNS_SERVER: Final = 6  # number of the DHCP option
_DEATH_S: Final = 5.0
_CMDLINE_MAX: Final = 65536


@dataclass(frozen=True, slots=True)
class Server:
    """Its files and its command line."""

    folder: str
    bridge: str
    address: ipaddress.IPv4Interface
    lease_range: tuple[str, str] | None = None

    @property
    def job(self) -> str:
        return f"dnsmasq-{self.bridge}"

    @property
    def _top(self) -> str:
        return f"{self.folder}/{self.bridge}"

    @property
    def _pid(self) -> str:
        return f"{self._top}/pid"

    def argv(self, program: str, user: str) -> list[str]:
        words = [
            program,
            "--keep-in-foreground",
            "--conf-file=",
            "--log-facility=-",
            f"--user={user}",
            "--no-hosts",
            "--bind-interfaces",
            "--except-interface=lo",
            f"--interface={self.bridge}",
            f"--listen-address={self.address.ip}",
            "--domain-needed",
            "--bogus-priv",
            f"--hostsdir={self._top}/hosts",
            f"--pid-file={self._pid}",
        ]
        if self.lease_range is None:
            return words
        start, end = self.lease_range
        return [
            *words,
            f"--dhcp-range={start},{end},{self.address.netmask}",
            f"--dhcp-option={_DNS_SERVER},{self.address.ip}",
            f"--dhcp-hostsfile={self._top}/dhcp",
            f"--dhcp-leasefile={self._top}/leases",
            "--dhcp-authoritative",
            "--no-ping",  # it would keep each first lease waiting for three seconds
            "--quiet-dhcp",
        ]

    @off_loop
    def prepare(self, *, again: bool = False) -> str:
        """Make the folders, without what an earlier run left; the user that it is to run as.

        That is nobody, unless the folders lie where only root comes. `again`: leases, and those that are
        fixed, are kept.
        """
        shutil.rmtree(f"{self._top}/hosts" if again else self._top, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._pid)
        for name in ("hosts", "dhcp"):
            os.makedirs(f"{self._top}/{name}", mode=0o755, exist_ok=True)
        reached = os.path.realpath(self._top)
        while os.stat(reached).st_mode & 0o001 and reached != "/":
            reached = os.path.dirname(reached)
        return "nobody" if reached == "/" else "root"

    @off_loop
    def is_ready(self) -> bool:
        """Whether it listens: it writes its pid then."""
        return os.path.exists(self._pid)

    @off_loop
    def remove(self) -> None:
        shutil.rmtree(self._top, ignore_errors=True)

    @off_loop
    def fix_lease(self, ip: str, mac: str) -> None:
        """Read after a SIGHUP."""
        _write(f"{self._top}/dhcp", ip, f"{mac},{ip}\n")

    @off_loop
    def name(self, key: str, addresses: Sequence[str], names: Sequence[str]) -> None:
        """What the owner `key` is called; takes the place of what it was called before."""
        lines = [f"{address} {' '.join(names)}\n" for address in addresses]
        _write(f"{self._top}/hosts", key, "".join(lines))

    @off_loop
    def unname(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._top}/hosts/{key}")


@off_loop
def running(folder: str) -> dict[int, str]:
    """Servers whose files are in the folder, whoever started them: pid -> bridge."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if bridge := _bridge_of(int(name), folder):
                    found[int(name)] = bridge
    return found


def _bridge_of(pid: int, folder: str) -> str:
    """The bridge that the process serves; empty when it is none of these servers."""
    with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
        words = file.read(_CMDLINE_MAX).split("\0")  # some processes have far longer ones
    for word in words:
        if word.startswith(f"--pid-file={folder}/") and word.endswith("/pid"):
            return os.path.basename(os.path.dirname(word))
    return ""


@off_loop
def end(pid: int, bridge: str, folder: str) -> bool:
    """Kill such a server, and wait for its end; False when the number is another process's by now."""
    return pidfd.kill(pid, lambda: _bridge_of(pid, folder) == bridge, _DEATH_S)


@off_loop
def end_leftovers(folder: str) -> list[str]:
    """Kill the servers that a node which was killed has left; the names of their bridges."""
    found = running(folder)
    ended = []
    for pid, bridge in found.items():
        with contextlib.suppress(OSError):
            if end(pid, bridge, folder):
                ended.append(bridge)
    return ended


def _write(folder: str, name: str, text: str) -> None:
    """Whole or not at all; dnsmasq leaves files alone whose name begins with a dot."""
    hidden = f"{folder}/.{name}"
    with open(hidden, "w", encoding="ascii") as file:
        file.write(text)
    os.chmod(hidden, 0o644)
    os.rename(hidden, f"{folder}/{name}")
