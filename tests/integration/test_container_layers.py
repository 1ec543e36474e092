"""Several flists over each other in one root."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from g8node.errors import Conflict, InvalidArgument, NotFound, Unavailable
from g8node.flist.pack import PackOptions, pack
from g8node.g8ufs.mounts import Mounts
from g8node.linux import cgroup
from g8node.node.containers import Containers
from g8node.runtime import blocking
from g8node.store.local import LocalStore
from g8node.wire.router import of_stores, parse_store
from tests.support.agent import Agent, in_agent, until
from tests.support.faults import ChunkServer
from tests.support.mounted import read_at

pytestmark = pytest.mark.root


def layer(agent: Agent, name: str, files: dict[str, str]) -> str:
    """A folder that stands for an flist."""
    folder = agent.tmp / name
    folder.mkdir()
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return str(folder)


def whiteout(folder: str, path: str) -> None:
    place = Path(folder) / path
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(place, 0o20000, os.makedev(0, 0))


@in_agent
async def test_later_layer_wins_and_folders_unite(agent: Agent) -> None:
    low = layer(agent, "low", {"opt/a": "low\n", "opt/b": "low\n", "etc/os-release": "low\n", "top": "low\n"})
    high = layer(agent, "high", {"opt/b": "high\n", "opt/deep/c": "high\n", "top/file": "high\n"})
    os.chmod(high, 0o711)
    ended = await agent.run(
        ["sh", "-c", "cat /opt/a /opt/b /opt/deep/c /top/file /etc/os-release; stat -c %a / /etc; ls /opt"],
        layers=[low, high],
    )
    assert ended.out.split() == ["low", "high", "high", "high", "low", "711", "755", "a", "b", "deep"], ended


@in_agent
async def test_layer_takes_away_by_whiteouts_and_opaque_folders(agent: Agent) -> None:
    low = layer(agent, "low", {"opt/a": "low\n", "opt/b": "low\n", "data/old": "low\n"})
    high = layer(agent, "high", {"data/new": "high\n"})
    whiteout(high, "opt/a")
    os.setxattr(f"{high}/data", "trusted.overlay.opaque", b"y")
    ended = await agent.run("ls /opt /data", layers=[low, high])
    assert ended.out.split() == ["/data:", "new", "/opt:", "b"], ended
    # What a layer takes away may be there again in one above it.
    again = layer(agent, "again", {"opt/a": "again\n"})
    assert (await agent.run("cat /opt/a", layers=[low, high, again])).out == "again\n"


@in_agent
async def test_wrong_layers_are_refused_and_leave_nothing(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    one = layer(agent, "one", {"a": "1"})
    twin = f"file://{one}"
    for layers, message in (
        ([one, one], "layers: one flist is named twice"),
        ([str(agent.root)], "layers: one flist is named twice"),
        ([one, twin], "layers: one flist is named twice"),
        ([""], "layers: expected flists"),
        ([f"{one}{number}" for number in range(17)], "layers: expected at most 16 flists, got 17"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await agent.start("true", layers=layers)
    await agent.leaves(before)


@in_agent
async def test_sixteen_layers_are_mounted(agent: Agent) -> None:
    layers = [layer(agent, f"l{number}", {f"n/{number}": "", "last": f"{number}\n"}) for number in range(16)]
    ended = await agent.run(["sh", "-c", "ls /n | wc -l; cat /last"], layers=layers)
    assert ended.out.split() == ["16", "15"], ended


@in_agent
async def test_layer_comes_over_a_running_container(agent: Agent) -> None:
    first = layer(agent, "first", {"opt/a": "first\n", "etc/os-release": "first\n", "own/theirs": "first\n"})
    script = """
        echo own >/own-file; mkdir /own; echo own >/own/mine; rm /bin/ls; exec 3</etc/os-release
        echo up; while [ ! -e /opt/a ]; do sleep 0.05; done
        cat /opt/a /etc/os-release /own-file /own/mine /own/theirs; cat <&3; [ -e /bin/ls ] || echo gone
        echo late >/opt/late; pwd; cat /proc/1/comm /dev/null /etc/hostname
    """
    container, run = await agent.start(["sh", "-c", script], hostname="box")
    await until(lambda: "up" in run.output())
    await agent.containers.put_layer(container.id, first)
    ended = await run.ended()
    assert ended.out.split() == [
        "up", "first", "first", "own", "own", "first", "ID=busybox", "gone", "/", "sh", "box",
    ], ended  # fmt: skip
    await container.gone.wait()
    assert not await blocking.run("path", os.path.exists, f"{first}/opt/late")


@in_agent
async def test_second_layer_takes_the_place_of_the_first(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    container, run = await agent.start(layers=[layer(agent, "low", {"low": "low\n", "both": "low\n"})])
    inner = await agent.containers.inner(container)
    for number in range(1, 4):
        flist = layer(agent, f"live{number}", {f"only{number}": "", "both": f"{number}\n"})
        await agent.containers.put_layer(container.id, flist)
        ended = await agent.output(
            container, "sh", "-c", f"cat /low /both; ls / | grep only; echo {number} >>/n"
        )
        assert ended.out.split() == ["low", str(number), f"only{number}"]
        assert await inner.files.exists(f"/only{number}")
        assert len(agent.mounts.attached) == 3
    assert (await agent.output(container, "cat", "/n")).out.split() == ["1", "2", "3"]
    assert read_at(f"{container.rootfs}/n", 0, 100) == b"1\n2\n3\n"
    await agent.containers.terminate(container.id)
    await run.ended()
    await agent.leaves(before)


@in_agent
async def test_mounts_of_the_container_stay_what_they_are(agent: Agent) -> None:
    folder = agent.tmp / "shared"
    folder.mkdir()
    script = "cd /mnt; echo up; while [ ! -e /new ]; do sleep 0.05; done; echo in >in; cat /mnt/in; pwd"
    script += "; while [ ! -e go ]; do sleep 0.05; done"
    container, run = await agent.start(["sh", "-c", script], mount={str(folder): "/mnt"})
    await until(lambda: "up" in run.output())
    table = (await agent.output(container, "cut", "-d ", "-f5", "/proc/self/mountinfo")).out
    await agent.containers.put_layer(container.id, layer(agent, "new", {"new": ""}))
    after = await agent.output(container, "cut", "-d ", "-f5", "/proc/self/mountinfo")
    assert sorted(after.out.split()) == sorted(table.split())
    (folder / "go").touch()
    assert (await run.ended()).out.split() == ["up", "in", "/mnt"]
    assert (folder / "in").read_text() == "in\n"


def mounted(agent: Agent) -> tuple[object, ...]:
    """What a layer that was refused could leave beside a container that goes on."""
    traces = agent.traces()
    return (
        traces["mounts"],
        traces["attached"],
        [name for name in traces["folders"] if "live" in name.rpartition("/")[2]],
    )


JAIL = """mkdir -p /jail/bin; cp /bin/busybox /jail/bin
    chroot /jail /bin/busybox sh -c 'echo up; exec /bin/busybox sleep 1000' & wait"""


@in_agent
async def test_layer_is_refused_where_a_process_would_not_see_it(agent: Agent) -> None:
    flist = layer(agent, "new", {"new": ""})
    for script, message in (
        ("cd /tmp; echo up; sleep 1000; true", r"process 1 \(sh\) works in /tmp"),
        ("exec 3</usr; echo up; sleep 1000; true", r"process 1 \(sh\) has the folder /usr open"),
        (JAIL, r"process \d+ \(\w+\) has another root, /jail"),
    ):
        container, run = await agent.start(["sh", "-c", script])
        await until(lambda run=run: "up" in run.output())  # type: ignore[misc]  # bound now
        before = mounted(agent)
        with pytest.raises(Conflict, match=message):
            await agent.containers.put_layer(container.id, flist)
        assert mounted(agent) == before
        assert (await agent.output(container, "test", "-e", "/new")).code == 1
        await agent.containers.terminate(container.id)


@in_agent
async def test_wrong_live_layer_changes_nothing(agent: Agent) -> None:
    flist = layer(agent, "new", {"new": ""})
    container, _ = await agent.start()
    blocked = layer(agent, "blocked", {"x": ""})
    os.symlink("/x", f"{blocked}/sys")
    before = mounted(agent)
    for wrong, error, message in (
        (blocked, Conflict, "the layer leaves no place for the mount at /sys"),
        ("/no/such/flist", NotFound, "does not exist"),
        (str(agent.root), InvalidArgument, "one flist is named twice"),
    ):
        with pytest.raises(error, match=message):
            await agent.containers.put_layer(container.id, wrong)
        assert mounted(agent) == before
    await agent.containers.put_layer(container.id, flist)
    assert (await agent.output(container, "test", "-e", "/new")).code == 0
    with pytest.raises(NotFound, match="container 77"):
        await agent.containers.put_layer(77, flist)


@in_agent
async def test_end_of_the_container_and_cancelling_during_a_layer_leave_nothing(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    flist = layer(agent, "new", {"new": ""})
    for turn in range(4):
        container, run = await agent.start()
        putting = asyncio.create_task(agent.containers.put_layer(container.id, flist))
        await until(lambda: len(agent.mounts.attached) == 2)
        if turn % 2:
            putting.cancel()
        else:
            os.kill(run.child.pid, signal.SIGKILL)
        with contextlib.suppress(Conflict, Unavailable, asyncio.CancelledError):
            await putting
        with contextlib.suppress(NotFound):
            await agent.containers.terminate(container.id)
        await run.ended()
        await container.gone.wait()
        await agent.leaves(before)


@contextlib.asynccontextmanager
async def over_g8ufs(agent: Agent, storage: str = "") -> AsyncIterator[Mounts]:
    """The agent's containers on flists that are mounted."""
    mounts = Mounts(run=f"{agent.tmp}/g8", cache=f"{agent.tmp}/cache", storage=storage)
    await mounts.start()
    containers = Containers(
        agent.reaper, mounts, folder=f"{agent.tmp}/run/real", state=f"{agent.tmp}/run/crun-real"
    )
    await containers.open()
    agent.containers = containers
    try:
        yield mounts
    finally:
        await containers.close()
        await mounts.close()


@in_agent
async def test_layers_are_images_that_the_kernel_mounted(agent: Agent) -> None:
    """The same over g8ufs: EROFS below, a root whose chunks come from a store."""
    tree = {"root": agent.root, "low": layer(agent, "low", {"both": "low\n"})}
    tree |= {"live": layer(agent, "live", {"both": "live\n", "tmp/x": ""})}
    flists = {}
    for name, folder in tree.items():
        flists[name] = f"{agent.tmp}/{name}.flist"
        await pack(str(folder), flists[name], LocalStore(f"{agent.tmp}/chunks"))
    async with over_g8ufs(agent, f"dir://{agent.tmp}/chunks") as mounts:
        script = "echo own >/tmp/own; echo up; while [ ! -e /tmp/x ]; do sleep 0.05; done; cat /both /tmp/own"
        container, run = await agent.start(["sh", "-c", script], root=flists["root"], layers=[flists["low"]])
        await until(lambda: "up" in run.output())
        assert (await agent.output(container, "cat", "/both")).out == "low\n"
        await agent.containers.put_layer(container.id, flists["live"])
        assert (await run.ended()).out.split() == ["up", "live", "own"]
        await container.gone.wait()
        assert await mounts.list() == []


@in_agent
async def test_each_layer_is_read_from_the_stores_of_its_own_router(agent: Agent) -> None:
    """Nothing says where the chunks are but the flists, each another place: root, layer and live layer."""
    tree = {"root": str(agent.root), "low": layer(agent, "low", {"low": "low\n"})}
    tree |= {"live": layer(agent, "live", {"live": "live\n", "tmp/x": ""})}
    servers = {name: ChunkServer() for name in tree}
    try:
        flists = {}
        for name, folder in tree.items():
            flists[name], chunks = f"{agent.tmp}/{name}.flist", agent.tmp / f"chunks of {name}"
            options = PackOptions(router=of_stores([parse_store(servers[name].url)]))
            await pack(folder, flists[name], LocalStore(str(chunks)), options)
            await blocking.run("disk", servers[name].load, chunks)
        async with over_g8ufs(agent):
            script = "cat /low; echo up; while [ ! -e /tmp/x ]; do sleep 0.05; done; cat /live /low"
            fields = {"root": flists["root"], "layers": [flists["low"]]}
            container, run = await agent.start(["sh", "-c", script], **fields)
            await until(lambda: "up" in run.output(), timeout_s=60)
            assert not servers["live"].requests
            await agent.containers.put_layer(container.id, flists["live"])
            assert (await run.ended()).out.split() == ["low", "up", "live", "low"]
            await container.gone.wait()
        asked = {name: bool(server.requests) for name, server in servers.items()}
        assert asked == dict.fromkeys(tree, True)
    finally:
        for server in servers.values():
            await blocking.run("disk", server.down)


def count(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return len(file.read())


@in_agent
async def test_frozen_group_stands_still_until_it_is_thawed(agent: Agent) -> None:
    """What holds a container still meanwhile; version 2 freezes without any controller."""
    group, out = f"g8-frozen-{os.getpid()}", f"{agent.tmp}/out"
    await blocking.run("disk", os.mkdir, f"{cgroup.MOUNT}/{group}")
    script = f"echo $$ >{cgroup.MOUNT}/{group}/cgroup.procs; while :; do printf x >>{out}; sleep 0.005; done"
    child = await blocking.run("path", subprocess.Popen, ["/bin/sh", "-c", script])
    try:
        await until(lambda: os.path.exists(out))
        await blocking.run("disk", cgroup.freeze, group)
        frozen = await blocking.run("disk", count, out)
        await asyncio.sleep(0.1)  # how long it had the chance to write
        assert await blocking.run("disk", count, out) == frozen
        await blocking.run("disk", cgroup.thaw, group)
        await until(lambda: count(out) > frozen)
    finally:
        await blocking.run("disk", cgroup.thaw, group)
        await blocking.run("disk", cgroup.kill, group)  # what the shell is just waiting for, too
        await blocking.run("path", child.wait)
        await blocking.run("disk", cgroup.remove, group, timeout_s=60.0)
