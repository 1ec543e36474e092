"""An NTP server on the loopback, whose clock is ahead of ours."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from g8node.wire import sntp


@contextmanager
def ntp_server(ahead_s: float) -> Iterator[int]:
    """Its port. It answers every packet until the end of the block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        thread = threading.Thread(target=_serve, args=(server, ahead_s))
        thread.start()
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"end", ("127.0.0.1", port))
            thread.join(5)


def _serve(server: socket.socket, ahead_s: float) -> None:
    while (received := server.recvfrom(512))[0] != b"end":
        data, client = received
        now = sntp.stamp(time.time() + ahead_s)
        head = struct.pack(">BBbbII4sQ", 0x24, 2, 0, 0, 0, 0, b"TEST", 0)
        server.sendto(head + data[40:48] + struct.pack(">QQ", now, now), client)
