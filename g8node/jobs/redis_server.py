"""The supervised redis-server: a child on a unix socket only, whose data survive its own death (async).

When its memory is full, what has a time to live gives way, the oldest first: results and streams of finished
jobs. Commands, flags of live jobs and lists of subscribers have none and stay.

Its append-only file lies in memory-backed /run with `appendfsync no`: what redis has acknowledged is in the
page cache, so `kill -9` of redis loses nothing, and a reboot loses everything, as a stateless node should.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from typing import Final

from g8node.errors import DeadlineExceeded, Unavailable
from g8node.jobs.link import Link, ReplyError
from g8node.linux import oom
from g8node.linux.launch import find_program
from g8node.runtime import blocking, logs
from g8node.runtime.process import Child, Reaper

log = logs.get("redis")

_HEALTHY_S: Final = 1.0
_DELAY_S: Final = 0.05
_DELAY_MAX_S: Final = 1.0  # queues and subscribers are back within 3 s
_STOP_S: Final = 5.0
_ENVIRON: Final = {"LC_ALL": "C"}  # redis 8 refuses to start under a locale that is not installed
_PATH: Final = "/usr/bin:/usr/sbin:/bin:/usr/local/bin"


class RedisServer:
    """Keep `run()` going under the supervisor, wait for `ready()`, end with `stop()`."""

    def __init__(self, reaper: Reaper, *, folder: str, socket: str, max_memory_bytes: int = 1 << 30) -> None:
        self._reaper = reaper
        self._folder = folder
        self._socket = socket
        self._max_memory_bytes = max_memory_bytes
        self._link = Link(socket)
        self._child: Child | None = None
        self.is_stopping = False
        self._prepared = False
        self.starts = 0

    @property
    def pid(self) -> int:
        """Of the running server, else 0."""
        return self._child.pid if self._child is not None and self._child.running else 0

    async def run(self) -> None:
        """Start it, and again whenever it dies: at once, with a back-off when it does not live long."""
        if not self._prepared:
            await blocking.run("disk", _prepare, self._folder, self._socket)
            self._prepared = True
        program = await blocking.run("disk", find_program, "redis-server", "/", _PATH)
        delay_s = _DELAY_S
        while not self.is_stopping:
            began = time.monotonic()
            child = self._child
            if child is None or not child.running:  # else one that an earlier, broken run of ours has left
                child = self._child = await self._reaper.spawn(
                    [program, *self._options()], env=_ENVIRON, stdout=2, stderr=2
                )
                oom.adjust(child.pid, oom.REDIS)
                self.starts += 1
            try:
                code = await child.wait()
            except asyncio.CancelledError:
                child.signal(signal.SIGTERM)
                raise
            if not self.is_stopping:
                log.warning("redis-server ended", code=code)
            if time.monotonic() - began < _HEALTHY_S:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _DELAY_MAX_S)
            else:
                delay_s = _DELAY_S

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "daemonize": "no",
            "save": "",
            "dir": self._folder,
            "appendonly": "yes",
            "appendfsync": "no",
            "aof-load-truncated": "yes",
            "auto-aof-rewrite-min-size": "32mb",
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "volatile-ttl",
            "maxmemory-samples": "10",
            "maxclients": "10000",
            "loglevel": "warning",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    async def ready(self, limit_s: float = 60.0) -> None:
        """Returns when it answers. DeadlineExceeded."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                await self._link.call("PING")
                return
            except (Unavailable, ReplyError) as error:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"redis-server did not answer within {limit_s:g} s") from error
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End it for good: TERM, then KILL."""
        self.is_stopping = True
        await self._link.close()
        child = self._child
        if child is None:
            return
        child.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(child.wait(), _STOP_S)
        except TimeoutError:
            child.signal(signal.SIGKILL)
            await child.wait()


def _prepare(folder: str, path: str) -> None:
    """A new life of the node begins empty, also after one that was killed and left its server behind."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as leftover:
        leftover.settimeout(_STOP_S)
        leftover.connect(path)
        leftover.sendall(b"SHUTDOWN NOSAVE\r\n")
        leftover.recv(1)  # the end of the connection is its own
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # else a leftover that hangs would be taken for the new one
    shutil.rmtree(os.path.join(folder, "appendonlydir"), ignore_errors=True)
    os.makedirs(folder, mode=0o700, exist_ok=True)
