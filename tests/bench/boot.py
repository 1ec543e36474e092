"""boot.ready_vs_systemd, image.size_mb, core.rss_mb: whole machines in QEMU."""

import hashlib
import json
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import redis

from g8tools.up import demo
from g8tools.up.vm import Machine, Vm, VmError, free_port
from tests.bench.rows import Row, compare, single
from tests.support.hub import hub
from tests.support.images import publish
from tests.support.rootfs import make_rootfs
from tests.support.vm import BUILD, node

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
_SETTLED_S = 60.0
_HOST = "10.0.2.2"  # our loopback, seen from a guest with user networking
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    kernel, initrd = BUILD / "vmlinuz", BUILD / "initramfs.zst"
    if wanted("image.size_mb"):
        sizes = {path.name: round(path.stat().st_size / 1e6, 2) for path in (kernel, initrd)}
        yield single("image.size_mb", "MB", "lower", round(sum(sizes.values()), 2), **sizes)
    if wanted("core.rss_mb"):
        yield single(
            "core.rss_mb", "MB", "lower", _rss_mb(folder / "rss"), after_pong_s=_SETTLED_S, containers=1
        )
    if wanted("boot.ready_vs_systemd"):
        peer_initrd = systemd_initramfs(folder)
        # The same one for all boots, whoever builds meanwhile.
        initrd = Path(shutil.copy(initrd, folder / "ours.zst"))
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


def _rss_mb(folder: Path) -> float:
    """PID 1 of a node that runs a container and has answered a few commands."""
    folder.mkdir()
    with hub(folder) as store, node(folder / "vm") as booted:
        booted.direct("core.ping")
        settled = time.monotonic() + _SETTLED_S
        flist = publish(store, make_rootfs(folder / "tree"), "busybox").replace("127.0.0.1", _HOST)
        created = booted.job("corex.create", {"root": flist, "host_network": True})
        if created["state"] != "SUCCESS":
            raise RuntimeError(f"corex.create: {created}")
        inner = {"id": "inner", "command": "bash", "arguments": {"script": "ls -lR /bin >/dev/null"}}
        booted.job("corex.dispatch", {"container": int(created["data"]), "command": inner})
        booted.result("inner")
        for name in ("info.cpu", "info.mem", "info.os", "process.list", "job.list"):
            booted.direct(name)
        time.sleep(max(0, settled - time.monotonic()))
        read = booted.job("bash", {"script": "cat /proc/1/smaps_rollup"})
        return round(pss_mb(read["streams"][0]), 2)


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
                raise VmError(f"no answer:\n{vm.console()[-6000:]}")
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


def systemd_initramfs(folder: Path) -> Path:
    """The peer: minbase with systemd as PID 1 and one unit that answers on TCP; then our layer of modules."""
    script = Path(__file__).with_name("systemd-peer.sh")
    text = f"{_PEER_PACKAGES} {_ANSWER_UNIT} {_NETWORK}".encode() + script.read_bytes()
    base = demo.cache_folder() / "bench" / f"systemd-{hashlib.sha256(text).hexdigest()[:16]}.zst"
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["bash", script, demo.mirror(), _PEER_PACKAGES, base],
            input=f"{_ANSWER_UNIT}\0{_NETWORK}\0",
            text=True,
            check=True,
        )
    whole = folder / "systemd.zst"
    whole.write_bytes(_padded(base.read_bytes()) + _modules_layer())
    return whole


def _modules_layer() -> bytes:
    """The modules as our initramfs has them: one of its archives (initramfs-build/stages/assemble.sh)."""
    components = json.loads((BUILD / "image.json").read_text())["components"]
    offset = 0
    for name in ("root", "modules"):
        size = components[name]["packed_bytes"]
        if name == "modules":
            break
        offset += size + -size % 4
    layer = (BUILD / "initramfs.zst").read_bytes()[offset : offset + size]
    if not layer.startswith(_ZSTD_MAGIC):
        raise RuntimeError("build/image.json does not describe build/initramfs.zst")
    return layer


def _padded(archive: bytes) -> bytes:
    """The kernel looks for the next archive on a multiple of four."""
    return archive + bytes(-len(archive) % 4)


def pss_mb(smaps_rollup: str) -> float:
    """Proportional set size out of /proc/PID/smaps_rollup, in 10^6 bytes."""
    match = re.search(r"^Pss:\s+(\d+) kB", smaps_rollup, re.M)
    assert match is not None, smaps_rollup
    return int(match[1]) * 1024 / 1e6
