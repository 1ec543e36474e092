"""Connections that the kernel tracks for NAT (blocking): nf_conntrack by nfnetlink, through pyroute2.

Failures are OSError with the kernel's errno, also when it does not track connections.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from g8node.linux.guard import off_loop

_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Connections to a port of the node that go on to `address:target` (IPv4)."""

    protocol: str
    port: int
    address: str
    target: int


@off_loop
def end(forwards: Iterable[Forwarded]) -> int:
    """Forget such connections, whose rules are gone: their next packets find nobody. Their number."""
    return sum(_forget(each.protocol, each.port, partial(_goes_by, each)) for each in forwards)


@off_loop
def renew(port: int, addresses: Set[str]) -> int:
    """Forget what UDP to a port of the node, which has `addresses`, goes to the node itself. The number.

    Rules for the port are asked again at its next packet: they are for the first one of a connection, and
    that of a client that goes on sending from one port has no end.
    """

    def stays(there: Any, back: Any) -> bool:
        here = there.daddr in addresses or there.daddr.startswith("127.")
        return here and (back.saddr, back.sport) == (there.daddr, there.dport)

    return _forget("udp", port, stays)


def _goes_by(forward: Forwarded, _: Any, back: Any) -> bool:
    return (back.saddr, back.sport) == (forward.address, forward.target)


def _forget(protocol: str, port: int, is_meant: Callable[[Any, Any], bool]) -> int:
    """`is_meant` is asked with the tuples of a connection there and back."""
    from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
    from pyroute2.netlink.nfnetlink.nfctsocket import (  # type: ignore[import-untyped]  # it has no types
        NFCTAttrTuple,
        NFCTSocket,
    )

    ended, number = 0, _PROTOCOLS[protocol]
    try:
        with NFCTSocket() as tracked:
            for entry in list(tracked.dump(tuple_orig=NFCTAttrTuple(proto=number, dport=port))):
                there, back = (
                    NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr(f"CTA_TUPLE_{side}"))
                    for side in ("ORIG", "REPLY")
                )
                if (there.proto, there.dport) != (number, port):
                    continue  # a kernel before 5.8 shows all
                if is_meant(there, back):
                    with contextlib.suppress(NetlinkError):  # it ended by itself
                        tracked.entry("del", tuple_orig=there)
                        ended += 1
    except NetlinkError as error:
        code = error.code or errno.EIO
        raise OSError(code, os.strerror(code)) from error
    return ended
