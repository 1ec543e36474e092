"""The network links of a container as a caller gives them (pure): shape, checks, what is shown of them."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, to_builtins

from g8node.errors import InvalidArgument
from g8node.wire import forward

COUNT_MAX: Final = 64
PORTS_MAX: Final = 1024
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")

Type = Literal["default", "bridge"]
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


class Nic(Struct, frozen=True):
    """`id` names what it is attached to: a bridge."""

    type: Type
    id: Annotated[str, Meta(max_length=64, extra={"kind": "text"})] | None = None
    hwaddr: Mac | None = None
    name: Annotated[InnerName | None, Meta(description="inside; empty: eth<number>")] = None
    monitor: Annotated[bool | None, Meta(description="count its traffic among the node's links")] = None
    config: Config | None = None


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
        if nic.type == "bridge" and not nic.id:
            raise InvalidArgument(f"{where}.id: expected the name of a bridge")
        if nic.type == "bridge" and nic.id == "core0":
            raise InvalidArgument(f"{where}.id: core0 is for nics of type default")
        for key in _exclusive(nic):
            if key in taken:
                raise InvalidArgument(f"{where}: nic {taken[key]} has {key[0]} {key[1]} already".rstrip())
            taken[key] = index
    for source in ports:
        forward.parse(source)


def _exclusive(nic: Nic) -> list[tuple[str, str]]:
    """What only one nic of a container can have."""
    place = "" if nic.type == "default" else nic.id or ""
    return [(f"type {nic.type}", place)] + ([("name", nic.name)] if nic.name else [])


def _validate_config(config: Config, where: str) -> None:
    versions = {key: _interface(getattr(config, key), f"{where}.{key}") for key in ("cidr", "cidr6")}
    if versions["cidr6"] == 4:
        raise InvalidArgument(f"{where}.cidr6: expected an IPv6 address")
    if config.dhcp and config.cidr:
        raise InvalidArgument(f"{where}: expected dhcp or cidr, got both")
    for key, beside in (("gateway", "cidr"), ("gateway6", "cidr6")):
        text = getattr(config, key)
        if text and _address(text, f"{where}.{key}") != versions[beside]:
            raise InvalidArgument(f"{where}.{key}: expected an address of the family of {beside}")
    for server in config.dns or ():
        _address(server, f"{where}.dns")


def _interface(text: str | None, where: str) -> int:
    """Version of an address/prefix; 0 for none."""
    if not text:
        return 0
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_interface(text).version
    except ValueError as error:
        raise InvalidArgument(
            f"{where}: expected address/prefix such as 10.0.0.2/24, not {text!r}"
        ) from error


def _address(text: str, where: str) -> int:
    try:
        return ipaddress.ip_address(text).version
    except ValueError as error:
        raise InvalidArgument(f"{where}: expected an address, not {text!r}") from error


def cidrs(nic: Nic) -> list[str]:
    config = nic.config or Config()
    return [cidr for cidr in (config.cidr, config.cidr6) if cidr]


def gateways(nic: Nic) -> list[str]:
    config = nic.config or Config()
    return [gateway for gateway in (config.gateway, config.gateway6) if gateway]


def labels(*names: str | None) -> list[str]:
    """Those names that a DNS server can give to a container: one label, so that none hides a real domain."""
    return list(dict.fromkeys(name.lower() for name in names if name and _LABEL.fullmatch(name)))


def shown(nic: Nic) -> dict[str, Any]:
    """The nic as it is told to others."""
    row: dict[str, Any] = to_builtins(nic)
    return row
