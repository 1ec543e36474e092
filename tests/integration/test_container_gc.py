"""What no container owns is found and removed, also after the death of the node."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g8node.linux import mount
from g8node.node import leftovers
from g8node.node.crun import Streams
from g8node.runtime import blocking
from tests.support.agent import Agent, in_agent, mounts_now, public_folder
from tests.support.commands import Client
from tests.support.daemon import Daemon, daemon, refused
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish

pytestmark = pytest.mark.root


async def orphan(agent: Agent) -> tuple[Any, Any]:
    """A container that its owner has forgotten, as after the death of a node."""
    container = await agent.containers.prepare(agent.spec())
    null = os.open("/dev/null", os.O_RDWR)
    child = await agent.containers.opened()[1].run(
        container.name, container.tree.top, Streams(null, null, null)
    )
    os.close(null)
    del agent.containers._live[container.id]
    return container, child


@in_agent
async def test_forgotten_container_is_told_and_then_removed(agent: Agent) -> None:
    client = Client(agent)
    await agent.run("true")
    before = agent.traces()
    container, child = await orphan(agent)
    told = await client.call("core.gc", {"dry_run": True})
    assert {row["kind"] for row in told} == {"runtime", "process", "mount", "folder"}
    assert {row["container"] for row in told} == {container.id}
    assert child.running
    removed = await client.call("core.gc")
    assert [row["kind"] for row in removed] == [row["kind"] for row in told]
    assert not any("error" in row for row in removed)
    assert await child.wait() == -signal.SIGKILL
    assert await client.call("core.gc") == []
    agent.mounts.attached.clear()
    await agent.leaves(before)


@in_agent
async def test_planted_folder_and_mount_are_removed_and_strangers_left_alone(agent: Agent) -> None:
    folder = agent.tmp / "run/containers"
    (folder / "77/deep").mkdir(parents=True)
    (folder / "77/file").write_text("x")
    (folder / "readme").mkdir()
    (agent.tmp / "elsewhere").mkdir()
    for place in (f"{folder}/77/deep", f"{agent.tmp}/elsewhere"):
        await blocking.run("path", mount.mount, "tmpfs", place, "tmpfs", 0, "")
    found = await agent.containers.collect(dry_run=True)
    assert [(row["kind"], row["container"]) for row in found] == [("mount", 77), ("folder", 77)]
    await agent.containers.collect(dry_run=False)
    assert os.listdir(folder) == ["readme"]
    assert f"{agent.tmp}/elsewhere" in mounts_now()
    await blocking.run("path", mount.unmount, f"{agent.tmp}/elsewhere")


@in_agent
async def test_containers_that_come_and_go_are_not_harmed(agent: Agent) -> None:
    async def one(number: int) -> str:
        return (await agent.run(["echo", str(number)])).out

    container, running = await agent.start()
    work = asyncio.gather(*(one(number) for number in range(30)))
    while not work.done():
        assert await agent.containers.collect(dry_run=False) == []
        await asyncio.sleep(0)
    assert await work == [f"{number}\n" for number in range(30)]
    assert running.child.running
    assert (await agent.output(container, "echo", "alive")).out == "alive\n"


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tree = busybox_tree(tmp_path_factory.mktemp("tree") / "root")
    with hub(tmp_path_factory.mktemp("hub")) as images:
        yield publish(images, tree, "busybox")


def of_containers(root: Path) -> dict[int, set[int]]:
    """Processes that stand on roots of this node's containers, by id, as the kernel has them."""
    found: dict[int, set[int]] = {}
    for pid, id in leftovers._processes(os.path.realpath(root / "run/containers")).items():
        found.setdefault(id, set()).add(pid)
    return found


def kill_in_the_middle(folder: Path, flist: str, after: int) -> None:
    """Kill the node when `after` of 50 containers are there, and look at what the next one makes of it."""
    with daemon(folder) as node:
        jobs = [node.push("corex.create", {"root": flist, "host_network": True}) for _ in range(50)]
        deadline = time.monotonic() + 120
        with contextlib.suppress(OSError):
            while len(of_containers(folder / "root")) < after:
                assert time.monotonic() < deadline, node.log()[-2000:]
        node.process.kill()
        node.process.wait()
        assert jobs
    with daemon(folder) as node:
        check(node)


def check(node: Daemon) -> None:
    """Every container is running and listed, or completely gone."""
    root = node.folder / "root"
    assert node.direct("core.gc", dry_run=True) == []
    listed = node.direct("corex.list")
    running = of_containers(root)
    assert {int(id) for id in listed} == set(running)
    for id, row in listed.items():
        assert row["container"]["pid"] in running[int(id)]
        assert node.run_in(int(id), "cat /data/0 | wc -c")["streams"][0].strip() == str((2 << 20) + 3)
    assert {int(name) for name in os.listdir(root / "run/containers")} == set(running)
    assert {int(name[1:]) for name in os.listdir(root / "run/crun")} == set(running)


@pytest.mark.parametrize("after", [1, 20])
def test_node_killed_in_the_middle_of_creates_leaves_nothing_in_between(
    tmp_path: Path, busybox: str, after: int
) -> None:
    kill_in_the_middle(tmp_path, busybox, after)


@pytest.mark.soak
def test_node_killed_twenty_times_in_the_middle_of_creates(tmp_path: Path, busybox: str) -> None:
    for round in range(20):
        kill_in_the_middle(tmp_path, busybox, 1 + round * 5 // 2)


LOOK = """cat /kept/file; echo x >/new
    stat -c %u /new /kept/file /etc/hosts /box/bin; cat /proc/self/uid_map"""


@pytest.fixture
def public() -> Iterator[Path]:
    with public_folder() as folder:
        yield folder


def test_running_containers_are_taken_over_by_the_next_agent(public: Path, busybox: str) -> None:
    talker = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"
    (public / "outer").mkdir()
    kept = {"volumes": {"/kept": {"name": "kept", "size": 16 << 20}, "/free": {"name": "free"}}}
    with daemon(public) as node:
        base = {"root": busybox, "host_network": True}
        ids = {
            name: node.direct("corex.create", **(base | more), name=name)
            for name, more in {
                "idle": kept,
                "talker": {"command": ["sh", "-c", talker]},
                "again": {"command": ["sleep", "1000"], "restart": {"policy": "always"}},
                "nobody": {
                    "userns": True,
                    "host_network": False,
                    "mount": {f"{public}/outer": "/tmp", busybox: "/box"},
                    **kept,
                },
            }.items()
        }
        node.run_in(ids["idle"], "echo kept | tee /mine /kept/file >/free/file")
        before = node.direct("corex.list")
        node.process.kill()
        node.process.wait()
    with daemon(public) as node:
        check(node)
        after = node.direct("corex.list")
        assert {id: row["container"]["pid"] for id, row in after.items()} == {
            id: row["container"]["pid"] for id, row in before.items()
        }
        assert after[str(ids["idle"])]["container"]["arguments"]["name"] == "idle"
        assert node.run_in(ids["idle"], "cat /mine /kept/file /free/file")["streams"][0] == 3 * "kept\n"
        said = node.run_in(ids["nobody"], LOOK)["streams"][0].split()
        assert said == ["kept", *5 * ["0"], str(ids["nobody"] * 65536), "65536"]
        for name in ("kept", "free"):
            assert "409" in refused(node, "volume.remove", name=name)
        deadline = time.monotonic() + 90
        while not any(
            row["message"].startswith("line") for row in node.direct("corex.logs", container=ids["talker"])
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(after[str(ids["again"])]["container"]["pid"], signal.SIGKILL)
        while not node.direct("corex.get", query=ids["again"])["container"].get("restarts"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert node.direct("corex.create", **base) > max(ids.values())
        node.direct("corex.terminate", container=ids["idle"])
        assert node.result(f"core-{ids['idle']}")["code"] == 1255
        node.direct("corex.terminate", container=ids["nobody"])
        node.direct("volume.remove", name="free")
        again = node.direct("corex.create", **base, volumes={"/kept": {"name": "kept"}})
        assert node.run_in(again, "cat /kept/file")["streams"][0] == "kept\n"
        root = node.folder / "root"
    assert of_containers(root) == {}
    assert not os.path.exists(root / "run/mounts.keeper")
    assert os.listdir(root / "run/containers") == []
    assert os.listdir(root / "var/lib/g8node/volumes") == ["kept"]
