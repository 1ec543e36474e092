"""The whole daemon in agent mode: `python -m g8node --config … --root …` in a folder of the test's."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from g8node.linux.mount import parse_mountinfo
from g8tools.up.vm import free_port

READY_S = 90.0


def eventually(find: Callable[[], Any]) -> Any:
    """What it finds, as soon as that is something."""
    deadline = time.monotonic() + 60
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Daemon:
    """A running agent and Redis clients of its gate and of its own socket."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, port: int, password: str) -> None:
        self.process = process
        self.folder = folder
        self.port = port
        self.password = password
        self.log_path = folder / "log"
        self.socket = folder / "root/run/redis.sock"

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def gate(self, **options: Any) -> redis.Redis:
        return redis.Redis(
            port=self.port,
            password=self.password,
            socket_timeout=90,
            socket_connect_timeout=60,
            decode_responses=True,
            protocol=2,
            **options,
        )

    def raw(self) -> redis.Redis:
        """redis-server itself, as a process on the node sees it."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=60, decode_responses=True)

    def direct(self, name: str, /, **arguments: Any) -> Any:
        """A registered command name as the first word; its decoded JSON answer."""
        with self.gate() as gate:
            return json.loads(gate.execute_command(name, json.dumps(arguments)))

    def push(self, command: str, arguments: Mapping[str, Any] | None = None, **fields: Any) -> str:
        job_id: str = fields.pop("id", secrets.token_hex(8))
        request = {"id": job_id, "command": command, "arguments": arguments or {}, **fields}
        with self.gate() as gate:
            gate.rpush("core:default", json.dumps(request))
        return job_id

    def result(self, job_id: str, timeout_s: int = 60) -> dict[str, Any]:
        key = f"result:{job_id}"
        with self.gate() as gate:
            raw = gate.brpoplpush(key, key, timeout_s)
        assert raw is not None, f"no result of {job_id} within {timeout_s} s:\n{self.log()[-3000:]}"
        decoded: dict[str, Any] = json.loads(raw)
        return decoded

    def job(self, command: str, arguments: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        return self.result(self.push(command, arguments, **fields))

    def run_in(self, container: int, script: str, **fields: Any) -> dict[str, Any]:
        """`bash` inside a container, to its result."""
        inner = {"id": secrets.token_hex(8), "command": "bash", "arguments": {"script": script}, **fields}
        inner_id = self.direct("corex.dispatch", container=container, command=inner)
        return self.result(inner_id)

    def redis_pid(self) -> int:
        with self.raw() as raw:
            return int(raw.info("server")["process_id"])

    def session_minor(self) -> int:
        """The number of its FUSE session, as the kernel has it."""
        table = Path(f"/proc/{self.pid}/mountinfo").read_text()
        [minor] = {int(m.device.split(":")[1]) for m in parse_mountinfo(table) if m.fstype == "fuse.g8ufs"}
        return minor

    def kill(self) -> None:
        """With SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, as an operator's supervisor would; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def daemon(
    folder: Path,
    config: str = "",
    env: Mapping[str, str] | None = None,
    *,
    prefix: Sequence[str] = (),
    kind: type[Daemon] = Daemon,
    module: str = "g8node",
) -> Iterator[Daemon]:
    """Start the agent, wait until it is ready, and end it however the test went.

    `prefix` is a command that ends in an exec of the agent, e.g. inside a namespace; `module` runs the agent.
    """
    root, password, port = folder / "root", secrets.token_urlsafe(12), free_port()
    root.mkdir(parents=True, exist_ok=True)
    (folder / "password").write_text(password)
    (folder / "g8node.toml").write_text(
        f'[gate]\nlisten = "127.0.0.1:{port}"\npassword_file = "{folder}/password"\n{config}'
    )
    argv = [
        *prefix,
        sys.executable,
        "-m",
        module,
        "--config",
        str(folder / "g8node.toml"),
        "--root",
        str(root),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
        )
    running = kind(process, folder, port, password)
    try:
        deadline = time.monotonic() + READY_S
        while "g8node ready" not in running.log():
            assert process.poll() is None, f"the agent ended:\n{running.log()}"
            assert time.monotonic() < deadline, f"the agent is not ready:\n{running.log()}"
            time.sleep(0.02)
        yield running
    finally:
        if process.poll() is None:
            try:
                running.stop()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def refused(node: Daemon, name: str, /, **arguments: object) -> str:
    """What a command is refused with: its status, and why."""
    try:
        with node.gate() as gate:
            gate.execute_command(name, json.dumps(arguments))
    except redis.ResponseError as answer:
        return str(answer)
    raise AssertionError(f"{name} was not refused")
