"""boot.ready_vs_systemd, image.size_mb, core.rss_mb: whole machines in QEMU."""

import hashlib
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import redis

from g8tools.up import demo
from g8tools.up.vm import Machine, Vm, VmError, free_port
from tests.bench.rows import Row, compare, single
from tests.support.vm import BUILD

_PEER_PACKAGES = "systemd,systemd-sysv,udev,busybox-static,kmod"
_ANSWER_UNIT = """[Unit]
After=multi-user.target
[Service]
ExecStart=/usr/bin/busybox nc -ll -p 6379 -e /bin/echo PONG
[Install]
WantedBy=graphical.target
"""
_NETWORK = "[Match]\nName=e*\n[Network]\nDHCP=ipv4\n"
_TIMEOUT_S = 180.0


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    kernel, initrd = BUILD / "vmlinuz", BUILD / "initramfs.zst"
    if wanted("image.size_mb"):
        sizes = {path.name: round(path.stat().st_size / 1e6, 2) for path in (kernel, initrd)}
        yield single("image.size_mb", "MB", "lower", round(sum(sizes.values()), 2), **sizes)
    if wanted("boot.ready_vs_systemd"):
        peer_initrd = systemd_initramfs()
        yield compare(
            "boot.ready_vs_systemd",
            "s",
            "lower",
            lambda: ready_s(folder / "ours", initrd, _pong_of_gate),
            lambda: ready_s(folder / "peer", peer_initrd, _pong_of_unit),
            "Debian 13 minbase + systemd",
            accel="tcg",
            peer_initrd_mb=round(peer_initrd.stat().st_size / 1e6, 1),
        )


def ready_s(folder: Path, initrd: Path, pong: Callable[[int, str], bool]) -> float:
    """Seconds from the first kernel line on serial until `pong(port, password)` holds."""
    port, password = free_port(), secrets.token_urlsafe(12)
    vm = Vm(
        folder,
        Machine(BUILD / "vmlinuz", initrd, forwards={6379: port}, secrets={"password": password}, append=()),
    )
    vm.start()
    try:
        vm.wait_for("Linux version", 30)
        began, deadline = time.monotonic(), time.monotonic() + _TIMEOUT_S
        while not pong(port, password):
            if time.monotonic() > deadline or not vm.running:
                raise VmError(f"no answer:\n{vm.console()[-2000:]}")
            time.sleep(0.05)
        return time.monotonic() - began
    finally:
        vm.quit()


def _pong_of_gate(port: int, password: str) -> bool:
    try:
        with redis.Redis(port=port, password=password, socket_timeout=2, protocol=2) as gate:
            return b"PONG" in gate.execute_command("core.ping")
    except redis.RedisError:
        return False


def _pong_of_unit(port: int, _: str) -> bool:
    # QEMU accepts the connection itself, long before the guest answers: only data counts.
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.settimeout(2)
            return b"PONG" in connection.recv(16)
    except OSError:
        return False


def systemd_initramfs() -> Path:
    """The peer: minbase with systemd as PID 1, the same modules as ours, one unit that answers on TCP."""
    ours = BUILD / "initramfs.zst"
    text = f"1 {_PEER_PACKAGES} {_ANSWER_UNIT} {_NETWORK}".encode() + ours.read_bytes()
    path = demo.cache_folder() / "bench" / f"systemd-{hashlib.sha256(text).hexdigest()[:16]}.zst"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("systemd-peer.sh")
        subprocess.run(
            ["bash", script, demo.mirror(), _PEER_PACKAGES, ours, path],
            input=f"{_ANSWER_UNIT}\0{_NETWORK}",
            text=True,
            check=True,
        )
    return path


def pss_mb(smaps_rollup: str) -> float:
    """Proportional set size out of /proc/PID/smaps_rollup, in 10^6 bytes."""
    match = re.search(r"^Pss:\s+(\d+) kB", smaps_rollup, re.M)
    assert match is not None, smaps_rollup
    return int(match[1]) * 1024 / 1e6
