"""A FUSE session that dies comes back by itself, with what was mounted; containers on it end."""

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from g8node.errors import Unavailable
from g8node.linux import fusectl, procfs
from g8node.runtime import blocking
from g8node.runtime.supervise import Supervisor
from tests.support.agent import until
from tests.support.chunks import digests
from tests.support.daemon import Daemon, daemon, eventually
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish
from tests.support.mounted import Node, in_child, open_mounts

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def abort_of(node: Node) -> None:
    fusectl.abort(fusectl.device_of(f"{node.tmp}/run/g8ufs")[1])


@pytest.mark.usefixtures("view")
@in_child
async def test_aborted_session_is_mounted_again_with_its_targets(node: Node) -> None:
    supervisor, lost = Supervisor(), []
    node.mounts.on_lost = lost.extend
    supervisor.start("g8ufs", node.mounts.run)
    targets = [await node.attach(name) for name in ("one", "two")]
    expected = await blocking.run("path", digests, str(node.tree))
    for deaths in (1, 2):
        await blocking.run("path", abort_of, node)
        await until(lambda: len(lost) == 2 * deaths)  # noqa: B023
        assert set(lost) == set(targets)
        for target in targets:
            assert await blocking.run("path", digests, target) == expected
    assert await blocking.run("path", digests, await node.attach("three")) == expected
    [status] = supervisor.status()
    assert status.restarts == 2
    assert "the FUSE session died" in status.last_error
    await node.mounts.detach(targets[0])
    await supervisor.close()


@pytest.mark.usefixtures("view")
@in_child
async def test_attach_while_the_session_is_dead_says_so_or_works(node: Node) -> None:
    supervisor = Supervisor()
    supervisor.start("g8ufs", node.mounts.run)
    await node.attach("one")
    await blocking.run("path", abort_of, node)
    failures = []
    for number in range(20):
        try:
            await node.attach(f"more{number}")
        except Exception as error:  # noqa: BLE001 - which ones is what is tested
            failures.append(type(error).__name__)
    assert set(failures) <= {"Unavailable"}
    await until(lambda: node.mounts._session.running)
    assert await node.read(f"{await node.attach('last')}/size1") is not None
    await supervisor.close()


STUCK = """
import asyncio, subprocess, sys
from pathlib import Path
import uvloop
from tests.support import mounted

class Silent:
    size = 4096
    def __init__(self):
        self.asked = asyncio.Event()
    async def read(self, offset, length):
        self.asked.set()
        await asyncio.Event().wait()
    def close(self):
        pass

def waits():
    return [task for task in Path("/proc/self/task").iterdir() if " D " in (task / "stat").read_text()]

async def main():
    mounts = mounted.open_mounts(Path(sys.argv[1]))
    await mounts.start()
    silent = Silent()
    entry = mounts._session.add("silent", silent)
    path = f"{mounts._session.mountpoint}/{entry.name}"
    await asyncio.to_thread(subprocess.Popen, ["/bin/cat", path], close_fds=True, cwd="/")
    await silent.asked.wait()
    pushing = asyncio.create_task(mounts._session.push(entry, 0, bytes(4096)))
    while not waits():
        await asyncio.sleep(0.01)
    print("stuck", flush=True)
    await pushing

uvloop.run(main())
"""


def wait_for_death(pid: int) -> None:
    """It may have threads that live on."""
    deadline = time.monotonic() + 60
    while procfs.stat(pid).state != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


@in_child
async def test_process_that_waits_for_itself_is_not_in_the_way_when_it_was_killed(node: Node) -> None:
    await node.mounts.close()
    argv = [sys.executable, "-c", STUCK, str(node.tmp)]
    stuck = await blocking.run("path", functools.partial(subprocess.Popen, argv, stdout=subprocess.PIPE))
    try:
        assert stuck.stdout is not None
        assert await blocking.run("path", stuck.stdout.readline) == b"stuck\n"
        node.mounts = open_mounts(node.tmp)
        with pytest.raises(Unavailable, match="used by another process"):
            await node.mounts.start()
        stuck.kill()
        await blocking.run("path", wait_for_death, stuck.pid)
        await node.mounts.start()
        assert await blocking.run("path", stuck.wait, 60) == -signal.SIGKILL
        expected = await blocking.run("path", digests, str(node.tree))
        assert await blocking.run("path", digests, await node.attach()) == expected
    finally:
        stuck.stdout.close()


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    with hub(folder) as running:
        yield publish(running, busybox_tree(folder / "tree"), "busybox")


@pytest.fixture(scope="module", params=["erofs", "tree"])
def agent(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    config = f'[g8ufs]\nview = "{request.param}"\n'
    with daemon(tmp_path_factory.mktemp("node"), config) as running:
        yield running


def create(agent: Daemon, root: str) -> int:
    result = agent.job("corex.create", {"root": root})
    assert result["state"] == "SUCCESS", result
    return int(json.loads(result["data"]))


def test_containers_on_a_dead_session_end_and_new_ones_start(agent: Daemon, busybox: str) -> None:
    first = create(agent, busybox)
    assert agent.run_in(first, "head -c 1 /data/3")["streams"][0].endswith("D")
    fusectl.abort(agent.session_minor())
    eventually(lambda: not agent.direct("corex.list"))
    eventually(lambda: "container is ended: its flist was lost" in agent.log())
    second = create(agent, busybox)
    assert agent.run_in(second, "head -c 1 /data/3")["streams"][0].endswith("D")
    agent.direct("corex.terminate", container=second)
    rows = {row["name"]: row for row in agent.direct("core.state")["subsystems"]}
    assert rows["g8ufs"]["restarts"] == 1
