"""Kernel settings of the calling thread's network namespace (blocking, virtual files only)."""

import contextlib
import os
from typing import Final

from g8node.linux.guard import off_loop

_IPV6: Final = "/proc/sys/net/ipv6/conf"
_UNLESS_FORWARDING, _ALWAYS = "1", 2  # values of accept_ra


@off_loop
def set_network(path: str, value: int) -> None:
    """`path` is below /proc/sys/net, as `ipv4/ip_forward`. OSError."""
    with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
        file.write(f"{value}\n")


@off_loop
def forward_ipv6() -> None:
    """Let packets of IPv6 through. Links that take their addresses from routers go on doing so. OSError."""
    for name in os.listdir(_IPV6):
        path = f"ipv6/conf/{name}/accept_ra"
        with contextlib.suppress(FileNotFoundError):  # a link that went
            with open(f"/proc/sys/net/{path}", encoding="ascii") as file:
                takes = file.read().strip()
            if takes == _UNLESS_FORWARDING:
                set_network(path, _ALWAYS)
    set_network("ipv6/conf/all/forwarding", 1)
