"""`make up`: Hub, flist, node, container, page. `make down`: the end of them (blocking)."""

import argparse
import http.client
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any, Never

import redis

from g8tools.up import demo
from g8tools.up.vm import Machine, Vm, VmError, end_process, free_port, kvm_works

TOP = demo.TOP
BUILD = TOP / "build"
FOLDER = BUILD / "up"
STATE = BUILD / "up.json"

# Where a QEMU guest with user networking finds the host's loopback.
_HOST_FROM_GUEST = "10.0.2.2"
_BOOT_S = 300.0
_PAGE_S = 180.0
_HUB_S = 30.0


class Failed(Exception):
    """`make up` cannot go on; the message says why."""


def say(text: str, began: float = time.monotonic()) -> None:
    """A progress line with the seconds since start."""
    print(f"[{time.monotonic() - began:6.1f}s] {text}", flush=True)


def wait(what: str, ready: Callable[[], bool], timeout_s: float, alive: Callable[[], bool]) -> None:
    """Poll until ready; fails when it takes too long or what it waits for has died."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if not alive():
            raise Failed(f"{what}: the process ended")
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not ready within {timeout_s:g} s")
        time.sleep(0.1)


def fetch(url: str) -> str:
    """The page at url; empty while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read(1 << 20).decode(errors="replace")
            return text
    except (OSError, http.client.HTTPException):
        return ""


def start_hub(token: str) -> tuple[subprocess.Popen[bytes], str]:
    """A Hub on loopback; its data stay in build/hub, so a second run finds the flist there."""
    port = free_port(15555)
    token_file = FOLDER / "hub-token"
    token_file.touch(mode=0o600)
    token_file.write_text(f"{token}:{demo.REPOSITORY}\n")
    with (FOLDER / "hub.log").open("wb") as log:
        hub = subprocess.Popen(
            [
                sys.executable, "-m", "g8tools.hub", "--data", str(BUILD / "hub"),
                "--listen", f"127.0.0.1:{port}", "--token-file", str(token_file),
            ],
            cwd=TOP, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    wait("Hub", lambda: bool(fetch(f"{url}/api/v1/health")), _HUB_S, lambda: hub.poll() is None)
    return hub, url


def publish(hub_url: str) -> str:
    """The demonstration flist's path on the Hub; packed and pushed unless it is there."""
    archive = demo.tarball(say)
    name = archive.stem
    path = f"/{demo.REPOSITORY}/{name}.flist"
    if fetch(f"{hub_url}{path}.digest"):
        say(f"flist {path} is on the Hub already")
        return path
    say("packing the tree as an flist and pushing what the Hub lacks")
    flist, chunks = FOLDER / f"{name}.flist", FOLDER / "chunks"
    g8("flist", "pack", str(archive), str(flist), "--store", str(chunks))
    g8(
        "hub", "push", str(flist), "--chunks", str(chunks), "--hub", hub_url, "--repo", demo.REPOSITORY,
        "--name", name, "--token-file", str(FOLDER / "hub-token"),
    )  # fmt: skip
    return path


def g8(*argv: str) -> None:
    """The CLI as a user runs it, its progress shown."""
    done = subprocess.run([sys.executable, "-m", "g8tools.g8", *argv], cwd=TOP, check=False)
    if done.returncode:
        raise Failed(f"g8 {' '.join(argv[:2])} failed with {done.returncode}")


def boot(password: str) -> tuple[Vm, int, int]:
    """The node; returns it with the host ports of its gate and of its port 80."""
    gate, web = free_port(16379), free_port(18080)
    kernel = BUILD / "vmlinuz"
    accel = "kvm" if kvm_works(kernel) else "tcg,thread=multi"
    say(f"booting the node in QEMU ({accel})")
    machine = Machine(
        kernel,
        BUILD / "initramfs.zst",
        accel=accel,
        forwards={6379: gate, 80: web},
        secrets={"password": password},
    )
    vm = Vm(FOLDER, machine)
    vm.start()
    vm.wait_for("g8node ready", _BOOT_S)
    return vm, gate, web


def ask(gate: redis.Redis, *words: str) -> bytes:
    """A registered command as the first word, answered at once."""
    answer: bytes = gate.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    return answer


def create(gate: redis.Redis, flist_url: str) -> int:
    """The container, through the gate as `redis-cli corex.create` would."""
    arguments = {
        "root": flist_url,
        "name": "nginx",
        "hostname": "nginx",
        "host_network": True,
        "command": list(demo.COMMAND),
    }
    return int(json.loads(ask(gate, "corex.create", json.dumps(arguments))))


def start() -> None:
    """Everything, in order; leaves build/up.json."""
    if STATE.exists():
        stop()
    FOLDER.mkdir(parents=True, exist_ok=True)
    hub, hub_url = start_hub(secrets.token_urlsafe(24))
    pids = {"hub": hub.pid}
    try:
        say(f"Hub answers on {hub_url}")
        flist = publish(hub_url)
        password = secrets.token_urlsafe(12)
        vm, gate_port, web_port = boot(password)
        pids["qemu"] = vm.pid
        gate = redis.Redis(port=gate_port, password=password, socket_timeout=120, protocol=2)
        say(f"the node answers: {ask(gate, 'core.ping').decode()}")
        guest_hub = hub_url.replace("127.0.0.1", _HOST_FROM_GUEST)
        container = create(gate, f"{guest_hub}{flist}")
        say(f"container {container} runs")
        page_url = f"http://127.0.0.1:{web_port}/"
        wait("page", lambda: f"container {container}" in fetch(page_url), _PAGE_S, lambda: vm.running)
        say(f"{page_url} says: {fetch(page_url).split('<h1>')[-1].split('</h1>')[0]}")
    except BaseException:
        for name, pid in pids.items():
            end_process(pid, _PROGRAMS[name])
        raise
    state = {
        "gate_host": "127.0.0.1",
        "gate_port": gate_port,
        "password": password,
        "hub_url": hub_url,
        "web_url": page_url,
        "container_id": container,
        "pids": pids,
    }
    write_state(state)
    print_next(state)


def write_state(state: dict[str, Any]) -> None:
    """It holds the password: for the owner's eyes, and his who called sudo."""
    STATE.touch(mode=0o600)
    STATE.write_text(json.dumps(state, indent=1) + "\n")
    if "SUDO_UID" in os.environ:
        os.chown(STATE, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))


def print_next(state: dict[str, Any]) -> None:
    """How to go on."""
    cli = f"redis-cli -p {state['gate_port']} -a {state['password']} --no-auth-warning"
    console = (FOLDER / "console.log").relative_to(TOP)
    print(f"""
The node runs. Try:
  {cli} core.ping
  {cli} info.mem
  {cli} bash 'script="ls /"'
  {cli} corex.list
  .venv/bin/g8 container list
  .venv/bin/g8 container exec {state["container_id"]} -- nginx -v
  curl {state["web_url"]}
Its console is {console}, the Hub's page {state["hub_url"]}/
  make down
stops it all.""")


_PROGRAMS = {"hub": "g8tools.hub", "qemu": "qemu-system"}


def stop() -> None:
    """End what `start` started."""
    if not STATE.exists():
        print("nothing runs (no build/up.json)")
        return
    state = json.loads(STATE.read_text())
    for name, pid in reversed(state["pids"].items()):
        ended = end_process(pid, _PROGRAMS[name])
        print(f"{name} {'stopped' if ended else 'was not running'}")
    STATE.unlink()


def run() -> Never:
    """Exit codes: 0, 100 wrong use, 111 when a part fails."""
    parser = argparse.ArgumentParser(prog="g8tools.up", description=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    action = parser.parse_args().action
    try:
        start() if action == "start" else stop()
    except (Failed, VmError, RuntimeError, OSError, redis.RedisError) as error:
        print(f"make up: {error}", file=sys.stderr)
        raise SystemExit(111) from error
    raise SystemExit(0)
