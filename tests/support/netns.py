"""An agent in a network namespace of its own, and how to talk to its gate from outside."""

import ctypes
import os
from collections.abc import Iterator
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


class Inside(Daemon):
    """Its gate is reached by sockets that were made in its namespace."""

    def gate(self, **options: Any) -> redis.Redis:
        client = super().gate(**options)
        with network_of(self.pid):
            client.connection_pool.release(client.connection_pool.get_connection())
        return client


@contextmanager
def agent_inside(folder: Path) -> Iterator[Daemon]:
    """With the links v0 and v1, a pair."""
    with daemon(folder, prefix=["unshare", "--net", "/bin/sh", "-c", _SCRIPT, "sh"], kind=Inside) as running:
        yield running
