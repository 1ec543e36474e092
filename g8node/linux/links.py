"""What boot needs to know of network links, from sysfs and rtnetlink (blocking, virtual files only)."""

import os
import socket
import struct
import sys
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


_RTMGRP_IPV4_IFADDR = 0x10
_RTM_NEWADDR = 20
_NLMSGHDR = struct.Struct("=IHHII")


def address_events() -> socket.socket:
    """A netlink socket that becomes readable when an IPv4 address is added (rtnetlink(7)); non-blocking."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    events.bind((0, _RTMGRP_IPV4_IFADDR))
    return events


def addresses_added(datagram: bytes) -> list[int]:
    """Interface indexes of the RTM_NEWADDR messages in what `address_events` received."""
    found, at = [], 0
    while at + _NLMSGHDR.size + 8 <= len(datagram):
        length, kind, *_ = _NLMSGHDR.unpack_from(datagram, at)
        if length < _NLMSGHDR.size:
            break
        if kind == _RTM_NEWADDR:
            found.append(int.from_bytes(datagram[at + 20 : at + 24], sys.byteorder))
        at += (length + 3) & ~3
    return found
