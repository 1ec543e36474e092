"""A QEMU machine that boots our kernel and initramfs (blocking; for tools and tests, not for the node)."""

import functools
import itertools
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_PROBE_S = 15.0
_PORTS_FROM = 26000

# One thread runs all processors. With one thread each (thread=multi), QEMU translates what another processor
# is about to overwrite: it drops the translations of the place before the write, and one made in between
# stays. The kernel rewrites its own code while it runs (static keys), and a processor that is left with the
# breakpoint of a rewriting ends in "Oops: int3": at rest after 3 s of switching kernel.sched_schedstats with
# 7.2 (16 s with 10.0), and under load in one boot of 28.
TCG = "tcg,thread=single"
# QEMU 7.2 translates cmpxchg16b wrongly under load (flags overwritten, the kernel's allocator then crashes at
# random); without the instruction the kernel takes a lock instead. With rdrand the kernel has its random
# numbers at once.
_TCG_CPU = "qemu64,-cx16,+rdrand"


class VmError(Exception):
    """The machine did not do what was asked; the message ends with the last console lines."""


@dataclass(frozen=True)
class Machine:
    """What to boot. `forwards` maps guest TCP ports to host ports on 127.0.0.1; `secrets` go by fw_cfg."""

    kernel: Path
    initrd: Path
    memory_mb: int = 1024
    cpus: int = 2
    accel: str = TCG
    forwards: Mapping[int, int] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    append: Sequence[str] = ("quiet",)
    options: Sequence[str] = ()


@functools.cache
def _quiet_ports() -> Iterator[int]:
    """Each port below those of outgoing connections once, from anywhere on: two processes seldom meet."""
    ports = range(_PORTS_FROM, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
    start = secrets.randbelow(len(ports)) if ports else 0
    return iter([*ports[start:], *ports[:start]])


def free_port(preferred: int = 0) -> int:
    """A TCP port on loopback that nobody listens on now; the preferred one when it is free.

    No call gives the port of another, and none that the kernel may give to an outgoing connection before its
    server listens there (unless all others are taken).
    """
    for port in itertools.chain([preferred] if preferred else [], _quiet_ports(), [0]):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as who will listen there does
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise VmError("no free TCP port on 127.0.0.1")


def best_accel(kernel: Path, cache: Path) -> str:
    """`kvm` where it boots a guest, else `TCG`. The answer is kept in `cache` until a reboot."""
    key = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {kernel.stat().st_size}"
    with suppress(OSError, ValueError):
        known, accel = cache.read_text().split("\n", 1)
        if known == key:
            return accel
    accel = "kvm" if kvm_works(kernel) else TCG
    cache.write_text(f"{key}\n{accel}")
    return accel


def kvm_works(kernel: Path) -> bool:
    """Boot the bare kernel under KVM: it must get as far as missing its root file system."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    argv = [
        "qemu-system-x86_64", "-accel", "kvm", "-m", "256", "-kernel", str(kernel), "-nographic",
        "-no-reboot", "-nodefaults", "-serial", "stdio", "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"Kernel panic" in done.stdout


class Vm:
    """One running machine; its files (console, log) live in `folder`."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder = folder
        self.machine = machine
        self.console_path = folder / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    def start(self) -> None:
        """Start QEMU; returns at once. It outlives this process unless `stop` is called."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console_path.unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("wb") as log:
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                self._argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _argv(self) -> list[str]:
        machine = self.machine
        forwards = "".join(
            f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for guest, host in machine.forwards.items()
        )
        argv = [
            "qemu-system-x86_64", "-accel", machine.accel,
            "-cpu", "host" if machine.accel == "kvm" else _TCG_CPU, "-smp", str(machine.cpus),
            "-m", str(machine.memory_mb), "-kernel", str(machine.kernel), "-initrd", str(machine.initrd),
            "-nodefaults", "-display", "none", "-no-reboot",
            "-serial", f"file:{self.console_path}",
            "-nic", f"user,model=virtio-net-pci{forwards}",
            "-device", "virtio-rng-pci",
            "-append", " ".join(["console=ttyS0", "panic=-1", *machine.append]),
        ]  # fmt: skip
        for name, value in machine.secrets.items():
            path = self.folder / f"secret-{name}"
            path.touch(mode=0o600)
            path.write_text(value)
            argv += ["-fw_cfg", f"name=opt/g8node/{name},file={path}"]
        return [*argv, *machine.options]

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def console(self) -> str:
        """What the machine wrote on its serial line so far."""
        try:
            return self.console_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for(self, text: str, timeout_s: float) -> float:
        """Wait until the console shows text; returns the seconds since start. Raises VmError."""
        deadline = time.monotonic() + timeout_s
        while text not in self.console():
            if not self.running and text not in self.console():  # it may have been its last word
                raise VmError(f"QEMU ended before {text!r} appeared:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise VmError(f"{text!r} did not appear within {timeout_s:g} s:\n{self._tail()}")
            time.sleep(0.05)
        return time.monotonic() - self.started

    def boot(self, ready: str, timeout_s: float) -> None:
        """Start it and wait for that text. Raises VmError."""
        self.start()
        self.wait_for(ready, timeout_s)

    def wait_end(self, timeout_s: float) -> None:
        """Wait until the machine powers itself off. Raises VmError."""
        assert self._process is not None, "not started"
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise VmError(f"still running after {timeout_s:g} s:\n{self._tail()}") from error

    def quit(self) -> None:
        """End it as a power cut would, if it was started, and collect the process."""
        if self._process is not None:
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of whatever it does, and collect the process."""
        assert self._process is not None, "not started"
        self._process.kill()
        self._process.wait()

    def _tail(self) -> str:
        log = (self.folder / "qemu.log").read_text(errors="replace")
        return "\n".join([*self.console().splitlines()[-30:], log[-1000:]])


def end_process(pid: int, name: str, timeout_s: float = 10.0) -> bool:
    """TERM, then KILL, a process that an earlier run started. False when it is not there (any more)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    if name.encode() not in command:
        return False  # the pid was reused
    deadline = time.monotonic() + timeout_s
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.05)
    return True


def _is_zombie(pid: int) -> bool:
    with suppress(OSError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return True
