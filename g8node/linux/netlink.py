"""Links, addresses and routes through rtnetlink (blocking): the only importer of pyroute2.

pyroute2 is imported by the first call, not at start: it costs a second of a slow machine. Each call has
a socket of its own, so that calls of several threads never share one. Failures are OSError with the kernel's
errno; a link that does not exist is ENODEV with its name.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from g8node.linux.guard import off_loop

_MAIN_TABLE: Final = 254
_UP: Final = 1  # IFF_UP
_SCOPE_HOST: Final = 254  # rtnetlink(7), RT_SCOPE_HOST
_NO_DUPLICATES: Final = 0x02  # IFA_F_NODAD
_BALANCE_RR: Final = 0
_BONDING: Final = "/proc/thread-self/net/bonding"
_BOND_FILE_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Link:
    """`kind` is rtnetlink's name of the driver, "device" for hardware; `master` names its bridge or bond."""

    index: int
    name: str
    kind: str
    hwaddr: str
    master: str
    up: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class Route:
    """`dst` "" is the default route, `gw` "" a route without a gateway."""

    dev: str
    dst: str
    gw: str
    family: int
    priority: int
    tos: int


@contextlib.contextmanager
def session() -> Iterator[Any]:
    from pyroute2 import IPRoute  # type: ignore[import-untyped]  # it has no types at all

    with _refusals(), IPRoute() as rtnl:
        yield rtnl


@contextlib.contextmanager
def _refusals(*what: str) -> Iterator[None]:
    """Those of the kernel become OSError, of `what` if that is given."""
    from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

    try:
        yield
    except NetlinkError as error:
        code = error.code or errno.EIO
        raise OSError(code, os.strerror(code), *what) from error


def find_link(rtnl: Any, name: str) -> Any:
    """Asks for the one link: there may be thousands."""
    try:
        (message,) = rtnl.link("get", ifname=name)
    except Exception as error:
        if getattr(error, "code", 0) == errno.ENODEV:
            raise OSError(errno.ENODEV, "no such link", name) from error
        raise
    return message


def kind_of(message: Any) -> str:
    if message["ifi_type"] == 772:  # ARPHRD_LOOPBACK
        return "device"
    return message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "device"


def _link(message: Any, names: dict[int, str]) -> Link:
    master = message.get("master")
    return Link(
        index=message["index"],
        name=message.get("ifname"),
        kind=kind_of(message),
        hwaddr=message.get_attr("IFLA_ADDRESS") or "",
        master=names.get(master, "") if master else "",
        up=bool(message["flags"] & _UP),
        mtu=message.get("mtu") or 0,
    )


@off_loop
def links() -> list[Link]:
    """Every link of this network namespace, by index."""
    with session() as rtnl:
        messages = list(rtnl.get_links())
    names = {message["index"]: message.get("ifname") for message in messages}
    return sorted((_link(message, names) for message in messages), key=lambda link: link.index)


@off_loop
def link_set(name: str, **changes: Any) -> None:
    """Change `state`, `ifname` or `mtu` of a link."""
    with session() as rtnl:
        rtnl.link("set", index=find_link(rtnl, name)["index"], **changes)


@off_loop
def bridge_add(name: str, hwaddr: str) -> None:
    """A bridge that is down; the kernel chooses the address when `hwaddr` is empty."""
    with session() as rtnl:
        rtnl.link("add", ifname=name, kind="bridge", **({"address": hwaddr} if hwaddr else {}))


@off_loop
def link_del(name: str, kind: str) -> None:
    """Delete a link of that kind; another kind is EINVAL."""
    with session() as rtnl:
        rtnl.link("del", index=link_of_kind(rtnl, name, kind)["index"])


def link_of_kind(rtnl: Any, name: str, kind: str) -> Any:
    message = find_link(rtnl, name)
    if kind_of(message) != kind:
        raise OSError(errno.EINVAL, f"the link is no {kind}", name)
    return message


@off_loop
def bridge_attach(bridge: str, name: str) -> None:
    """Make the link a port of the bridge; EBUSY when it is one of any bridge already."""
    with session() as rtnl:
        master = link_of_kind(rtnl, bridge, "bridge")["index"]
        port = find_link(rtnl, name)
        if port.get("master"):
            raise OSError(errno.EBUSY, "the link has a master already", name)
        rtnl.link("set", index=port["index"], master=master)


@off_loop
def bridge_detach(bridge: str, name: str) -> None:
    """EINVAL for a link that is no port of that bridge."""
    with session() as rtnl:
        master = link_of_kind(rtnl, bridge, "bridge")["index"]
        port = find_link(rtnl, name)
        if port.get("master") != master:
            raise OSError(errno.EINVAL, f"the link is not attached to {bridge}", name)
        rtnl.link("set", index=port["index"], master=0)


@off_loop
def address(verb: str, name: str, ip: str, prefix: int) -> None:
    """`verb` is add or del."""
    # As ip(8): the kernel refuses loopback addresses of one network that differ in scope.
    scope = {"scope": _SCOPE_HOST} if ip.startswith("127.") else {}
    with session() as rtnl:
        index = find_link(rtnl, name)["index"]
        rtnl.addr(verb, index=index, address=ip, prefixlen=prefix, **scope)


@off_loop
def addresses(name: str) -> list[str]:
    """The link's addresses as address/prefix, IPv4 first."""
    with session() as rtnl:
        index = find_link(rtnl, name)["index"]
        rows = [message for message in rtnl.get_addr(index=index) if message["index"] == index]
    rows.sort(key=lambda row: int(row["family"]))
    return [f"{row.get_attr('IFA_LOCAL') or row.get_attr('IFA_ADDRESS')}/{row['prefixlen']}" for row in rows]


@off_loop
def routes() -> list[Route]:
    """The main table, both families."""
    with session() as rtnl:
        names = {message["index"]: message.get("ifname") for message in rtnl.get_links()}
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for row in rtnl.get_routes(family=family, table=_MAIN_TABLE):
                if (row.get("table") or row["table"]) != _MAIN_TABLE:
                    continue
                dst = row.get_attr("RTA_DST")
                found.append(
                    Route(
                        dev=names.get(row.get_attr("RTA_OIF") or 0, ""),
                        dst=f"{dst}/{row['dst_len']}" if dst else "",
                        gw=row.get_attr("RTA_GATEWAY") or "",
                        family=int(family),
                        priority=row.get_attr("RTA_PRIORITY") or 0,
                        tos=row["tos"],
                    )
                )
    return found


@off_loop
def route_add(dev: str, dst: str, gw: str, family: int) -> None:
    """`dst` is network/prefix or "" for the default route. EEXIST when there is one."""
    with session() as rtnl:
        rtnl.route("add", family=family, oif=find_link(rtnl, dev)["index"], **_where(dst, gw))


def _where(dst: str, gw: str) -> dict[str, str]:
    where = {"dst": dst or "default"}
    if gw:
        where["gateway"] = gw
    return where


@off_loop
def route_del(route: Route) -> None:
    """Exactly that route; ESRCH when it is gone."""
    with session() as rtnl:
        exact: dict[str, Any] = dict(_where(route.dst, route.gw))
        if route.priority:
            exact["priority"] = route.priority
        if route.dev:
            exact["oif"] = find_link(rtnl, route.dev)["index"]
        rtnl.route("del", family=route.family, tos=route.tos, **exact)


@off_loop
def bond_add(name: str, slaves: list[str], mtu: int) -> None:
    """A balance-rr bond over the slaves, up; all or nothing. Slaves must have no master."""
    with session() as rtnl:
        found = [find_link(rtnl, slave) for slave in slaves]
        for slave in found:
            if slave.get("master"):
                raise OSError(errno.EBUSY, "the link has a master already", slave.get("ifname"))
        rtnl.link("add", ifname=name, kind="bond", bond_mode=_BALANCE_RR)
        index = find_link(rtnl, name)["index"]
        try:
            rtnl.link("set", index=index, mtu=mtu)
            for slave in found:
                # The kernel enslaves only what is down, and brings it up itself with the bond's MTU.
                rtnl.link("set", index=slave["index"], state="down")
                rtnl.link("set", index=slave["index"], mtu=mtu)
                rtnl.link("set", index=slave["index"], master=index)
            rtnl.link("set", index=index, state="up")
            for slave in found:
                rtnl.link("set", index=slave["index"], state="up")
        except BaseException:
            rtnl.link("del", index=index)
            raise


@off_loop
def bonding_is_loaded() -> bool:
    return os.path.exists("/sys/class/net/bonding_masters")


@off_loop
def bond_files() -> dict[str, str]:
    """The kernel's description of every bond; empty without the module."""
    try:
        names = sorted(os.listdir(_BONDING))
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        with contextlib.suppress(OSError), open(f"{_BONDING}/{name}", encoding="utf-8") as file:
            found[name] = file.read(_BOND_FILE_MAX)
    return found


@off_loop
def veth_add(name: str, bridge: str, peer: str, netns: int, hwaddr: str, mtu: int = 1500) -> None:
    """A pair: `name` here, up and a port of the bridge; `peer` in the namespace of that descriptor, down.

    ENODEV or EINVAL for a bridge that is none. Deleting either end deletes both.
    """
    with session() as rtnl:
        master = link_of_kind(rtnl, bridge, "bridge")["index"]
        there: dict[str, Any] = {"ifname": peer, "net_ns_fd": netns, "mtu": mtu}
        if hwaddr:
            there["address"] = hwaddr
        rtnl.link("add", ifname=name, kind="veth", mtu=mtu, master=master, state="up", peer=there)


@off_loop
def link_remove(name: str) -> None:
    """Delete a link of any kind; nothing happens when there is none."""
    with session() as rtnl, contextlib.suppress(OSError):
        rtnl.link("del", index=find_link(rtnl, name)["index"])


@off_loop
def link_configure(name: str, cidrs: Sequence[str], gateways: Sequence[str], metric: int) -> None:
    """Bring a link and the loopback up, give the addresses, then a default route by each gateway."""
    with session() as rtnl:
        index = find_link(rtnl, name)["index"]
        rtnl.link("set", index=find_link(rtnl, "lo")["index"], state="up")
        for cidr in cidrs:
            ip, _, prefix = cidr.partition("/")
            # Nobody else is given it, and programs may use it at once.
            known = {"flags": _NO_DUPLICATES} if ":" in ip else {}
            with _refusals(f"cidr {cidr}"):
                rtnl.addr("add", index=index, address=ip, prefixlen=int(prefix), **known)
        rtnl.link("set", index=index, state="up")
        for gateway in gateways:
            family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
            priority = {"priority": metric} if metric else {}
            with _refusals(f"gateway {gateway}"):
                rtnl.route("add", family=int(family), oif=index, dst="default", gateway=gateway, **priority)


@off_loop
def all_addresses() -> list[str]:
    """address/prefix of every link of this namespace."""
    with session() as rtnl:
        return [
            f"{row.get_attr('IFA_LOCAL') or row.get_attr('IFA_ADDRESS')}/{row['prefixlen']}"
            for row in rtnl.get_addr()
        ]
