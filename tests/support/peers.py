"""Peers that misbehave, on loopback: what a client must survive."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Serve = Callable[[socket.socket], None]


@contextmanager
def peer(serve: Serve) -> Iterator[int]:
    """The port of a listener that hands each connection to `serve`, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []
        opened: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    opened.append(connection)
                    threads.append(threading.Thread(target=guarded, args=(connection,), daemon=True))
                    threads[-1].start()

        def guarded(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                serve(connection)

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            threads[0].join(60)  # so that no further connection is opened
            for connection in opened:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            for thread in threads:
                thread.join(5)
