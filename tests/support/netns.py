"""An agent in a network namespace of its own, and how to talk to its gate from outside."""

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

_CLONE_NEWNET = 0x40000000
# A pair of links to work with; the loopback is for the gate.
_SCRIPT = 'ip link set lo up && ip link add v0 type veth peer name v1 && exec "$@"'


@contextmanager
def network_of(pid: int) -> Iterator[None]:
    """This thread in the network namespace of that process."""
    libc = ctypes.CDLL(None, use_errno=True)
    own, other = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        assert libc.setns(other, _CLONE_NEWNET) == 0
        yield
    finally:
        assert libc.setns(own, _CLONE_NEWNET) == 0
        os.close(own)
        os.close(other)


def inside(pid: int) -> list[str]:
    """How a command begins that runs in the network namespace of that process."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


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
        return subprocess.run(
            [*inside(self.pid), *argv], check=True, capture_output=True, text=True, timeout=60
        ).stdout


@contextmanager
def agent_inside(folder: Path) -> Iterator[Daemon]:
    """With the links v0 and v1, a pair."""
    with daemon(folder, prefix=["unshare", "--net", "/bin/sh", "-c", _SCRIPT, "sh"], kind=Inside) as running:
        yield running


@contextmanager
def daemon_inside(
    folder: Path,
    script: str = "",
    config: str = "",
    prefix: Sequence[str] = ("unshare", "--net"),
    **options: Any,
) -> Iterator[Inside]:
    """`script`: shell commands that prepare the namespace, whose loopback is up already."""
    prepare = f'ip link set lo up; {script or ":"}; exec "$@"'
    entered = [*prefix, "/bin/sh", "-ec", prepare, "sh"]
    with daemon(folder, config, prefix=entered, kind=Inside, **options) as running:
        assert isinstance(running, Inside)
        yield running
