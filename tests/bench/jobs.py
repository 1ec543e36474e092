"""jobs.*, core.rss_growth: commands of a real agent against a task queue and a plain subprocess loop."""

import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import quantiles

import redis

from tests.bench.host import cached_venv, package, private_redis, pss_mb, until
from tests.bench.rows import Row, compare, single
from tests.support.daemon import Daemon, daemon

TOP = Path(__file__).resolve().parent.parent.parent
_BUILTINS = 20_000
_PROCESSES = 1000
_IN_FLIGHT = 64
_PINGS = 2000
_FEW, _MANY = 10_000, 100_000
_SETTLED_S = 5.0
_IDS = count(1)
_LOUD = "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done"


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    if wanted("jobs.builtin_vs_arq"):
        yield _builtin(folder / "builtin")
    if wanted("jobs.process_vs_subprocess"):
        yield _process(folder / "process")
    latencies = ("jobs.latency_p50_ms", "jobs.latency_p99_ms", "jobs.latency_p99_loaded_ms")
    if any(wanted(name) for name in latencies):
        yield from (row for row in _latency(folder / "latency") if wanted(row.name))
    if wanted("core.rss_growth"):
        yield _growth(folder / "growth")


@contextmanager
def _agent(folder: Path) -> Iterator[tuple[Daemon, redis.Redis]]:
    """An agent, and a client on its redis socket."""
    with daemon(folder) as node, node.raw() as raw:
        yield node, raw
    shutil.rmtree(folder)


def _request(id: str, command: str, **arguments: object) -> str:
    return json.dumps({"id": id, "command": command, "arguments": arguments})


def _run_pings(raw: redis.Redis, jobs: int) -> float:
    """`core.ping` so often: all in the queue in one transaction, then until the last has its result."""
    base = f"bench-{next(_IDS)}"
    with raw.pipeline() as pipe:
        for n in range(jobs):
            pipe.rpush("core:default", _request(f"{base}-{n}", "core.ping"))
        last = f"result:{base}-{jobs - 1}"
        pipe.execute()
        began = time.perf_counter()
        raw.brpoplpush(last, last, 600)
        seconds = time.perf_counter() - began
    ids = [f"result:{base}-{n}" for n in range(jobs)]
    if raw.exists(*ids) != jobs:
        raise RuntimeError("the last result came before others")
    raw.delete(*ids, *(f"{id}:flag" for id in ids))
    return seconds


def _builtin(folder: Path) -> Row:
    python = cached_venv("arq", TOP / "requirements/arq-peer.txt")
    script = TOP / "tests/bench/arq_peer.py"

    def peer() -> float:
        with private_redis(folder / "peer") as socket:
            argv = [python, script, socket, str(_BUILTINS)]
            seconds = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
        return _BUILTINS / float(seconds)

    with _agent(folder / "agent") as (_, raw):
        return compare(
            "jobs.builtin_vs_arq",
            "jobs/s",
            "higher",
            lambda: _BUILTINS / _run_pings(raw, _BUILTINS),
            peer,
            "arq",
            jobs=_BUILTINS,
            peer_pins=[line.split(" ")[0] for line in _pins("arq-peer.txt")],
            peer_options="burst, max_jobs 64, queue_read_limit 2000, poll_delay 1 ms, uvloop, no AOF",
            redis=package("redis-server"),
        )


def _pins(name: str) -> list[str]:
    lines = (TOP / "requirements" / name).read_text().splitlines()
    return [line for line in lines if "==" in line and not line.startswith(" ")]


def _process(folder: Path) -> Row:
    with _agent(folder) as (_, raw):
        return compare(
            "jobs.process_vs_subprocess",
            "processes/s",
            "higher",
            lambda: _PROCESSES / _run_trues(raw),
            lambda: _PROCESSES / _popen_trues(),
            "subprocess.Popen, 64 in flight",
            jobs=_PROCESSES,
            in_flight=_IN_FLIGHT,
        )


def _run_trues(raw: redis.Redis) -> float:
    """`core.system true`, a new one whenever the oldest has its result."""
    base = f"bench-{next(_IDS)}"
    began = time.perf_counter()
    for n in range(_PROCESSES + _IN_FLIGHT):
        if n >= _IN_FLIGHT:
            popped = raw.blpop(f"result:{base}-{n - _IN_FLIGHT}", 60)
            if popped is None or json.loads(popped[1])["state"] != "SUCCESS":
                raise RuntimeError(f"core.system true: {popped}")
        if n < _PROCESSES:
            raw.rpush("core:default", _request(f"{base}-{n}", "core.system", name="true"))
    return time.perf_counter() - began


def _popen_trues() -> float:
    """The same with what the standard library has; output is collected as jobs collect it."""
    began = time.perf_counter()
    running: deque[subprocess.Popen[bytes]] = deque()
    for _ in range(_PROCESSES):
        if len(running) == _IN_FLIGHT:
            _collect(running.popleft())
        running.append(
            subprocess.Popen(
                ["true"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        )
    while running:
        _collect(running.popleft())
    return time.perf_counter() - began


def _collect(process: "subprocess.Popen[bytes]") -> None:
    process.communicate()
    if process.returncode:
        raise RuntimeError(f"true: exit {process.returncode}")


def _latency(folder: Path) -> Iterator[Row]:
    """One client of the gate: RPUSH of `core.ping` to its result, one after another."""
    with _agent(folder) as (node, raw), node.gate() as gate:
        _pings(gate, 200)
        idle = quantiles(_pings(gate, _PINGS), n=100)
        setup = {"pings": _PINGS, "client": "redis-py, gate without TLS, RPUSH and BRPOPLPUSH"}
        yield single("jobs.latency_p50_ms", "ms", "lower", round(idle[49], 3), **setup)
        yield single("jobs.latency_p99_ms", "ms", "lower", round(idle[98], 3), **setup)
        loud = f"bench-{next(_IDS)}"
        raw.rpush(
            "core:default", json.dumps(json.loads(_request(loud, "bash", script=_LOUD)) | {"stream": True})
        )
        until(lambda: bool(raw.exists(f"stream:{loud}")), "the output")
        before, began = _accepted(loud, node), time.perf_counter()
        loaded = quantiles(_pings(gate, _PINGS), n=100)
        rate = (_accepted(loud, node) - before) / 1e6 / (time.perf_counter() - began)
        node.direct("job.kill", id=loud, signal=9)
        setup |= {"accepted_mb_s": round(rate, 1), "p50_loaded_ms": round(loaded[49], 3)}
        yield single("jobs.latency_p99_loaded_ms", "ms", "lower", round(loaded[98], 3), **setup)


def _pings(gate: redis.Redis, times: int) -> list[float]:
    """Milliseconds of each."""
    spent = []
    for _ in range(times):
        id = f"bench-{next(_IDS)}"
        began = time.perf_counter()
        gate.rpush("core:default", _request(id, "core.ping"))
        if gate.brpoplpush(f"result:{id}", f"result:{id}", 30) is None:
            raise RuntimeError("no result")
        spent.append(1000 * (time.perf_counter() - began))
    return spent


def _accepted(job: str, node: Daemon) -> int:
    """Bytes that the job's shell has written into the pipe that core0 empties."""
    (listed,) = node.direct("job.list", id=job)
    io = Path(f"/proc/{listed['pid']}/io").read_text()
    return int(io.partition("wchar: ")[2].split()[0])


def _growth(folder: Path) -> Row:
    with _agent(folder) as (node, raw):
        sizes = []
        ran = 0
        for target in (_FEW, _MANY):
            while ran < target:
                _run_pings(raw, 2000)
                ran += 2000
            time.sleep(_SETTLED_S)
            sizes.append(pss_mb(node.pid))
    ratio = round(sizes[1] / sizes[0], 3)
    setup = {"jobs": [_FEW, _MANY], "pss_mb": [round(size, 1) for size in sizes]}
    return single("core.rss_growth", "ratio", "lower", ratio, **setup)
