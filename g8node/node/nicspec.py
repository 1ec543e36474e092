"""The network links of a container as a caller gives them (pure): shape, checks, what is shown of them."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, to_builtins

from g8node.errors import InvalidArgument
from g8node.wire import forward

COUNT_MAX: Final = 64
RATE_MAX: Final = 32_000_000_000
PORTS_MAX: Final = 1024
NAME_MAX: Final = 254
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_PREFIXED: Final = re.compile(r"[0-9A-Fa-f.:]+/[0-9]{1,3}")
_ZONED: Final = re.compile(r"[0-9A-Fa-f.:]+%[A-Za-z0-9_.@-]{1,15}")
"""An address that is good by one link only."""

Type = Literal["default", "bridge", "vlan", "vxlan", "macvlan", "passthrough", "wireguard", "zerotier"]
NAMED: Final = ("bridge", "macvlan", "passthrough", "zerotier")
"""Types whose `id` is a name."""
TAGGED: Final = {"vlan": 4094, "vxlan": (1 << 24) - 1}
"""Types whose `id` is a number, and the highest one."""
PAIRED: Final = ("default", "bridge", "vlan", "vxlan")
"""Types that are a port of a bridge of the node."""
Cidr = Annotated[str, Meta(max_length=64, extra={"kind": "interface address or empty"})]
Address = Annotated[str, Meta(max_length=64, extra={"kind": "address or empty"})]
Mac = Annotated[
    str, Meta(pattern=r"\A(?:|[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5})\Z", extra={"kind": "mac or empty"})
]
InnerName = Annotated[
    str,
    Meta(
        pattern=r"\A(?:|(?!eth|zt|default\Z|lo\Z|\.{1,2}\Z)[!-$&-.0-9;-~]{1,15})\Z",
        extra={"kind": "link inside or empty"},
    ),
]


class Config(Struct, frozen=True):
    """Addresses of one nic; `cidr` may be of either family, `cidr6` is one of IPv6 beside it."""

    dhcp: bool | None = None
    cidr: Cidr | None = None
    gateway: Address | None = None
    cidr6: Cidr | None = None
    gateway6: Address | None = None
    dns: Annotated[list[Address], Meta(max_length=16)] | None = None


Key = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\Z", extra={"kind": "wireguard key"})
]
Link = Annotated[
    str, Meta(pattern=r"\A(?:|(?!\.{1,2}\Z)[!-$&-.0-9;-~]{1,15})\Z", extra={"kind": "link or empty"})
]


class Peer(Struct, frozen=True):
    """Another end of a WireGuard link."""

    public_key: Key
    endpoint: Annotated[
        Annotated[str, Meta(max_length=NAME_MAX + 6, extra={"kind": "endpoint or empty"})] | None,
        Meta(description="address:port, [address]:port of IPv6, name:port; empty: it calls us"),
    ] = None
    allowed_ips: Annotated[list[Cidr], Meta(max_length=256)] | None = None
    keepalive: Annotated[int, Meta(ge=0, le=65535, description="seconds; 0: none")] | None = None
    preshared_key: Key | None = None


class Wireguard(Struct, frozen=True):
    """The device of a nic of type wireguard. Its keys are never shown."""

    private_key: Key
    listen_port: Annotated[int, Meta(ge=0, le=65535, description="0: any")] | None = None
    cidr: Cidr | None = None
    peers: Annotated[list[Peer], Meta(max_length=256)] | None = None


class Rate(Struct, frozen=True):
    """What the container may send and receive by a nic; 0: as much as it can."""

    send_bits_s: Annotated[int, Meta(ge=0, le=RATE_MAX)] | None = None
    receive_bits_s: Annotated[int, Meta(ge=0, le=RATE_MAX)] | None = None


class Nic(Struct, frozen=True):
    """`id` tells what it is attached to: a bridge, a link of the node, a VLAN, a VXLAN."""

    type: Type
    id: (
        Annotated[int, Meta(ge=0, le=(1 << 24) - 1)]
        | Annotated[str, Meta(max_length=64, extra={"kind": "text"})]
        | None
    ) = None
    master: Annotated[Link | None, Meta(description="of a vlan; empty: network.vlan_uplink")] = None
    hwaddr: Mac | None = None
    name: Annotated[InnerName | None, Meta(description="inside; empty: eth<number>")] = None
    monitor: Annotated[bool | None, Meta(description="count its traffic among the node's links")] = None
    config: Config | None = None
    wireguard: Wireguard | None = None
    rate: Rate | None = None


Ports = dict[
    Annotated[str, Meta(max_length=forward.TEXT_MAX, extra={"kind": "forward"})],
    Annotated[int, Meta(ge=1, le=65535)],
]


def validate(nics: Sequence[Nic], ports: Mapping[str, int], *, field: str = "nics") -> None:
    """InvalidArgument names the first nic that is wrong, its field, and what was expected."""
    if len(nics) > COUNT_MAX:
        raise InvalidArgument(f"{field}: expected at most {COUNT_MAX}, got {len(nics)}")
    if len(ports) > PORTS_MAX:
        raise InvalidArgument(f"port: expected at most {PORTS_MAX}, got {len(ports)}")
    taken: dict[tuple[str, str], int] = {}
    for index, nic in enumerate(nics):
        where = f"{field}[{index}]"
        _validate_config(nic.config or Config(), f"{where}.config")
        _validate_id(nic, where)
        _validate_wireguard(nic, where)
        if nic.rate is not None and nic.type not in PAIRED:
            raise InvalidArgument(f"{where}.rate: expected none with type {nic.type}")
        for key in _exclusive(nic):
            if key in taken:
                raise InvalidArgument(f"{where}: nic {taken[key]} has {key[0]} {key[1]} already".rstrip())
            taken[key] = index
    for source in ports:
        forward.parse(source)


def _exclusive(nic: Nic) -> list[tuple[str, str]]:
    """What only one nic of a container can have."""
    place = "" if nic.type == "default" else str(nic.id or "")
    kind = [] if nic.type == "wireguard" else [(f"type {nic.type}", f"{place} {nic.master or ''}".strip())]
    return kind + ([("name", nic.name)] if nic.name else [])


def _validate_id(nic: Nic, where: str) -> None:
    if nic.type in NAMED and not (isinstance(nic.id, str) and nic.id):
        raise InvalidArgument(f"{where}.id: expected a name with type {nic.type}")
    if nic.type == "bridge" and nic.id == "core0":
        raise InvalidArgument(f"{where}.id: core0 is for nics of type default")
    if nic.type in TAGGED:
        tag(nic, where)


def tag(nic: Nic, where: str = "nic") -> int:
    """The number of a VLAN or VXLAN, which old clients write as text."""
    most, text = TAGGED[nic.type], str(nic.id)
    if nic.id is None or not text.isdecimal() or not text.isascii() or not 0 <= int(text) <= most:
        raise InvalidArgument(f"{where}.id: expected a number from 0 to {most} with type {nic.type}")
    return int(text)


def _validate_wireguard(nic: Nic, where: str) -> None:
    device = nic.wireguard
    if nic.type == "wireguard" and device is None:
        raise InvalidArgument(f"{where}.wireguard: expected at least private_key with type wireguard")
    if device is None:
        return
    _own(device.cidr, f"{where}.wireguard.cidr")
    for number, peer in enumerate(device.peers or ()):
        at = f"{where}.wireguard.peers[{number}]"
        endpoint(peer, at)
        for allowed in peer.allowed_ips or ():
            _interface(allowed or "x", f"{at}.allowed_ips")


def endpoint(peer: Peer, where: str = "peer") -> tuple[str, int] | None:
    """(address or name, port); None for a peer that is not called."""
    if not peer.endpoint:
        return None
    host, _, port = peer.endpoint.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        if "%" in host or not (port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
            raise ValueError
        if bare == host and is_name(host):
            return host, int(port)
        address = ipaddress.ip_address(bare)
        if (address.version == 6) != host.startswith("["):
            raise ValueError
    except ValueError as error:
        raise InvalidArgument(
            f"{where}.endpoint: expected address:port, [address]:port or name:port, not {peer.endpoint!r}"
        ) from error
    return str(address), int(port)


def is_name(host: str) -> bool:
    """Whether it is a domain name; the last label of one is no number."""
    *rest, last = host.removesuffix(".").split(".")
    return (
        len(host) < NAME_MAX
        and all(_LABEL.fullmatch(label) for label in (*rest, last))
        and not last.isdecimal()
    )


def _validate_config(config: Config, where: str) -> None:
    versions = {key: _own(getattr(config, key), f"{where}.{key}") for key in ("cidr", "cidr6")}
    if versions["cidr6"] == 4:
        raise InvalidArgument(f"{where}.cidr6: expected an IPv6 address")
    if config.dhcp and config.cidr:
        raise InvalidArgument(f"{where}: expected dhcp or cidr, got both")
    for key, beside in (("gateway", "cidr"), ("gateway6", "cidr6")):
        text = getattr(config, key)
        if text and _address(text, f"{where}.{key}") != versions[beside]:
            raise InvalidArgument(f"{where}.{key}: expected an address of the family of {beside}")
    for server in config.dns or ():
        _address(server.partition("%")[0] if _ZONED.fullmatch(server) else server, f"{where}.dns")


def _interface(text: str | None, where: str) -> int:
    """Version of an address/prefix; 0 for none."""
    if not text:
        return 0
    try:
        if not _PREFIXED.fullmatch(text):
            raise ValueError
        return ipaddress.ip_interface(text).version
    except ValueError as error:
        raise InvalidArgument(
            f"{where}: expected address/prefix such as 10.0.0.2/24, not {text!r}"
        ) from error


def _own(text: str | None, where: str) -> int:
    """As `_interface`, of an address that a link can have."""
    version = _interface(text, where)
    if text and version:
        address = ipaddress.ip_interface(text).ip
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            raise InvalidArgument(f"{where}: expected the address of a host, not {text!r}")
    return version


def _address(text: str, where: str) -> int:
    try:
        if "%" in text:
            raise ValueError
        return ipaddress.ip_address(text).version
    except ValueError as error:
        raise InvalidArgument(f"{where}: expected an address, not {text!r}") from error


def cidrs(nic: Nic) -> list[str]:
    config = nic.config or Config()
    own = nic.wireguard.cidr if nic.wireguard is not None else None
    return [cidr for cidr in (own, config.cidr, config.cidr6) if cidr]


def gateways(nic: Nic) -> list[str]:
    config = nic.config or Config()
    return [gateway for gateway in (config.gateway, config.gateway6) if gateway]


def labels(*names: str | None) -> list[str]:
    """Those names that a DNS server can give to a container: one label, so that none hides a real domain."""
    return list(dict.fromkeys(name.lower() for name in names if name and _LABEL.fullmatch(name)))


def shown(nic: Nic) -> dict[str, Any]:
    """The nic as it is told to others: without keys that are secret."""
    row: dict[str, Any] = to_builtins(nic)
    if device := row["wireguard"]:
        del device["private_key"]
        for peer in device["peers"] or ():
            del peer["preshared_key"]
    return row
