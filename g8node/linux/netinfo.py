"""Network links with their addresses, and listening sockets (blocking, virtual files and rtnetlink only)."""

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from g8node.linux.guard import off_loop

_FLAGS: Final = {"up": 0x1, "broadcast": 0x2, "loopback": 0x8, "pointtopoint": 0x10, "multicast": 0x1000}
_RTF_UP: Final = 1
_TCP_LISTEN, _UDP_UNCONNECTED = "0A", "07"
_SO_ACCEPTCON: Final = 0x10000


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError as error:
        # EINVAL: speed and carrier of a link that is down.
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP):
            raise
        return ""


@off_loop
def nics(sysfs: str = "/sys/class/net", *, main: bool = False) -> list[dict[str, Any]]:
    """info.nic (spec core0-protocol 4.2), in the kernel's order; what vanishes meanwhile is left out.

    `main`: only devices of the machine, and what has an address.
    """
    addresses = _addresses()
    rows = []
    for name in os.listdir(sysfs):
        folder = f"{sysfs}/{name}"
        index = _number(_read(f"{folder}/ifindex"))
        if index and (not main or addresses.get(index) or os.path.exists(f"{folder}/device")):
            rows.append((index, _nic(folder, name, addresses.get(index, []))))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


@off_loop
def gateway(table: str = "/proc/net/route") -> str:
    """The IPv4 address of the preferred default route's gateway, with its link; empty: there is none."""
    found = []
    for line in _read(table).splitlines()[1:]:
        link, destination, address, flags, _, _, metric, mask, *_ = line.split()
        if destination == mask == "00000000" and int(flags, 16) & _RTF_UP:
            found.append((int(metric), f"{_ip(address)} on {link}" if address != "00000000" else link))
    return min(found)[1] if found else ""


def _nic(folder: str, name: str, addresses: list[str]) -> dict[str, Any]:
    flags = _number(_read(f"{folder}/flags"))
    return {
        "mtu": _number(_read(f"{folder}/mtu")),
        "name": name,
        "hardwareaddr": _hardware(_read(f"{folder}/address")),
        "flags": [word for word, bit in _FLAGS.items() if flags & bit],
        "addrs": [{"addr": address} for address in addresses],
        "speed": max(_number(_read(f"{folder}/speed")), 0),
        "carrier": _read(f"{folder}/carrier") == "1",
        "operstate": _read(f"{folder}/operstate") == "up",
    }


def _hardware(address: str) -> str:
    """Loopback and tunnels have none."""
    return "" if not address.strip("0:") else address


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


_NLMSGHDR: Final = struct.Struct("=IHHII")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def _addresses() -> dict[int, list[str]]:
    """`ip/n` of every link by its index: an RTM_GETADDR dump (rtnetlink(7))."""
    found: dict[int, list[str]] = {}
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as link:
        link.settimeout(5)
        body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        link.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        while True:
            for kind, payload in _messages(link.recv(1 << 17)):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                if kind == _RTM_NEWADDR and (parsed := _address(payload)) is not None:
                    found.setdefault(parsed[0], []).append(parsed[1])


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NLMSGHDR.size <= len(datagram):
        length, kind, *_ = _NLMSGHDR.unpack_from(datagram, at)
        if length < _NLMSGHDR.size:
            return
        yield kind, datagram[at + _NLMSGHDR.size : at + length]
        at += (length + 3) & ~3


def _address(payload: bytes) -> tuple[int, str] | None:
    """Link index and `ip/n` of one RTM_NEWADDR; of a point-to-point link our own end."""
    family, prefix, _, _, index = _IFADDRMSG.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes: dict[int, bytes] = {}
    at = _IFADDRMSG.size
    while at + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        if length < 4:
            break
        attributes[kind] = payload[at + 4 : at + length]
        at += (length + 3) & ~3
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    return None if raw is None else (index, f"{socket.inet_ntop(family, raw)}/{prefix}")


@off_loop
def ports(proc: str = "/proc", net: str = "", pids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
    """info.port: sockets that wait for peers, pid 0 when the owner is unknown.

    `net` is the folder of the tables, that of another network namespace perhaps; `pids` are the processes
    that may be owners, each with the number that is shown (none: all, as they are).
    """
    net = net or f"{proc}/net"
    rows: list[tuple[dict[str, Any], str]] = []
    for network, state in (
        ("tcp", _TCP_LISTEN),
        ("tcp6", _TCP_LISTEN),
        ("udp", _UDP_UNCONNECTED),
        ("udp6", _UDP_UNCONNECTED),
    ):
        rows += inet_listeners(network, state, _read(f"{net}/{network}"))
    rows += unix_listeners(_read(f"{net}/unix"))
    owners = _owners(proc, pids) if rows else {}
    return [row | {"pid": owners.get(inode, 0)} for row, inode in rows]


@off_loop
def listening(protocol: str) -> list[tuple[str, int]]:
    """(address, port) of every server of `tcp` or `udp`, both families, without looking for its owner."""
    state = _TCP_LISTEN if protocol == "tcp" else _UDP_UNCONNECTED
    return [
        (row["ip"], row["port"])
        for network in (protocol, f"{protocol}6")
        for row, _ in inet_listeners(network, state, _read(f"/proc/thread-self/net/{network}"))
    ]


def inet_listeners(network: str, state: str, table: str) -> list[tuple[dict[str, Any], str]]:
    """Rows of /proc/net/tcp and its like that are in `state`, each with its inode."""
    rows = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == state:
            ip, _, port = fields[1].partition(":")
            rows.append(({"network": network, "port": int(port, 16), "ip": _ip(ip)}, fields[9]))
    return rows


def _ip(digits: str) -> str:
    """Words of four bytes in the machine's order (proc(5))."""
    raw = bytes.fromhex(digits)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def unix_listeners(table: str) -> list[tuple[dict[str, Any], str]]:
    """Named sockets of /proc/net/unix that accept connections."""
    rows = []
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _SO_ACCEPTCON:
            rows.append(({"network": "unix", "unix": fields[7]}, fields[6]))
    return rows


def _owners(proc: str, pids: Mapping[int, int] | None) -> dict[str, int]:
    """Socket inode -> the lowest pid that has it open, as `pids` shows it."""
    found: dict[str, int] = {}
    known = pids if pids is not None else {int(pid): int(pid) for pid in os.listdir(proc) if pid.isdigit()}
    for pid in sorted(known):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for fd in os.listdir(f"{proc}/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    target = os.readlink(f"{proc}/{pid}/fd/{fd}")
                    if target.startswith("socket:["):
                        found.setdefault(target[8:-1], known[pid])
    return found
