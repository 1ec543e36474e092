"""A daemon in a network namespace of its own, so that the machine's network is never touched."""

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.support.daemon import Daemon, daemon

CLONE_NEWNET = 0x40000000


@contextmanager
def network_of(pid: int) -> Iterator[None]:
    """This thread in the network namespace of that process."""
    libc = ctypes.CDLL(None, use_errno=True)
    own, other = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        assert libc.setns(other, CLONE_NEWNET) == 0
        yield
    finally:
        assert libc.setns(own, CLONE_NEWNET) == 0
        os.close(own)
        os.close(other)


class Inside(Daemon):
    """Its gate is reached by sockets that were made in its namespace."""

    def gate(self, **options: Any) -> redis.Redis:
        client = super().gate(**options)
        with network_of(self.pid):
            client.connection_pool.release(client.connection_pool.get_connection())
        return client

    def refused(self, command: str, /, **arguments: Any) -> tuple[int, str]:
        """(code, message) of a command that fails."""
        done = self.job(command, arguments)
        assert done["state"] == "ERROR", done
        return done["code"], json.loads(done["data"])

    def there(self, *argv: str) -> str:
        """Output of a program of the machine in the daemon's network namespace."""
        entered = ["nsenter", f"--net=/proc/{self.pid}/ns/net", *argv]
        return subprocess.run(entered, check=True, capture_output=True, text=True, timeout=60).stdout


@contextmanager
def daemon_inside(folder: Path, script: str = "", config: str = "") -> Iterator[Inside]:
    """`script`: shell commands that prepare the namespace, whose loopback is up already."""
    prefix: Sequence[str] = [
        "unshare",
        "--net",
        "/bin/sh",
        "-ec",
        f'ip link set lo up; {script or ":"}; exec "$@"',
        "sh",
    ]
    with daemon(folder, config, prefix=prefix, kind=Inside) as running:
        assert isinstance(running, Inside)
        yield running
