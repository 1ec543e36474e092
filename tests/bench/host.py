"""What the benches need of this machine: programs, caches, versions (blocking)."""

import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def run(*argv: str | Path) -> str:
    """A program to its end; its standard output. A failure raises with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def drop_caches(kind: int) -> None:
    """1: page cache, 2: dentries and inodes, 3: both. Dirty pages are written first, or they would stay."""
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text(f"{kind}\n")


def package(name: str) -> str:
    """`name version` of an installed Debian package."""
    return run("dpkg-query", "-W", "-f", "${Package} ${Version}", name)


def machine() -> dict[str, str | int]:
    """What a figure depends on besides both sides."""
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0]),
    }


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.005)


def unmount(path: Path) -> None:
    """Also when it is not mounted."""
    with suppress(RuntimeError):
        run("umount", path)


def first_byte_s(argv: Sequence[str]) -> float:
    """Seconds from the start of a program to the first byte that it writes; it has ended on return."""
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout
    with process.stdout:
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
    if process.wait() or not first:
        raise RuntimeError(f"{' '.join(argv)}: exit {process.returncode}, first byte {first!r}")
    return seconds


def pss_mb(pid: int) -> float:
    """Proportional set size of a process, in 10^6 bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) * 1024 / 1e6


def cached_venv(name: str, pins: Path) -> Path:
    """The python of an environment that holds just `pins` (by hash); made once and kept in the cache."""
    cache = Path(os.environ.get("G8NODE_CACHE") or Path.home() / ".cache/g8node")
    key = hashlib.sha256(pins.read_bytes() + platform.python_version().encode()).hexdigest()[:16]
    place = cache / f"bench-{name}-{key}"
    if not place.exists():
        fresh = place.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        run("/usr/bin/python3", "-m", "venv", fresh)
        pip = [fresh / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run(*pip, "--require-hashes", "-r", pins)
        fresh.rename(place)
    return place / "bin/python"


@contextmanager
def private_redis(folder: Path, *options: str) -> Iterator[str]:
    """A redis-server that keeps nothing on disk; its socket. `options` are more words of its command line."""
    folder.mkdir(parents=True, exist_ok=True)
    socket = f"{folder}/redis.sock"
    argv = [
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        socket,
        "--save",
        "",
        "--dir",
        str(folder),
        *options,
    ]
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until(lambda: os.path.exists(socket), "redis-server")
        yield socket
    finally:
        server.terminate()
        server.wait(30)
