"""container.*: containers of a real agent, asked for through its gate, against the OCI runtimes alone.

The peers get the config.json that the agent wrote for such a container, with another command and a root that
is an overlay, mounted beforehand, over the same tree on ext4. Cleaning up is in no side's time.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import redis

from tests.bench.host import first_byte_s, package, run, unmount, until
from tests.bench.rows import Row, compare
from tests.support.daemon import Daemon, daemon
from tests.support.hub import hub
from tests.support.images import publish
from tests.support.rootfs import make_rootfs

_IN_A_ROW = 50
_RUNTIMES = ("runc", "crun")
_IDS = count(1)


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    starts = [runtime for runtime in _RUNTIMES if wanted(f"container.start_vs_{runtime}")]
    execs = wanted("container.exec_vs_crun_exec")
    if not starts and not execs:
        return
    with running(folder / "containers") as agent:
        for runtime in starts:
            yield _start(agent, runtime)
        if execs:
            yield _exec(agent)


@dataclass
class Agent:
    """The daemon, one connection to its gate, and a bundle for the peers."""

    node: Daemon
    gate: redis.Redis
    image: dict[str, str]  # `root`, and `storage` if the flist does not say it
    folder: Path
    config: dict[str, Any]

    def bundle(self, command: list[str]) -> Path:
        """For a peer that runs another command over its own root."""
        return write_bundle(self.folder, self.config, command)

    def config_of(self, container: int) -> dict[str, Any]:
        """The config.json that the agent wrote."""
        path = self.node.folder / f"root/run/containers/{container}/config.json"
        config: dict[str, Any] = json.loads(path.read_bytes())
        return config

    def create(self, command: list[str] | str, *, stream: bool = False, **network: Any) -> int:
        """RPUSH of corex.create and its result, as a client does it: the container's id."""
        job = f"bench-{next(_IDS)}"
        arguments = {**self.image, "command": command, **(network or {"host_network": True})}
        request = {"id": job, "command": "corex.create", "arguments": arguments, "stream": stream}
        self.gate.rpush("core:default", json.dumps(request))
        return int(self.result(job)["data"])

    def result(self, job: str) -> dict[str, Any]:
        raw = self.gate.brpoplpush(f"result:{job}", f"result:{job}", 30)
        result: dict[str, Any] = json.loads(raw or "{}")
        if result.get("state") != "SUCCESS":
            raise RuntimeError(f"{job}: {result}")
        return result

    def first_words(self, container: int) -> str:
        """What the container's job wrote first."""
        popped = self.gate.blpop([f"stream:core-{container}"], 30)
        return str(json.loads(popped[1])["message"]["message"]) if popped else ""

    def start_s(self, **network: Any) -> float:
        """Seconds from the request to the first output of a container that says hi; then it goes."""
        began = time.perf_counter()
        container = self.create("echo hi", stream=True, **network)
        words = self.first_words(container)
        seconds = time.perf_counter() - began
        if words != "hi\n":
            raise RuntimeError(f"the container's first words: {words}")
        self.gone(container)
        return seconds

    def gone(self, container: int) -> None:
        until(lambda: not (self.node.folder / f"root/run/containers/{container}").exists(), "the clean-up")


def _start(agent: Agent, runtime: str) -> Row:
    bundle = agent.bundle(["echo", "hi"])
    state = str(agent.folder / runtime)

    def peer_once() -> float:
        name = f"bench-{next(_IDS)}"
        return first_byte_s([runtime, "--root", state, "run", "--bundle", str(bundle), name])

    return compare(
        f"container.start_vs_{runtime}",
        "ms",
        "lower",
        lambda: 1000 * median(agent.start_s() for _ in range(_IN_A_ROW)),
        lambda: 1000 * median(peer_once() for _ in range(_IN_A_ROW)),
        f"{runtime} run",
        runtimes=[package(name) for name in _RUNTIMES],
        in_a_row=_IN_A_ROW,
    )


def _exec(agent: Agent) -> Row:
    with ExitStack() as undo:
        container = agent.create(["sleep", "100000"])
        undo.callback(agent.gone, container)
        undo.callback(agent.node.direct, "corex.terminate", container=container)
        base = ["crun", "--root", str(agent.folder / "crun")]
        bundle = agent.bundle(["sleep", "100000"])
        # Its streams must not be pipes of ours, which would stay open with it.
        argv = [*base, "run", "--detach", "--bundle", str(bundle), "peer"]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        undo.callback(run, *base, "delete", "--force", "peer")

        def ours_once() -> float:
            job = f"bench-{next(_IDS)}"
            inner = {"id": f"{job}-in", "command": "core.system", "arguments": {"name": "true"}}
            arguments = {"container": container, "command": inner}
            request = {"id": job, "command": "corex.dispatch", "arguments": arguments}
            began = time.perf_counter()
            agent.gate.rpush("core:default", json.dumps(request))
            agent.result(f"{job}-in")
            return time.perf_counter() - began

        def peer_once() -> float:
            began = time.perf_counter()
            subprocess.run([*base, "exec", "peer", "true"], check=True, stdin=subprocess.DEVNULL)
            return time.perf_counter() - began

        return compare(
            "container.exec_vs_crun_exec",
            "ms",
            "lower",
            lambda: 1000 * median(ours_once() for _ in range(_IN_A_ROW)),
            lambda: 1000 * median(peer_once() for _ in range(_IN_A_ROW)),
            "crun exec",
            runtimes=[package("crun")],
            in_a_row=_IN_A_ROW,
        )


@contextmanager
def running(folder: Path) -> Iterator[Agent]:
    """An agent of the host's network whose caches are warm, and a root for peers."""
    with ExitStack() as undo:
        tree = make_rootfs(folder / "tree")
        mount_peer(folder / "peer", tree, undo)
        flist = publish(undo.enter_context(hub(folder)), tree, "busybox")
        node = undo.enter_context(daemon(folder / "agent"))
        gate = undo.enter_context(node.gate())
        agent = Agent(node, gate, {"root": flist}, folder, {})
        for _ in range(2):  # the first warms caches and leaves the compiled filter behind
            container = agent.create(["sleep", "100000"])
            agent.config = agent.config_of(container)
            node.direct("corex.terminate", container=container)
            agent.gone(container)
        yield agent
    shutil.rmtree(folder)


def write_bundle(folder: Path, config: dict[str, Any], command: list[str]) -> Path:
    """`folder/bundle`: an agent's config.json with another command, over the root that `mount_peer` made."""
    changed = json.loads(json.dumps(config))
    changed["process"]["args"] = command
    changed["root"]["path"] = str(folder / "peer/rootfs")
    changed["linux"]["cgroupsPath"] = f"/g8-bench-{os.getpid()}"
    place = folder / "bundle"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(changed))
    return place


def mount_peer(folder: Path, tree: Path, undo: ExitStack) -> None:
    """`folder/rootfs`: an overlay over the tree, whose upper layer is a tmpfs as ours is."""
    data, rootfs = folder / "data", folder / "rootfs"
    for place in (data, rootfs):
        place.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", data)
    undo.callback(unmount, data)
    for name in ("upper", "work"):
        (data / name).mkdir()
    options = f"lowerdir={tree},upperdir={data}/upper,workdir={data}/work"
    run("mount", "-t", "overlay", "overlay", "-o", options, rootfs)
    undo.callback(unmount, rootfs)
    (rootfs / "etc/resolv.conf").touch()
