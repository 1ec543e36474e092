"""Real servers for the stores' tests: redis-server and a Redis Cluster of six."""

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from g8tools.up.vm import free_port

DEADLINE_S = 60.0
NODE_TIMEOUT_MS = "5000"
"""A server of a cluster that is only slow for so long is not taken for failed."""
_LOW_PORTS = itertools.chain(range(start := random.randrange(13000, 15500), 15500), range(13000, start))
USER, PASSWORD = "keeper", "p@ss/word"


class RedisProcess:
    """One redis-server on loopback, in memory only."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.credentials: dict[str, str] = {}
        """What `client` logs in with."""
        folder.mkdir(parents=True, exist_ok=True)
        self.up()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        retry = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, socket_timeout=DEADLINE_S, retry=retry, **self.credentials)

    def up(self) -> None:
        """Start it (again, on the same port) and wait until it answers."""
        argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        argv += ["--save", "", "--appendonly", "no", "--logfile", str(self.folder / "log"), *self._options]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        end = time.monotonic() + DEADLINE_S
        while not self._answers(self._process.pid):
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.02)

    def _answers(self, pid: int) -> bool:
        """This one, and not another one that took the port meanwhile."""
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            try:
                client.ping()  # refused until it has loaded its data
                return bool(client.info("server")["process_id"] == pid)
            except redis.AuthenticationError:
                return True
        return False

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, nothing is answered."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisProcess]:
    server = RedisProcess(folder, *options)
    try:
        yield server
    finally:
        server.kill()


def users(folder: Path) -> tuple[str, str]:
    """Options for a server that only USER may use."""
    path = folder / "users.acl"
    path.write_text(f"user default off\nuser {USER} on >{PASSWORD} ~* &* +@all\n")
    return "--aclfile", str(path)


def tls_options(folder: Path) -> tuple[str, ...]:
    """Of a server with the `certificate` of the folder; see `listen_with_tls`."""
    files = "--tls-cert-file", f"{folder}/cert", "--tls-key-file", f"{folder}/key"
    return "--tls-port", "0", *files, "--tls-ca-cert-file", f"{folder}/cert", "--tls-auth-clients", "no"


def listen_with_tls(server: RedisProcess) -> int:
    """The port, which nobody took between the choice and the use."""
    with server.client() as client:
        while True:
            port: int = free_port()
            with contextlib.suppress(redis.ResponseError):
                client.config_set("tls-port", port)
                return port


def certificate(folder: Path) -> None:
    argv = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"]
    argv += ["-keyout", f"{folder}/key", "-out", f"{folder}/cert", "-subj", "/CN=127.0.0.1"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(argv, check=True, capture_output=True)


@contextlib.contextmanager
def redis_cluster(
    folder: Path, *, replicas: int = 1, options: Sequence[str] = ()
) -> Iterator[list[RedisProcess]]:
    """Six servers, three of them masters; the cluster is whole when this returns."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MS, *options)
    with contextlib.ExitStack() as ending:
        servers = []
        for number in range(6):
            # The bus has the port + 10000.
            port = low_port()
            servers.append(RedisProcess(folder / str(number), *options, port=port))
            ending.callback(servers[-1].kill)
        places = [f"127.0.0.1:{server.port}" for server in servers]
        argv = ["redis-cli", "--cluster", "create", *places]
        argv += ["--cluster-replicas", str(replicas), "--cluster-yes"]
        made = subprocess.run(argv, capture_output=True, timeout=120, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        end = time.monotonic() + DEADLINE_S
        while not all(_is_whole(server) for server in servers):
            assert time.monotonic() < end, "the cluster is not whole"
            time.sleep(0.05)
        yield servers


def _is_whole(server: RedisProcess) -> bool:
    with server.client() as client:
        info: bytes = client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True)
        known: bytes = client.execute_command("CLUSTER", "NODES", NEVER_DECODE=True)
    return b"cluster_state:ok" in info and known.count(b"slave") == 3


def low_port() -> int:
    """Whose bus port, 10000 above, is free too; no outgoing connection gets either of them meanwhile."""
    while True:
        port = next(_LOW_PORTS)
        if free_port(port) != port:
            continue
        with socket.socket() as bus, contextlib.suppress(OSError):
            bus.bind(("127.0.0.1", port + 10000))
            return port
