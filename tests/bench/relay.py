"""`python -m tests.bench.relay HOST TARGET_PORT DELAY_MS`: a store that is far, in a process of its own.

What a client sends arrives at 127.0.0.1:TARGET_PORT after the delay, in order; requests under way at once are
each late by the delay, no more. Answers come at the speed of the link. Prints the port it listens on.
"""

import contextlib
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_PIECE = 1 << 18


def main() -> None:
    host, target, delay_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000
    with socket.create_server((host, 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", target))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            for work in ((_take, client, late, delay_s), (_give, late, server), (_answer, server, client)):
                threading.Thread(target=_until_gone, args=work, daemon=True).start()


def _until_gone(work: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(OSError):
        work(*args)


def _take(client: socket.socket, late: "queue.SimpleQueue[tuple[float, bytes]]", delay_s: float) -> None:
    while data := client.recv(_PIECE):
        late.put((time.monotonic() + delay_s, data))
    late.put((0, b""))


def _give(late: "queue.SimpleQueue[tuple[float, bytes]]", server: socket.socket) -> None:
    while True:
        due, data = late.get()
        time.sleep(max(0, due - time.monotonic()))
        if not data:
            server.shutdown(socket.SHUT_WR)
            return
        server.sendall(data)


def _answer(server: socket.socket, client: socket.socket) -> None:
    piece = memoryview(bytearray(_PIECE))
    while size := server.recv_into(piece):
        client.sendall(piece[:size])
    client.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
