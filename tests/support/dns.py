"""A DNS client of one question, for tests (RFC 1035)."""

import socket
import struct

from tests.support.netns import Inside, network_of

_HEADER = struct.Struct(">HHHHHH")
_RECURSION = 0x0100
_ADDRESS, _INTERNET = 1, 1


def asked(node: Inside, server: str, name: str) -> list[str]:
    """The IPv4 addresses that a server in the node's network namespace answers; none for no such name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = labels + b"\0" + struct.pack(">HH", _ADDRESS, _INTERNET)
    with network_of(node.pid), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(60)
        client.sendto(_HEADER.pack(1, _RECURSION, 1, 0, 0, 0) + question, (server, 53))
        answer = client.recv(512)
    count = _HEADER.unpack_from(answer)[3]
    # Each record: a pointer to the name, type, class, time to live, length, address.
    at = _HEADER.size + len(question)
    return sorted(socket.inet_ntoa(answer[at + 16 * n + 12 : at + 16 * n + 16]) for n in range(count))
