"""Real mounts in a child process, for tests that could hang a mount.

@in_child
async def test_mount_shows_the_tree(node: Node) -> None: ...

A module with the fixture `view` (parametrized: erofs, tree) in its usefixtures runs every test on both views.
"""

import asyncio
import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

from g8node.config import Fuse
from g8node.g8ufs.mounts import Mounts
from g8node.linux import fusectl
from g8node.linux.mount import Mount, mount, mounts, parse_mountinfo
from g8node.runtime import blocking, logs
from g8node.runtime.watchdog import Stall, Watchdog
from tests.support.chunks import make_tree, publish
from tests.support.faults import ChunkServer
from tests.support.rundelay import RunDelay

TOP = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 180
VIEW = "G8NODE_TEST_VIEW"
TREE_IN_SOAK = pytest.mark.parametrize(
    "view", ["erofs", pytest.param("tree", marks=pytest.mark.soak)], indirect=True
)
"""With the fixture `view`: a module whose tests run on the tree view too, but only in `make soak`."""
_CLONE_NEWNS = 0x20000


@dataclass
class Node:
    """What a scenario gets: a folder, a store over HTTP that can fail, mounts over it."""

    tmp: Path
    server: ChunkServer
    mounts: Mounts
    tree: Path
    flist: str = ""

    @property
    def view(self) -> str:
        return os.environ.get(VIEW, "auto")

    async def attach(self, name: str = "mnt") -> str:
        """Mount the tree's flist; its chunks come from the server."""
        target = str(self.tmp / name)
        await self.mounts.attach(self.flist, target, storage=self.server.url)
        return target

    async def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        return await blocking.run("path", read_at, path, offset, length)

    async def settled(self) -> None:
        """What has been asked for is fetched, and lies in the cache."""
        while self.mounts.stats()["fetches"]["in_flight"]:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)
        assert self.mounts._fetcher is not None
        await self.mounts._fetcher.settled()

    async def restart(self) -> None:
        """A new daemon over the same cache."""
        await self.mounts.close()
        self.mounts = open_mounts(self.tmp)
        await self.mounts.start()


def read_at(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb", buffering=0) as source:
        source.seek(offset)
        return source.read(length)


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def open_mounts(tmp: Path, **config: Any) -> Mounts:
    view = os.environ.get(VIEW, "auto")
    settings = {"cache_bytes": 64 << 20, "view": view} | config
    return Mounts(run=str(tmp / "run"), cache=str(tmp / "cache"), config=Fuse(**settings))


def in_child(
    test: Callable[[Node], Awaitable[None]] | None = None,
    *,
    deadline_s: float = DEADLINE_S,
    stalls: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Run the scenario in a fresh interpreter with a mount namespace of its own, on uvloop, with a deadline.

    Afterwards nothing may be left (mounts, descriptors, threads, FUSE connections) and, unless `stalls`, the
    loop may not have stalled. `settings` are of the mounts. A child that hangs is killed and its
    connection aborted.
    """
    if test is None:
        return functools.partial(in_child, deadline_s=deadline_s, stalls=stalls, settings=settings)

    def run(tmp_path: Path, request: pytest.FixtureRequest) -> None:
        view = request.getfixturevalue("view") if "view" in request.fixturenames else "auto"
        code = inspect.unwrap(test).__code__
        argv = [sys.executable, "-W", "error", "-m", "tests.support.mounted"]
        argv += [code.co_filename, test.__name__, str(tmp_path)]
        with tempfile.TemporaryFile() as output:
            environment = os.environ | {VIEW: view}
            child = subprocess.Popen(argv, cwd=TOP, stdout=output, stderr=output, env=environment)
            try:
                code_of_exit = child.wait(deadline_s)
            except subprocess.TimeoutExpired:
                code_of_exit = -1
                _end(child)
            output.seek(0)
            text = output.read().decode(errors="replace")
        assert code_of_exit == 0, f"exit {code_of_exit} (deadline {deadline_s:g} s)\n{text[-6000:]}"

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.scenario, run.deadline_s, run.stalls = test, deadline_s, stalls  # type: ignore[attr-defined]
    run.settings = dict(settings or {})  # type: ignore[attr-defined]
    return run


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill a child that hangs; what waits for its sessions is answered by aborting them."""
    table = Path(f"/proc/{child.pid}/mountinfo").read_text()
    minors = [int(m.device.split(":")[1]) for m in parse_mountinfo(table) if m.fstype == "fuse.g8ufs"]
    child.kill()
    for minor in minors:
        fusectl.abort(minor)
    child.wait()


class _Noted(deque[Stall]):
    """Stalls. Who waited for a processor is asked at once: a thread may end before the test does."""

    def __init__(self, delay: RunDelay) -> None:
        super().__init__(maxlen=100)
        self._delay = delay

    def append(self, stall: Stall) -> None:
        self._delay.seconds()
        super().append(stall)


@contextlib.contextmanager
def no_stalls(*, expected: bool = False) -> Iterator[Watchdog]:
    """The loop must not stand still for 50 ms, waiting for a processor not counted."""
    watchdog = Watchdog(interval_s=0.005, hang_s=20)
    delay = RunDelay(os.getpid())
    watchdog.stalls = _Noted(delay)
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
    if not expected:
        delayed = delay.seconds()
        ours = [stall for stall in watchdog.stalls if stall.duration_s - delayed > 0.05]
        assert not ours, "\n".join(f"{stall.duration_s:.3f} s\n{stall.stack}" for stall in ours)


@contextlib.asynccontextmanager
async def opened(tmp: Path, *, stalls: bool, settings: Mapping[str, Any]) -> AsyncIterator[Node]:
    """Server, packed tree and running mounts; checks that nothing is left."""
    tree = tmp / "tree"
    await blocking.run("disk", make_tree, tree)
    server = ChunkServer()
    node = Node(tmp, server, open_mounts(tmp, **settings), tree)
    node.flist = str(await publish(tree, tmp))
    await blocking.run("disk", server.load, tmp / "chunks")
    await node.mounts.start()
    with no_stalls(expected=stalls):
        try:
            yield node
        finally:
            try:
                await node.mounts.close()
            finally:
                await blocking.run("disk", server.down)
    left = [m.target for m in await blocking.run("disk", mounts) if m.target.startswith(str(tmp))]
    assert not left, left


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def main(file: str, name: str, tmp: str) -> None:
    logs.configure()
    _unshare()
    mount("none", "/", "", Mount.REC | Mount.PRIVATE)
    spec = importlib.util.spec_from_file_location("scenario", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    test = getattr(module, name)
    importlib.import_module("aiohttp")  # its import holds the GIL for long: not what is tested
    uvloop.run(asyncio.sleep(0))  # libuv keeps pipes of its own for the life of the process
    before = set(descriptors().values())

    async def whole() -> None:
        made = opened(Path(tmp), stalls=test.stalls, settings=test.settings)
        async with asyncio.timeout(test.deadline_s - 5), made as node:
            await test.scenario(node)

    uvloop.run(whole())
    blocking.close()
    for thread in threading.enumerate():
        if thread.name.startswith("g8-"):
            thread.join(60)
    gc.collect()
    known = ("/proc", "pipe:")  # uvloop keeps a pipe of every loop that has run
    left = [path for path in descriptors().values() if path not in before and not path.startswith(known)]
    assert not left, left
    assert threading.enumerate() == [threading.main_thread()], threading.enumerate()


def _unshare() -> None:
    if ctypes.CDLL(None).unshare(_CLONE_NEWNS):
        raise OSError("unshare")


if __name__ == "__main__":
    main(*sys.argv[1:])
