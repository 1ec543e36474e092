"""Connections that the kernel tracks for NAT (blocking): nf_conntrack by nfnetlink, through pyroute2.

Failures are OSError with the kernel's errno, also when it does not track connections.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

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
    from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
    from pyroute2.netlink.nfnetlink.nfctsocket import (  # type: ignore[import-untyped]  # it has no types
        NFCTAttrTuple,
        NFCTSocket,
    )

    ended = 0
    try:
        with NFCTSocket() as tracked:
            for forward in forwards:
                number = _PROTOCOLS[forward.protocol]
                wanted = NFCTAttrTuple(proto=number, dport=forward.port)
                for entry in list(tracked.dump(tuple_orig=wanted)):
                    there, back = (
                        NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr(f"CTA_TUPLE_{side}"))
                        for side in ("ORIG", "REPLY")
                    )
                    if (there.proto, there.dport) != (number, forward.port):
                        continue  # a kernel before 5.8 shows all
                    if (back.saddr, back.sport) == (forward.address, forward.target):
                        with contextlib.suppress(NetlinkError):  # it ended by itself
                            tracked.entry("del", tuple_orig=there)
                            ended += 1
    except NetlinkError as error:
        code = error.code or errno.EIO
        raise OSError(code, os.strerror(code)) from error
    return ended
