"""QEMU nodes for tests: boot the built image, talk to its gate."""

import json
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from g8tools.up.vm import Machine, Vm, free_port

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = TOP / "build"

# Inside TCG everything is 10 to 20 times slower than on the host (and CI may run beside other work).
BOOT_S = 300.0
END_S = 180.0
DEADLINE_S = 180
_WAIT_S = 60  # shorter than the client waits for an answer
_ANSWER_S = 180.0


class NodeVm:
    """A booted node and a Redis client of its gate."""

    def __init__(self, vm: Vm, gate: redis.Redis, password: str, ports: Mapping[int, int]) -> None:
        self.vm = vm
        self.gate = gate
        self.password = password
        self.ports = ports

    def direct(self, name: str, /, **arguments: Any) -> Any:
        """A registered command name as the first word; its decoded JSON answer."""
        return json.loads(self.gate.execute_command(name, json.dumps(arguments)))

    def job(
        self, command: str, arguments: Mapping[str, Any], *, wait_s: int = DEADLINE_S, **fields: Any
    ) -> dict[str, Any]:
        """RPUSH to core:default, then wait for the result as the original client does."""
        job_id = fields.pop("id", secrets.token_hex(8))
        request = {"id": job_id, "command": command, "arguments": arguments, **fields}
        self.gate.rpush("core:default", json.dumps(request))
        assert self._waited(f"result:{job_id}:flag", DEADLINE_S) is not None, "the command was not accepted"
        return self.result(job_id, wait_s)

    def result(self, job_id: str, timeout_s: int = DEADLINE_S) -> dict[str, Any]:
        raw = self._waited(f"result:{job_id}", timeout_s)
        assert raw is not None, f"no result of {job_id} in time"
        decoded: dict[str, Any] = json.loads(raw)
        return decoded

    def _waited(self, key: str, timeout_s: int) -> str | None:
        """What comes to the list, and stays there."""
        raw: str | None = None
        while raw is None and timeout_s > 0:
            wait_s = min(timeout_s, _WAIT_S)
            raw, timeout_s = self.gate.brpoplpush(key, key, wait_s), timeout_s - wait_s
        return raw


def initrd_with(folder: Path, name: str, content: str, mode: int) -> Path:
    """Our initramfs with one file replaced: a further archive, which the kernel unpacks over the others."""
    tree = folder / "overlay"
    path = tree / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    path.chmod(mode)
    argv = "find . -mindepth 1 | cpio --quiet -o -H newc | zstd -q"
    archive = subprocess.run(argv, shell=True, cwd=tree, capture_output=True, check=True).stdout
    initrd = folder / "initrd"
    initrd.write_bytes((BUILD / "initramfs.zst").read_bytes() + archive)
    return initrd


@contextmanager
def node(
    folder: Path,
    *,
    forwards: Sequence[int] = (),
    memory_mb: int = 1024,
    append: Sequence[str] = (),
    options: Sequence[str] = (),
    initrd: Path = BUILD / "initramfs.zst",
) -> Iterator[NodeVm]:
    """Boot a node and wait until its gate answers; it is cut off at the end."""
    password = secrets.token_urlsafe(16)
    ports = {guest: free_port() for guest in (6379, *forwards)}
    machine = Machine(
        kernel=BUILD / "vmlinuz",
        initrd=initrd,
        memory_mb=memory_mb,
        forwards=ports,
        secrets={"password": password},
        append=("quiet", "g8.screen.probe=", *append),
        options=options,
    )
    vm = Vm(folder, machine)
    try:
        vm.boot("g8node ready", BOOT_S)
        gate = redis.Redis(
            port=ports[6379], password=password, socket_timeout=_ANSWER_S, decode_responses=True, protocol=2
        )
        with gate:
            yield NodeVm(vm, gate, password, ports)
    finally:
        vm.quit()
