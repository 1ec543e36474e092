"""What boot needs to know of network links, from sysfs (blocking, but only reads of virtual files)."""

import os
from dataclasses import dataclass

from g8node.linux.guard import off_loop

_ARPHRD_ETHER = 1


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    mac: str


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


@off_loop
def wired(sysfs: str = "/sys/class/net") -> list[Link]:
    """Ethernet links with hardware behind them: no loopback, no bridges, no wireless, no tunnels."""
    links = []
    for name in sorted(os.listdir(sysfs)):
        folder = f"{sysfs}/{name}"
        if (
            _read(f"{folder}/type") == str(_ARPHRD_ETHER)
            and os.path.exists(f"{folder}/device")
            and not os.path.exists(f"{folder}/wireless")
        ):
            links.append(Link(name, _read(f"{folder}/address")))
    return links
