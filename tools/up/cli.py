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
from pathlib import Path
from typing import Any, Never

import redis

from g8tools.up import demo
from g8tools.up.vm import Machine, Vm, VmError, best_accel, end_process, free_port

TOP = demo.TOP
BUILD = TOP / "build"

# Where a QEMU guest with user networking finds the host's loopback.
_HOST_FROM_GUEST = "10.0.2.2"
_BOOT_S = 300.0
_PAGE_S = 180.0
_HUB_S = 90.0


class Place:
    """Where a run keeps its files: `build` for people, a folder of their own for tests."""

    def __init__(self, base: Path) -> None:
        self.folder = base / "up"
        self.state = base / "up.json"
        self.hub = base / "hub"
        self.token = self.folder / "hub-token"
        self.console = self.folder / "console.log"


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


def start_hub(place: Place, token: str) -> tuple[subprocess.Popen[bytes], str]:
    """A Hub on loopback; its data stay, so a second run finds the flist there."""
    port = free_port(15555)
    place.token.touch(mode=0o600)
    place.token.write_text(f"{token}:{demo.REPOSITORY}\n")
    with (place.folder / "hub.log").open("wb") as log:
        hub = subprocess.Popen(
            [
                sys.executable, "-m", "g8tools.hub", "--data", str(place.hub),
                "--listen", f"127.0.0.1:{port}", "--token-file", str(place.token),
            ],
            cwd=TOP, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    wait("Hub", lambda: bool(fetch(f"{url}/api/v1/health")), _HUB_S, lambda: hub.poll() is None)
    return hub, url


def publish(place: Place, hub_url: str) -> str:
    """The demonstration flist's path on the Hub; packed and pushed unless it is there."""
    archive = demo.tarball(say)
    name = archive.stem
    path = f"/{demo.REPOSITORY}/{name}.flist"
    if fetch(f"{hub_url}{path}.digest"):
        say(f"flist {path} is on the Hub already")
        return path
    say("packing the tree as an flist and pushing what the Hub lacks")
    flist, chunks = place.folder / f"{name}.flist", place.folder / "chunks"
    g8("flist", "pack", str(archive), str(flist), "--store", str(chunks))
    g8(
        "hub", "push", str(flist), "--chunks", str(chunks), "--hub", hub_url, "--repo", demo.REPOSITORY,
        "--name", name, "--token-file", str(place.token),
    )  # fmt: skip
    return path


def g8(*argv: str) -> None:
    """The CLI as a user runs it, its progress shown."""
    done = subprocess.run([sys.executable, "-m", "g8tools.g8", *argv], cwd=TOP, check=False)
    if done.returncode:
        raise Failed(f"g8 {' '.join(argv[:2])} failed with {done.returncode}")


def boot(place: Place, password: str) -> tuple[Vm, int, int]:
    """The node; returns it with the host ports of its gate and of its port 80."""
    gate, web = free_port(16379), free_port(18080)
    kernel = BUILD / "vmlinuz"
    accel = best_accel(kernel, place.folder / "accel")
    say(f"booting the node in QEMU ({accel})")
    machine = Machine(
        kernel,
        BUILD / "initramfs.zst",
        accel=accel,
        forwards={6379: gate, 80: web},
        secrets={"password": password},
    )
    vm = Vm(place.folder, machine)
    vm.boot("g8node ready", _BOOT_S)
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
        "nics": [{"type": "default"}],
        "port": {"80": 80},
        "command": list(demo.COMMAND),
    }
    return int(json.loads(ask(gate, "corex.create", json.dumps(arguments))))


def start(place: Place) -> None:
    """Everything, in order; leaves the state file."""
    if place.state.exists():
        stop(place)
    place.folder.mkdir(parents=True, exist_ok=True)
    hub, hub_url = start_hub(place, secrets.token_urlsafe(24))
    pids = {"hub": hub.pid}
    try:
        say(f"Hub answers on {hub_url}")
        flist = publish(place, hub_url)
        password = secrets.token_urlsafe(12)
        vm, gate_port, web_port = boot(place, password)
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
    write_state(place, state)
    print_next(place, state)


def write_state(place: Place, state: dict[str, Any]) -> None:
    """It holds the password: for the owner's eyes, and his who called sudo."""
    place.state.touch(mode=0o600)
    place.state.write_text(json.dumps(state, indent=1) + "\n")
    if "SUDO_UID" in os.environ:
        os.chown(place.state, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))


def print_next(place: Place, state: dict[str, Any]) -> None:
    """How to go on."""
    cli = f"redis-cli -p {state['gate_port']} -a {state['password']} --no-auth-warning"
    print(f"""
The node runs. Try:
  {cli} core.ping
  {cli} info.mem
  {cli} bash 'script="ls /"'
  {cli} corex.list
  .venv/bin/g8 container list
  .venv/bin/g8 container exec {state["container_id"]} -- nginx -v
  curl {state["web_url"]}
Its console is {place.console}, the Hub's page {state["hub_url"]}/
  make down
stops it all.""")


_PROGRAMS = {"hub": "g8tools.hub", "qemu": "qemu-system"}


def stop(place: Place) -> None:
    """End what `start` started."""
    if not place.state.exists():
        print(f"nothing runs (no {place.state})")
        return
    state = json.loads(place.state.read_text())
    for name, pid in reversed(state["pids"].items()):
        ended = end_process(pid, _PROGRAMS[name])
        print(f"{name} {'stopped' if ended else 'was not running'}")
    place.state.unlink()


def run() -> Never:
    """Exit codes: 0, 100 wrong use, 111 when a part fails."""
    parser = argparse.ArgumentParser(prog="g8tools.up", description=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--base", type=Path, default=BUILD, help="folder of its files")
    options = parser.parse_args()
    place = Place(options.base.absolute())
    try:
        start(place) if options.action == "start" else stop(place)
    except (Failed, VmError, RuntimeError, OSError, redis.RedisError) as error:
        print(f"make up: {error}", file=sys.stderr)
        raise SystemExit(111) from error
    raise SystemExit(0)
