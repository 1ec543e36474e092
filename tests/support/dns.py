"""A DNS client of one question, for tests (RFC 1035)."""

import socket
import struct

from tests.support.netns import Inside, network_of

_HEADER = struct.Struct(">HHHHHH")
_RECURSION = 0x0100
_TYPES = {4: (1, socket.AF_INET, 4), 6: (28, socket.AF_INET6, 16)}
"""Of A and AAAA: number, family and length of an address."""
_INTERNET = 1


def asked(node: Inside, server: str, name: str, version: int = 4) -> list[str]:
    """What a server in the node's network namespace answers: addresses, none for no such name."""
    kind, family, length = _TYPES[version]
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = labels + b"\0" + struct.pack(">HH", kind, _INTERNET)
    with network_of(node.pid), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(60)
        client.sendto(_HEADER.pack(1, _RECURSION, 1, 0, 0, 0) + question, (server, 53))
        answer = client.recv(512)
    count = _HEADER.unpack_from(answer)[3]
    # Each record: a pointer to the name, type, class, time to live, length, address.
    at = _HEADER.size + len(question)
    ends = [at + (12 + length) * (n + 1) for n in range(count)]
    return sorted(socket.inet_ntop(family, answer[end - length : end]) for end in ends)
