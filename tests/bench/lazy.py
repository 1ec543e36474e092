"""g8ufs.*_vs_full_pull: a container of a Debian image whose store is far away, against a full pull.

Hub and tar are behind a relay that is late by 10 ms (`relay.py`), on a link of 1 Gbit/s: a pair of network
namespaces, the agent and the puller in one, what they fetch from in the other. The agent starts with an empty
cache each time; the peer's tree goes to ext4, and crun then gets the agent's own `config.json`.
"""

import asyncio
import base64
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from g8tools.hub.client import HubClient, split_url
from g8tools.up import demo
from tests.bench.containers import Agent, mount_peer, write_bundle
from tests.bench.host import package, run, until
from tests.bench.rows import Row, compare
from tests.support.daemon import daemon
from tests.support.hub import TOKEN, TOP, hub
from tests.support.images import publish
from tests.support.netns import Inside, network_of

_PACKAGES = "python3,git,vim,curl"
_DELAY_MS = 10
_SHAPE = "rate 1gbit burst 256kb latency 50ms"
_SERVER, _CLIENT = "192.168.77.1", "192.168.77.2"
# What the agent writes into a container.
_NOT_OURS = "! -path /etc/resolv.conf ! -path '/etc/host*'"
_START = ["python3", "-c", "print(1)"]
_READ = ["sh", "-c", f"find / -xdev -type f {_NOT_OURS} -print0 | sort -z | xargs -0 cat | wc -c"]
_IDS = count(1)


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    commands = {"g8ufs.lazy_start_vs_full_pull": _START, "g8ufs.full_read_vs_full_pull": _READ}
    rows = [name for name in commands if wanted(name)]
    prefetched = "g8ufs.prefetch_start_vs_full_pull"
    if rows or wanted(prefetched):
        with _far(folder / "far") as far:
            for name in rows:
                yield far.compare(name, commands[name])
            if wanted(prefetched):
                far.record(_START)  # from here on the Hub has the profile
                yield far.compare(prefetched, _START)


@dataclass
class Far:
    """The image, as flist and as tar.zst, seen from the near namespace, which is that of process `near`."""

    folder: Path
    near: int
    flist: str
    tar: str
    config: dict[str, Any]
    setup: dict[str, Any]

    def compare(self, name: str, command: list[str]) -> Row:
        words: set[str] = set()
        sides = (lambda: self.ours(command, words), lambda: self.peer(command, words))
        row = compare(name, "s", "lower", *sides, "curl | tar, crun", command=command, **self.setup)
        if len(words) != 1:
            raise RuntimeError(f"the sides said different things: {words}")
        return row

    def ours(self, command: list[str], words: set[str]) -> float:
        """From RPUSH of corex.create to the first words, on an agent that knows nothing of the image."""
        shutil.rmtree(self.folder / "agent/root/var/cache/g8node", ignore_errors=True)
        with self.agent() as agent:
            began = time.perf_counter()
            container = agent.create(command, stream=True)
            words.add(agent.first_words(container))
            seconds = time.perf_counter() - began
            agent.gone(container)
        return seconds

    def peer(self, command: list[str], words: set[str]) -> float:
        """From the start of curl to the first words; nothing is left of the run before."""
        tree = self.folder / "pulled"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        with ExitStack() as undo:
            undo.enter_context(network_of(self.near))
            began = time.perf_counter()
            run("bash", "-o", "pipefail", "-c", f"curl -sf {self.tar} | tar -I zstd -x -C {tree}")
            mount_peer(self.folder / "peer", tree, undo)
            bundle = write_bundle(self.folder, self.config, command)
            words.add(
                run("crun", "--root", self.folder / "crun", "run", "--bundle", bundle, f"far-{next(_IDS)}")
            )
            return time.perf_counter() - began

    def record(self, command: list[str]) -> None:
        """What the command reads first goes to the Hub, as `g8 hub profile` takes it there."""
        with self.agent() as agent:
            agent.first_words(container := agent.create(command, stream=True))
            agent.gone(container)
            until(lambda: agent.node.direct("g8ufs.stats")["images"] == 0, "the end of the mount")
            recorded = agent.node.direct("g8ufs.profile", flist=self.flist)["profile"]

        async def publish() -> None:
            base, repository, name = split_url(self.flist)
            async with HubClient(base, TOKEN) as client:
                await client.put_beside(repository, name, "profile", base64.b64decode(recorded))

        asyncio.run(publish())

    @contextmanager
    def agent(self) -> Iterator[Agent]:
        enter = ["nsenter", f"--net=/proc/{self.near}/ns/net"]
        with daemon(self.folder / "agent", prefix=enter, kind=Inside) as node, node.gate() as gate:
            yield Agent(node, gate, {"root": self.flist}, self.folder, {})


@contextmanager
def _far(folder: Path) -> Iterator[Far]:
    tree, served = folder / "tree", folder / "served"
    for place in (tree, served):
        place.mkdir(parents=True)
    run("tar", "-x", "-C", tree, "-f", debian_tar(_PACKAGES))
    (tree / "etc/resolv.conf").touch()
    size = int(run("du", "-s", "--block-size=1", "--apparent-size", tree).split()[0])
    run("tar", "-I", "zstd -3", "-c", "-C", tree, "-f", served / "image.tar.zst", ".")
    with ExitStack() as undo:
        there, near = undo.enter_context(_namespace()), undo.enter_context(_namespace())
        _link(there, near)
        undo.enter_context(network_of(there))
        store = undo.enter_context(hub(folder))
        files = ["http.server", "0", "--bind", "127.0.0.1", "--directory", str(served)]
        address = undo.enter_context(_speaking("-u", "-m", *files)).split("port ")[1].split()[0]
        relays = [
            undo.enter_context(
                _speaking("-m", "tests.bench.relay", _SERVER, str(port), str(_DELAY_MS))
            ).strip()
            for port in (store.address[1], address)
        ]
        hidden = publish(store, tree, "debian").removeprefix(store.url)
        undo.enter_context(network_of(near))
        far = Far(
            folder,
            near,
            f"http://{_SERVER}:{relays[0]}{hidden}",
            f"http://{_SERVER}:{relays[1]}/image.tar.zst",
            {},
            {
                "tree_bytes": size,
                "tar_zst_bytes": (served / "image.tar.zst").stat().st_size,
                "delay_ms": _DELAY_MS,
                "shape": _SHAPE,
                "runtime": package("crun"),
            },
        )
        with far.agent() as agent:
            container = agent.create(["sleep", "100000"])
            far.config = agent.config_of(container)
            agent.node.direct("corex.terminate", container=container)
            agent.gone(container)
        yield far
    shutil.rmtree(folder)


def debian_tar(packages: str) -> Path:
    """Debian 13 minbase with these packages, made on first use and kept in the cache."""
    key = hashlib.sha256(packages.encode()).hexdigest()[:16]
    kept: Path = demo.cache_folder() / "bench" / f"debian-{key}.tar"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial.tar")
        options = ("--quiet", "--variant=minbase", f"--include={packages}")
        run("mmdebstrap", *options, "trixie", partial, demo.mirror())
        partial.rename(kept)
    return kept


@contextmanager
def _namespace() -> Iterator[int]:
    """The process that holds a network namespace open, its loopback up."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep 100000"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout
        holder.stdout.readline()
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


def _link(there: int, near: int) -> None:
    """A pair of links, each way as fast as 1 Gbit/s."""
    with network_of(there):
        run("ip", "link", "add", "far", "type", "veth", "peer", "name", "near", "netns", str(near))
    for pid, name, address in ((there, "far", _SERVER), (near, "near", _CLIENT)):
        with network_of(pid):
            run("ip", "addr", "add", f"{address}/24", "dev", name)
            run("ip", "link", "set", name, "up")
            run("tc", "qdisc", "add", "dev", name, "root", "tbf", *_SHAPE.split())


@contextmanager
def _speaking(*words: str) -> Iterator[str]:
    """A Python program until the block ends; the first line that it printed."""
    program = subprocess.Popen(
        [sys.executable, *words], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert program.stdout
        yield program.stdout.readline()
    finally:
        program.kill()
        program.communicate()
