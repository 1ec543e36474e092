"""nbd.*: a plain vdisk of `g8 vdisk serve` against nbdkit's file plugin and qemu-nbd on raw files.

Every row first measures each peer once, and is then compared with the best of them. All files are on one
disk, prefilled with random data that the page cache holds; writes count the final flush.
"""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis

from tests.bench.host import package, run, until
from tests.bench.rows import Row, compare, single
from tests.support.daemon import daemon
from tests.support.vdisks import Served, served

_SIZE = 1 << 30
_RUN_S, _RAMP_S = 10, 2
_CHUNK = 4 << 20


@dataclass(frozen=True)
class Side:
    """A server: what fio and qemu-img connect to."""

    name: str
    uri: str


@dataclass(frozen=True)
class Job:
    """One fio job; `value` takes the figure out of its `read` or `write` part."""

    words: tuple[str, ...]
    unit: str
    value: Callable[[dict[str, dict[str, dict[str, float]]]], float]


def _iops(part: dict[str, dict[str, dict[str, float]]]) -> float:
    return float(part["iops"])  # type: ignore[arg-type]


def _p99_us(part: dict[str, dict[str, dict[str, float]]]) -> float:
    return part["clat_ns"]["percentile"]["99.000000"] / 1000


_JOBS = {
    "randread4k": Job(("--rw=randread", "--bs=4k", "--iodepth=32"), "IOPS", _iops),
    "randwrite4k": Job(("--rw=randwrite", "--bs=4k", "--iodepth=32", "--end_fsync=1"), "IOPS", _iops),
    "seq128k_read": Job(("--rw=read", "--bs=128k", "--iodepth=8"), "IOPS", _iops),
    "seq128k_write": Job(("--rw=write", "--bs=128k", "--iodepth=8", "--end_fsync=1"), "IOPS", _iops),
    "sync4k": Job(("--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"), "IOPS", _iops),
    "lat_qd1_p99": Job(("--rw=randread", "--bs=4k", "--iodepth=1"), "us", _p99_us),
}
_PING = "core.ping_p99_under_nbd_ms"
_DEDUP = {"dedup": 0, "dedup50": 50}
"""Rows `vdisk.<key>_randwrite4k_vs_plain`, and fio's dedupe_percentage in them."""


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    folder = folder / "nbd"
    folder.mkdir()
    names = [name for name in (*_JOBS, "fua4k") if wanted(f"nbd.{name}_vs_best")]
    if names:
        with _sides(folder) as (ours, peers):
            for name in names:
                yield _row(name, Side("ours", ours.uri()), peers, folder)
            if "randwrite4k" in names:
                _verify_after_kill(ours, folder)
    shares = [key for key in _DEDUP if wanted(f"vdisk.{key}_randwrite4k_vs_plain")]
    if shares:
        yield from _dedup(shares, folder)
    if wanted(_PING):
        yield _ping(folder)


def _dedup(shares: list[str], folder: Path) -> Iterable[Row]:
    """A deduplicated vdisk and a plain one of the same server, both prefilled with the same random data."""
    (folder / "dedup").mkdir()
    server = Served(folder / "dedup")
    with ExitStack() as undo:
        for storage in ("plain", "dedup"):
            server.g8("create", storage, str(_SIZE), "--storage", storage)
        server.start()
        undo.callback(server.kill)
        run(
            "nbdcopy",
            "--",
            "[",
            "nbdkit",
            "--exit-with-parent",
            "random",
            f"size={_SIZE}",
            "]",
            server.uri("plain"),
        )
        run("nbdcopy", server.uri("plain"), server.uri("dedup"))
        for key in shares:
            words = (*_JOBS["randwrite4k"].words, f"--dedupe_percentage={_DEDUP[key]}")
            measure = partial(_measured, Job(words, "IOPS", _iops), folder)
            yield compare(
                f"vdisk.{key}_randwrite4k_vs_plain",
                "IOPS",
                "higher",
                partial(measure, Side("dedup", server.uri("dedup"))),
                partial(measure, Side("plain", server.uri("plain"))),
                "plain vdisk",
                options=" ".join(words),
                versions=[package("fio")],
            )


@contextmanager
def _sides(folder: Path) -> Iterator[tuple[Served, list[Side]]]:
    """Our server and the peers, each with a prefilled disk of its own."""
    with ExitStack() as undo:
        peers = []
        for name, argv in _peers(folder).items():
            with open("/dev/urandom", "rb") as source, open(folder / f"{name}.img", "wb") as image:
                for _ in range(_SIZE // _CHUNK):
                    image.write(source.read(_CHUNK))
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
            undo.callback(process.wait)
            undo.callback(process.kill)
            until((folder / name).exists, name)
            peers.append(Side(name, f"nbd+unix:///?socket={folder}/{name}"))
        (folder / "ours").mkdir()
        ours = undo.enter_context(served(folder / "ours", {"vd": _SIZE}))
        run("nbdcopy", folder / "nbdkit.img", ours.uri())
        yield ours, peers


def _peers(folder: Path) -> dict[str, list[str]]:
    kinds = {"qemu-nbd-threads": "threads", "qemu-nbd-io_uring": "io_uring"}
    nbdkit = ["nbdkit", "-f", "-U", f"{folder}/nbdkit", "file", f"{folder}/nbdkit.img"]
    return {"nbdkit": nbdkit} | {
        name: [
            *("qemu-nbd", "-t", "-e", "16", "-k", f"{folder}/{name}", "-f", "raw"),
            *("--cache=writeback", f"--aio={aio}", f"{folder}/{name}.img"),
        ]
        for name, aio in kinds.items()
    }


def _row(name: str, ours: Side, peers: list[Side], folder: Path) -> Row:
    better = "lower" if name.startswith("lat") else "higher"
    measure = _fua if name == "fua4k" else partial(_measured, _JOBS[name], folder)
    tried = {side.name: measure(side) for side in peers}
    pick = min if better == "lower" else max
    best = next(side for side in peers if side.name == pick(tried, key=lambda one: tried[one]))
    return compare(
        f"nbd.{name}_vs_best",
        "IOPS" if name == "fua4k" else _JOBS[name].unit,
        better,  # type: ignore[arg-type]
        lambda: measure(ours),
        lambda: measure(best),
        best.name,
        options=" ".join(_JOBS[name].words) if name in _JOBS else "qemu-img bench -w -t writethrough -d 1",
        tried=tried,
        versions=[package(one) for one in ("fio", "nbdkit", "qemu-utils")],
    )


def _measured(job: Job, folder: Path, side: Side) -> float:
    out = folder / "fio.json"
    run(*_FIO, f"--uri={side.uri}", *job.words, f"--output={out}", "--output-format=json", *_TIMED)
    text = out.read_text()
    found = json.loads(text[text.index("{") :])["jobs"][0]
    return job.value(found["read" if "read" in job.words[0] else "write"])


_FIO = ("fio", "--name=job", "--ioengine=nbd", f"--size={_SIZE}", "--refill_buffers=1")
_TIMED = ("--time_based", f"--runtime={_RUN_S}", f"--ramp_time={_RAMP_S}")


def _fua(side: Side) -> float:
    """Writes a second, each with FUA."""
    count = 2000
    began = time.perf_counter()
    words = ("-w", "-t", "writethrough", "-d", "1", "-s", "4096", "-S", "69632", "-c", str(count))
    run("qemu-img", "bench", "-f", "raw", *words, side.uri)
    return count / (time.perf_counter() - began)


def _verify_after_kill(ours: Served, folder: Path) -> None:
    """What was answered without a flush is there when the server was killed."""
    job = (*_FIO, f"--uri={ours.uri()}", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--io_size=64M")
    job = (*job, "--verify=crc32c", f"--aux-path={folder}")
    run(*job, "--do_verify=0")
    ours.kill()
    ours.start()
    run(*job, "--verify_only", "--verify_fatal=1")


def _ping(folder: Path) -> Row:
    """99th percentile of core.ping through the gate while a client reads as fast as it can."""
    with daemon(folder) as node:
        made = node.direct("vdisk.create", id="vd", size=_SIZE)
        run("nbdcopy", "--", "[", "nbdkit", "--exit-with-parent", "random", f"size={_SIZE}", "]", made["uri"])
        load = threading.Thread(
            target=run, args=(*_FIO, f"--uri={made['uri']}", *_JOBS["randread4k"].words, *_TIMED)
        )
        load.start()
        took: list[float] = []
        with node.gate() as gate:
            while load.is_alive():
                took.append(_one_ping(gate))
        load.join()
    took.sort()
    return single(_PING, "ms", "lower", took[len(took) * 99 // 100] * 1000, pings=len(took), worst=took[-1])


def _one_ping(gate: "redis.Redis") -> float:
    began = time.perf_counter()
    gate.execute_command("core.ping")
    return time.perf_counter() - began
