"""Links that containers are given beside plain pairs, and what bounds their traffic (blocking).

`space` and `home` are descriptors of network namespaces. Failures are OSError, as in `netlink`.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from g8node.linux import namespace
from g8node.linux.guard import off_loop
from g8node.linux.netlink import find_link, kind_of, link_remove, link_set, session

VXLAN_PORT: Final = 4789  # RFC 7348
VXLAN_OVERHEAD: Final = 50  # Ethernet, IPv4, UDP and VXLAN headers
_ANY_MAC: Final = "00:00:00:00:00:00"
_ROOT: Final = 0x10000
_INGRESS: Final = 0xFFFF0000  # TC_H_INGRESS
_ALL_PROTOCOLS: Final = 0x0003  # ETH_P_ALL
_LATENCY: Final = "50ms"
_BURST_LEAST: Final = 16384


@dataclass(frozen=True, slots=True)
class Taken:
    """A link of the node that is in a container's namespace; what it was before."""

    index: int
    name: str
    hwaddr: str
    was_up: bool


@dataclass(frozen=True, slots=True)
class Peer:
    """Of a WireGuard link; `endpoint` is (address, port), keys are base64."""

    public_key: str
    allowed_ips: tuple[str, ...]
    endpoint: tuple[str, int] | None = None
    preshared_key: str = ""
    keepalive_s: int = 0


@off_loop
def mtu_of(name: str) -> int:
    with session() as rtnl:
        return int(find_link(rtnl, name).get("mtu"))


@off_loop
def index_of(name: str) -> int:
    with session() as rtnl:
        return int(find_link(rtnl, name)["index"])


@off_loop
def vxlan_add(
    name: str, vni: int, underlay: str, bridge: str, *, mtu: int, group: str, peers: Sequence[str]
) -> None:
    """A VXLAN link, up and a port of the bridge; others are found by the multicast group, or are `peers`."""
    with session() as rtnl:
        more: dict[str, Any] = {"vxlan_group": group} if group else {}
        rtnl.link(
            "add",
            ifname=name,
            kind="vxlan",
            vxlan_id=vni,
            vxlan_port=VXLAN_PORT,
            vxlan_link=find_link(rtnl, underlay)["index"],
            mtu=mtu,
            master=find_link(rtnl, bridge)["index"],
            **more,
        )
        index = find_link(rtnl, name)["index"]
        for peer in peers:
            rtnl.fdb("append", ifindex=index, lladdr=_ANY_MAC, dst=peer)
        rtnl.link("set", index=index, state="up")


@off_loop
def vlan_add(name: str, tag: int, master: str, bridge: str) -> None:
    """The frames of one VLAN of a link, which is brought up, as a port of the bridge."""
    with session() as rtnl:
        uplink = find_link(rtnl, master)["index"]
        rtnl.link("set", index=uplink, state="up")
        at = find_link(rtnl, bridge)["index"]
        rtnl.link("add", ifname=name, kind="vlan", link=uplink, vlan_id=tag, master=at)
        rtnl.link("set", index=find_link(rtnl, name)["index"], state="up")


@off_loop
def macvlan_add(parent: str, inside: str, space: int, hwaddr: str) -> None:
    """A macvlan in bridge mode on a link, which is brought up; it is down, in the namespace `space`."""
    with session() as rtnl:
        index = _free_link(rtnl, parent)["index"]
        rtnl.link("set", index=index, state="up")
        given = {"address": hwaddr} if hwaddr else {}
        rtnl.link(
            "add",
            ifname=inside,
            kind="macvlan",
            link=index,
            macvlan_mode="bridge",
            net_ns_fd=space,
            **given,
        )


def _free_link(rtnl: Any, name: str) -> Any:
    """A link that is no bridge, no loopback, and nobody's port."""
    link = find_link(rtnl, name)
    kind = kind_of(link)
    if kind == "bridge" or name == "lo":
        raise OSError(errno.EINVAL, f"a {'bridge' if kind == 'bridge' else 'loopback'} cannot be given", name)
    if link.get("master"):
        raise OSError(errno.EBUSY, "the link has a master", name)
    return link


@off_loop
def take(name: str, inside: str, space: int, hwaddr: str) -> Taken:
    """Move a link of the node into the namespace `space`, where it is down and called `inside`."""
    with session() as rtnl:
        link = _free_link(rtnl, name)
        index, mac, was_up = link["index"], link.get_attr("IFLA_ADDRESS") or "", bool(link["flags"] & 1)
        rtnl.link("set", index=index, state="down")
        try:
            if hwaddr:
                rtnl.link("set", index=index, address=hwaddr)
            rtnl.link("set", index=index, net_ns_fd=space, ifname=inside)
        except BaseException:
            rtnl.link(
                "set", index=index, state="up" if was_up else "down", **({"address": mac} if mac else {})
            )
            raise
    return Taken(namespace.call_in([space], index_of, inside), name, mac, was_up)


@off_loop
def give_back(taken: Taken, space: int) -> None:
    """Undo `take`: the link has its name and address again, and is up if it was."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespace.call_in([space], _send, taken, home)
    finally:
        os.close(home)
    if taken.was_up:
        link_set(taken.name, state="up")


def _send(taken: Taken, home: int) -> None:
    with session() as rtnl:
        rtnl.link("set", index=taken.index, state="down")
        if taken.hwaddr:
            rtnl.link("set", index=taken.index, address=taken.hwaddr)
        rtnl.link("set", index=taken.index, net_ns_fd=home, ifname=taken.name)


@off_loop
def wireguard_add(
    name: str, inside: str, space: int, *, private_key: str, listen_port: int, peers: Sequence[Peer]
) -> None:
    """A WireGuard link in the namespace `space`, down; its packets leave by the links of this namespace."""
    with session() as rtnl:
        rtnl.link("add", ifname=name, kind="wireguard")
    try:
        with _wireguard() as device:
            device.set(name, private_key=private_key, listen_port=listen_port)
            for peer in peers:
                device.set(name, peer=_peer(peer))
        with session() as rtnl:
            rtnl.link("set", index=find_link(rtnl, name)["index"], net_ns_fd=space, ifname=inside)
    except BaseException:
        link_remove(name)
        raise


@off_loop
def handshakes(name: str) -> dict[str, int]:
    """Public key of each peer of a WireGuard link -> when it was last heard, s since the epoch; 0: never."""
    with _wireguard() as device:
        peers = [peer for part in device.info(name) for peer in part.get_attr("WGDEVICE_A_PEERS") or ()]
    found = {}
    for peer in peers:
        key = peer.get_attr("WGPEER_A_PUBLIC_KEY")
        heard = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {}
        found[key.decode() if isinstance(key, bytes) else str(key)] = int(heard.get("tv_sec", 0))
    return found


@off_loop
def endpoint_set(name: str, public_key: str, endpoint: tuple[str, int]) -> None:
    """Where a peer of a WireGuard link is called; it may have come from elsewhere meanwhile."""
    address, port = endpoint
    peer = {"public_key": public_key, "endpoint_addr": address, "endpoint_port": port, "update_only": True}
    with _wireguard() as device:
        device.set(name, peer=peer)


@contextlib.contextmanager
def _wireguard() -> Iterator[Any]:
    from pyroute2 import WireGuard  # type: ignore[import-untyped]  # it has no types at all
    from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

    try:
        with WireGuard() as device:
            yield device
    except NetlinkError as error:
        code = error.code or errno.EIO
        raise OSError(code, os.strerror(code)) from error


def _peer(peer: Peer) -> dict[str, Any]:
    made: dict[str, Any] = {
        "public_key": peer.public_key,
        "allowed_ips": list(peer.allowed_ips),
        "replace_allowed_ips": True,
    }
    if peer.endpoint is not None:
        made |= {"endpoint_addr": peer.endpoint[0], "endpoint_port": peer.endpoint[1]}
    if peer.preshared_key:
        made["preshared_key"] = peer.preshared_key
    if peer.keepalive_s:
        made["persistent_keepalive"] = peer.keepalive_s
    return made


@off_loop
def routes_add(name: str, networks: Sequence[str]) -> None:
    """Routes by a link without a gateway; one that exists stays as it is."""
    with session() as rtnl:
        index = find_link(rtnl, name)["index"]
        for network in networks:
            family = socket.AF_INET6 if ":" in network else socket.AF_INET
            dst = "default" if network.endswith("/0") else network
            try:
                rtnl.route("add", family=int(family), oif=index, dst=dst)
            except Exception as error:
                if getattr(error, "code", 0) != errno.EEXIST:
                    raise


@off_loop
def shape(name: str, helper: str, *, out_bytes_s: int, in_bytes_s: int) -> None:
    """Bound what a link sends and what it receives; 0: unbounded. `helper` is the name of a link to be made.

    The kernel bounds only what is sent: what comes in takes a detour by an ifb.
    """
    with session() as rtnl:
        index = find_link(rtnl, name)["index"]
        if out_bytes_s:
            _bound(rtnl, index, out_bytes_s)
        if in_bytes_s:
            rtnl.link("add", ifname=helper, kind="ifb")
            detour = find_link(rtnl, helper)["index"]
            rtnl.link("set", index=detour, state="up")
            _bound(rtnl, detour, in_bytes_s)
            rtnl.tc("add", "ingress", index, _INGRESS)
            rtnl.tc(
                "add-filter",
                "u32",
                index,
                parent=_INGRESS,
                prio=1,
                protocol=_ALL_PROTOCOLS,
                target=_ROOT,
                keys=["0x0/0x0+0"],
                action={"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": detour},
            )


def _bound(rtnl: Any, index: int, bytes_s: int) -> None:
    burst = max(bytes_s // 50, _BURST_LEAST)
    rtnl.tc("add", "tbf", index, _ROOT, rate=bytes_s, burst=burst, latency=_LATENCY)
