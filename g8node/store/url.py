"""Addresses of chunk stores (pure); the `[xx-xx=]` in front of them is `wire.router`'s.

    scheme[+tls]://[user][:password]@host[:port][,host[:port]…][/path][?option=value&…]

User, password and path are percent-decoded. No text made here for messages contains user or password.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from g8node.errors import InvalidArgument
from g8node.wire.router import public_name

URL_SIZE_MAX: Final = 4096
_HOSTS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The parts of an address. `hosts` is empty for a store on this machine's disk."""

    scheme: str
    """Without `+tls`."""
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    path: str
    """Percent-decoded, with its leading slash."""
    name: str
    """The address without credentials and options: what messages call the store."""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def check_options(self, *known: str) -> None:
        """InvalidArgument names an option that the scheme does not have."""
        for name in self.options:
            if name not in known:
                expected = ", ".join(known) or "none"
                raise InvalidArgument(
                    f"chunk store {self.name}: unknown option {name!r}, expected {expected}"
                )


def parse_url(text: str, *, ports: Mapping[str, int]) -> StoreUrl:
    """`ports`: the schemes that are known and their default ports. InvalidArgument says what is wrong."""
    if len(text) > URL_SIZE_MAX:
        raise InvalidArgument(f"chunk store URL of {len(text)} characters, expected at most {URL_SIZE_MAX}")
    name = public_name(text)
    try:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:  # whose text may quote the password
        raise InvalidArgument(f"chunk store {name!r} is no URL") from None
    scheme = parts.scheme.removesuffix("+tls")
    if scheme not in ports:
        raise InvalidArgument(
            f"chunk store {name!r}: expected one of {', '.join(f'{known}://' for known in ports)}"
        )
    credentials, _, netloc = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts = tuple(_host(name, one, ports[scheme]) for one in netloc.split(",")) if netloc else ()
    if len(hosts) > _HOSTS_MAX:
        raise InvalidArgument(f"chunk store {name}: {len(hosts)} hosts, expected at most {_HOSTS_MAX}")
    return StoreUrl(
        scheme,
        scheme != parts.scheme,
        hosts,
        unquote(parts.path),
        name,
        unquote(user),
        unquote(password),
        options,
    )


def _host(name: str, text: str, default_port: int) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]\s]+))(?::(\d{1,5}))?", text)
    if found is None:
        raise InvalidArgument(f"chunk store {name}: expected host[:port] behind ://")
    port = int(found[3]) if found[3] else default_port
    if not 0 < port < 65536:
        raise InvalidArgument(f"chunk store {name}: port {port}, expected 1..65535")
    return found[1] or found[2], port
