"""Volumes: made, given to containers, and kept; a size holds whatever a container does."""

import contextlib
import json
import os
from typing import Any

import pytest

from g8node.errors import Conflict, Unavailable
from g8node.jobs.model import Caller
from g8node.linux import blockdev, mount
from g8node.runtime import blocking
from tests.support.agent import Agent, in_agent, mounts_now
from tests.support.commands import Client

pytestmark = pytest.mark.root

SIZE = 16 << 20


async def refused(client: Client, code: int, words: str, command: str, **arguments: Any) -> None:
    result = await client.send(command, arguments)
    assert (result.code, words in json.loads(result.data)) == (code, True), result


@in_agent
async def test_what_is_in_a_volume_outlives_its_containers(agent: Agent) -> None:
    client = Client(agent)
    assert await client.call("volume.list") == []
    before = agent.traces()["mounts"]
    volume = {"/srv/db": {"name": "db"}}
    look = "stat -c '%u %g %a' /srv/db; ls -A /srv/db; grep -o ' /srv/db [^ ]*' /proc/self/mountinfo"
    ended = await agent.run(
        ["sh", "-c", f"{look}; echo x >/srv/db/kept; chown 7:8 /srv/db/kept"], volumes=volume
    )
    first, shown = ended.out.splitlines()
    assert first == "0 0 755", ended
    assert {"rw", "nosuid", "nodev"} <= set(shown.split()[1].split(","))
    ended = await agent.run(
        ["sh", "-c", "stat -c '%u %g' /x/kept; cat /x/kept"], volumes={"/x": {"name": "db"}}
    )
    assert ended.out == "7 8\nx\n"
    ended = await agent.run(["sh", "-c", "cat /x/kept; echo y >/x/kept"], volumes={
        "/x": {"name": "db", "readonly": True},
    })  # fmt: skip
    assert (ended.out, "Read-only" in ended.err) == ("x\n", True)
    [row] = await client.call("volume.list")
    assert (row["name"], row["size"], row["containers"]) == ("db", 0, [])
    found = await client.call("volume.get", {"name": "db"})
    assert 0 < found["used"] < 1 << 20
    assert agent.traces()["mounts"] == before


@in_agent
async def test_size_of_a_volume_holds(agent: Agent) -> None:
    client = Client(agent)
    before = agent.traces()["mounts"]
    made = await client.call("volume.create", {"name": "small", "size": SIZE})
    assert (made["size"], made["containers"]) == (SIZE, [])
    volume = {"/x": {"name": "small", "size": SIZE}}
    look, full = "stat -c '%u %g %a' /x; ls -A /x", "dd if=/dev/zero of=/x/big bs=1M count=64; rm /x/big"
    ended = await agent.run(["sh", "-c", f"{look}; echo kept >/x/kept; {full}"], volumes=volume)
    assert ended.out == "0 0 755\n", ended
    assert "No space left" in ended.err
    assert agent.traces()["mounts"] == before
    assert 0 < (await client.call("volume.get", {"name": "small"}))["used"] < SIZE
    assert agent.traces()["mounts"] == before
    ended = await agent.run(["sh", "-c", "cat /x/kept; echo more >/x/more && cat /x/more"], volumes=volume)
    assert ended.out == "kept\nmore\n", ended
    with pytest.raises(Conflict, match="another size"):
        await agent.start("true", volumes={"/x": {"name": "small", "size": 2 * SIZE}})
    file = f"{agent.tmp}/run/containers/volumes/small/image"
    assert os.stat(file).st_size == SIZE
    await client.call("volume.remove", {"name": "small"})
    assert os.listdir(f"{agent.tmp}/run/containers/volumes") == []


@in_agent
async def test_two_containers_have_the_same_volume(agent: Agent) -> None:
    volumes = {"/x": {"name": "both", "size": SIZE}, "/y": {"name": "both", "size": SIZE}}
    one, _ = await agent.start(volumes=volumes)
    two, _ = await agent.start(volumes=volumes)
    await agent.output(one, "sh", "-c", "echo seen >/x/file")
    assert (await agent.output(two, "cat", "/y/file")).out == "seen\n"
    await agent.containers.terminate(one.id)
    assert (await agent.containers.volumes.list())[0]["containers"] == [two.id]
    assert (await agent.output(two, "sh", "-c", "echo more >>/y/file; cat /x/file")).out == "seen\nmore\n"
    assert len([m for m in mounts_now() if m.endswith("/volumes/both/data")]) == 1
    await agent.containers.terminate(two.id)
    assert not [m for m in mounts_now() if "/volumes/" in m]


@in_agent
async def test_volume_in_use_is_not_removed_and_one_in_no_use_is(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(volumes={"/x": {"name": "db"}})
    await refused(client, 409, f"used by container {id}", "volume.remove", name="db")
    await refused(client, 409, "exists", "volume.create", name="db")
    await refused(client, 404, "does not exist", "volume.remove", name="none")
    await refused(client, 404, "does not exist", "volume.get", name="none")
    deep = (
        "cd /x; ln -s / root; i=0; while [ $i -lt 1200 ]; do i=$((i+1)); mkdir d; cd d || exit; done; echo $i"
    )
    container = agent.containers.get(id)
    ended = await agent.output(container, "sh", "-c", deep)
    assert ended.out == "1200\n", ended
    assert (await client.call("volume.get", {"name": "db"}))["containers"] == [id]
    assert await client.call("core.gc") == []
    await client.call("corex.terminate", {"container": id})
    assert await client.call("core.gc") == []
    await client.call("volume.remove", {"name": "db"})
    assert await client.call("volume.list") == []
    assert os.listdir(f"{agent.tmp}/run/containers/volumes") == []
    assert os.path.isdir("/etc")  # noqa: ASYNC240 - a folder of the host


@in_agent
async def test_volume_that_cannot_be_made_is_told_and_leaves_nothing(agent: Agent) -> None:
    client = Client(agent)
    await refused(client, 503, "size", "volume.create", name="huge", size=1 << 50)
    create = {"root": str(agent.root)}
    for volumes, words in (
        ({"/x": {"name": "huge", "size": 1 << 50}}, "size"),
        ({"/proc": {"name": "x"}}, "volumes"),
        ({"/x": {"name": "x", "size": SIZE}, "/y": {"name": "x"}}, "two sizes"),
        ({"/x": {"name": "../x"}}, "name"),
        ({"/x": {"name": "x", "size": SIZE - 1}}, "size"),
    ):
        result = await client.send("corex.create", {**create, "volumes": volumes})
        assert (result.state, words in json.loads(result.data)) == ("ERROR", True), result
    assert await client.call("volume.list") == []
    assert agent.containers.all() == []
    reader = await client.send("volume.create", {"name": "x"}, caller=Caller("someone", "reader"))
    assert reader.code == 403


@in_agent
async def test_hostile_root_leads_a_volume_nowhere(agent: Agent) -> None:
    (agent.tmp / "outside").mkdir()
    (agent.root / "abs").symlink_to(agent.tmp / "outside")
    (agent.root / "up").symlink_to(f"../../../..{agent.tmp}/outside")
    for target in ("/abs/x", "/up/x"):
        with contextlib.suppress(Unavailable):  # the runtime refuses what leads nowhere
            await agent.run("touch /x/in", volumes={target: {"name": "db"}})
    assert list((agent.tmp / "outside").iterdir()) == []


@in_agent
async def test_image_in_use_is_mounted_by_the_device_that_has_it(agent: Agent) -> None:
    volumes = {"/x": {"name": "db", "size": SIZE}}
    container, _ = await agent.start(volumes=volumes)
    path = f"{agent.tmp}/run/containers/volumes/db/image"
    found = await blocking.run("disk", blockdev.loop_find, path)
    assert found is not None
    fd, device = found
    await agent.containers.terminate(container.id)
    again, _ = await agent.start(volumes=volumes)
    table = await blocking.run("disk", mount.mounts)
    assert [each.source for each in table if each.target.endswith("/volumes/db/data")] == [device]
    os.close(fd)
    await agent.containers.terminate(again.id)
    assert await blocking.run("disk", blockdev.loop_find, path) is None
