"""gate.*: a client's reads through the gate of a real agent, against redis-server's own TLS.

`redis-benchmark -t get` sends GETs, which the gate lets nobody send. Both sides get the read that clients of
a node do send instead: LRANGE of a list with one element as long as the benchmark's own values.
"""

import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from g8node.jobs.tls import Authority
from g8tools.up.vm import free_port
from tests.bench.host import package, private_redis
from tests.bench.rows import Row, compare
from tests.support.daemon import daemon

_CLIENTS = 50
_REQUESTS = {1: 60_000, 16: 300_000}
_KEY, _VALUE = "result:bench", "xxx"
_PASSWORD = "bench"


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    names = {1: "gate.overhead_vs_redis", 16: "gate.overhead_vs_redis_p16"}
    if not any(wanted(name) for name in names.values()):
        return
    with (
        daemon(folder / "gate", "tls = true\n") as node,
        node.raw() as raw,
        _peer(folder / "gate-peer") as peer_port,
    ):
        raw.rpush(_KEY, _VALUE)
        for pipelined, name in names.items():
            if wanted(name):
                yield compare(
                    name,
                    "requests/s",
                    "higher",
                    lambda pipelined=pipelined: _rate(node.port, node.password, pipelined),  # type: ignore[misc]
                    lambda pipelined=pipelined: _rate(peer_port, _PASSWORD, pipelined),  # type: ignore[misc]
                    "redis-server --tls-port",
                    clients=_CLIENTS,
                    pipelined=pipelined,
                    requests=_REQUESTS[pipelined],
                    command=f"LRANGE {_KEY} 0 0",
                    redis=package("redis-server"),
                )


def _rate(port: int, password: str, pipelined: int) -> float:
    options = {"-p": port, "-a": password, "-c": _CLIENTS, "-n": _REQUESTS[pipelined], "-P": pipelined}
    words = [str(word) for pair in options.items() for word in pair]
    argv = ["redis-benchmark", "--tls", "--insecure", *words, "--csv", "LRANGE", _KEY, "0", "0"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=600)
    if "rror" in done.stdout + done.stderr.replace("AUTH failed", ""):
        raise RuntimeError(done.stdout + done.stderr)
    return float(done.stdout.splitlines()[-1].split(",")[1].strip('"'))


@contextmanager
def _peer(folder: Path) -> Iterator[int]:
    """redis-server with a certificate of the gate's kind."""
    folder.mkdir(parents=True)
    pem, port = folder / "server.pem", free_port()
    pem.write_bytes(Authority("bench").leaf(("localhost",)))
    options = {"--tls-port": port, "--tls-cert-file": pem, "--tls-key-file": pem, "--tls-ca-cert-file": pem}
    words = [str(word) for pair in options.items() for word in pair]
    words += ["--tls-auth-clients", "no", "--requirepass", _PASSWORD]
    with (
        private_redis(folder, *words) as socket,
        redis.Redis(unix_socket_path=socket, password=_PASSWORD) as raw,
    ):
        raw.rpush(_KEY, _VALUE)
        yield port
