"""The source of a port forward (pure): `[address:]port[|proto[+proto]]`; spec core0-resources 2.4."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from g8node.errors import InvalidArgument

TEXT_MAX: Final = 64
_PROTOCOLS: Final = ("tcp", "udp")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LINK: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.@-]{1,15}|[A-Za-z0-9_.@-]{1,14}\*")


@dataclass(frozen=True, slots=True)
class Source:
    """What is forwarded: `network` ("" any) is where clients are, `link` ("" any) the one they come by."""

    port: int
    protocols: tuple[str, ...] = ("tcp",)
    network: str = ""
    link: str = ""

    def __str__(self) -> str:
        """The canonical text: no address for any, no protocol for tcp alone."""
        address = self.network or self.link
        protocols = "" if self.protocols == ("tcp",) else "|" + "+".join(self.protocols)
        return f"{address}{':' if address else ''}{self.port}{protocols}"


def parse(text: str, *, field: str = "port") -> Source:
    """InvalidArgument says what was expected of `field`."""
    try:
        return _parsed(text)
    except ValueError as error:
        raise InvalidArgument(
            f"{field}: expected [address:]port[|proto[+proto]] such as 8080, eth0:80 or 53|udp, "
            f"not {text[:80]!r}"
        ) from error


def _parsed(text: str) -> Source:
    if len(text) > TEXT_MAX:
        raise _wrong(text)
    where, _, protocols = text.partition("|")
    address, colon, port = where.rpartition(":")
    if colon and not address:
        raise _wrong(text)
    if "|" in text and not protocols:
        raise _wrong(text)
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise _wrong(text)
    network, link = _address(address, text)
    return Source(int(port), _protocols(protocols, text), network, link)


def _protocols(text: str, whole: str) -> tuple[str, ...]:
    names = text.split("+") if text else ["tcp"]
    if len(set(names)) != len(names) or not set(names) <= set(_PROTOCOLS):
        raise _wrong(whole)
    return tuple(name for name in _PROTOCOLS if name in names)


def _address(text: str, whole: str) -> tuple[str, str]:
    """(network, link); a network of one address is written without its prefix."""
    if not text:
        return "", ""
    try:
        network = ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        if not _LINK.fullmatch(text) or text[0].isdigit():
            raise _wrong(whole) from None
        return "", text
    if network.prefixlen == 0 or text == "0.0.0.0":
        return "", ""
    return (str(network.network_address) if network.prefixlen == 32 else str(network)), ""


def _wrong(text: str) -> ValueError:
    return ValueError(f"no source of a forward: {text[:80]!r}")
