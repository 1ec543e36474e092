"""What a container's program is, whom it runs as, and what it is given."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from g8node.errors import InvalidArgument, NotFound, Unavailable
from tests.support.agent import Agent, in_agent
from tests.support.commands import Client

pytestmark = pytest.mark.root

SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
ENTRY = {
    "entrypoint": '["sh", "-c", "echo $PWD $A $B"]',
    "environ": '{"A": "of the flist", "B": "of the flist"}',
    "workdir": "/tmp",
}


@in_agent
async def test_program_of_the_flist_runs_unless_another_is_given(agent: Agent) -> None:
    agent.mounts.info = ENTRY
    container, running = await agent.start(env={"B": "mine"})
    assert (await running.ended()).out == "/tmp of the flist mine\n"
    assert container.place.program.argv == ("sh", "-c", "echo $PWD $A $B")
    assert (await agent.run("pwd", workdir="/var")).out == "/var\n"
    for nothing in ("", []):
        container, _ = await agent.start(nothing)
        assert (await agent.output(container, "cat", "/proc/1/comm")).out in ("init\n", "catatonit\n")


@in_agent
async def test_program_of_the_flist_that_makes_no_sense_is_refused_by_name(agent: Agent) -> None:
    for info in (
        {"entrypoint": '["", "x"]'},
        {"entrypoint": "[5]"},
        {"entrypoint": "'"},
        {"environ": '{"A=": "x"}', "entrypoint": "true"},
        {"environ": "[]", "entrypoint": "true"},
        {"workdir": "relative", "entrypoint": "true"},
        {"user": "a b", "entrypoint": "true"},
    ):
        agent.mounts.info = info
        with pytest.raises(InvalidArgument, match=r"entrypoint|environ|workdir|user"):
            await agent.start()
    assert not agent.mounts.attached


@in_agent
async def test_user_is_looked_up_in_the_container(agent: Agent) -> None:
    (agent.root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
    (agent.root / "etc/group").write_text("root:x:0:\nweb:x:34:\ndisk:x:6:web\nother:x:7:\n")
    script = "echo $(id -u) $(id -g) $(id -G) $HOME; grep -E 'Cap(Eff|Prm|Amb)' /proc/self/status"
    none = [f"Cap{name}:\t0000000000000000" for name in ("Prm", "Eff", "Amb")]
    for user, ids in (
        ("web", "33 34 34 6 /srv"),
        ("33", "33 34 34 6 /srv"),
        ("web:other", "33 7 7 /srv"),
        ("1234:99", "1234 99 99 /"),
    ):
        assert (await agent.run(["sh", "-c", script], user=user)).out.splitlines() == [ids, *none]
    with pytest.raises(NotFound, match="no user 'nobody-here'"):
        await agent.start("true", user="nobody-here")
    container, _ = await agent.start(user="web")
    assert (await agent.output(container, "id", "-u")).out == "33\n"
    assert (await agent.output(container, "id", "-u", user="root")).out == "0\n"
    with pytest.raises(NotFound, match="no group"):
        await agent.output(container, "true", user="web:none")


@in_agent
async def test_read_only_root_has_writable_folders_of_bounded_size(agent: Agent) -> None:
    script = "echo x >/new; echo y >/tmp/in && cat /tmp/in; dd if=/dev/zero of=/tmp/big bs=64k count=32"
    ended = await agent.run(["sh", "-c", script], readonly=True, tmpfs={"/tmp": 1 << 20})
    assert ended.out == "y\n"
    assert "Read-only file system" in ended.err
    assert "No space left" in ended.err
    assert not (agent.root / "new").exists()


@in_agent
async def test_size_bounds_what_is_written_to_the_root(agent: Agent) -> None:
    ended = await agent.run("dd if=/dev/zero of=/big bs=64k count=64", size=1 << 20)
    assert "No space left" in ended.err


@in_agent
async def test_nested_mounts_of_every_kind_lie_in_order(agent: Agent) -> None:
    outer, flist = agent.tmp / "outer", agent.tmp / "flist"
    outer.mkdir()
    (flist / "x").mkdir(parents=True)
    ended = await agent.run(
        ["sh", "-c", "grep -o ' /a[^ ]* ' /proc/self/mountinfo"],
        mount={f"file://{flist}": "/a/b/c", str(outer): "/a"},
        tmpfs={"/a/b/c/x": 1 << 20, "/a/b": 1 << 20},
    )
    assert ended.out.split() == ["/a", "/a/b", "/a/b/c", "/a/b/c/x"]


@in_agent
async def test_folder_does_not_go_over_a_file_nor_a_file_over_a_folder(agent: Agent) -> None:
    (agent.tmp / "folder").mkdir()
    (agent.tmp / "file").write_text("x")
    for source, target in (("folder", "/etc/passwd"), ("file", "/etc")):
        with pytest.raises(InvalidArgument, match=r"mount: .*`etc"):
            await agent.start("true", mount={str(agent.tmp / source): target})


@in_agent
async def test_device_of_the_host_is_there_under_its_name(agent: Agent) -> None:
    ended = await agent.run("stat -c %F:%t:%T /dev/own", devices=["/dev/full:/dev/own:rw"])
    assert ended.out == "character special file:1:7\n", ended
    with pytest.raises(NotFound, match="devices: /dev/g8-nothing"):
        await agent.start("true", devices=["/dev/g8-nothing"])


@in_agent
async def test_settings_of_the_kernel_are_the_container_s_own(agent: Agent) -> None:
    before = SOMAXCONN.read_text()  # noqa: ASYNC240 - a file of /proc
    script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni"
    ended = await agent.run(["sh", "-c", script], sysctls={"net.core.somaxconn": "77", "kernel.shmmni": "78"})
    assert ended.out.split() == ["77", "78"]
    assert before == SOMAXCONN.read_text()  # noqa: ASYNC240 - a file of /proc


@in_agent
async def test_limits_without_control_groups_are_503(agent: Agent) -> None:
    if agent.containers.opened()[0].cgroups:
        return
    client = Client(agent)
    with pytest.raises(Unavailable, match="limits"):
        await agent.start("true", limits={"memory": 1 << 26})
    id = await client.create()
    result = await client.send("corex.limits", {"container": id, "limits": {"pids": 5}})
    assert (result.code, "limits" in json.loads(result.data)) == (503, True)


@in_agent
async def test_operator_gets_no_device_of_the_host(agent: Agent) -> None:
    from g8node.jobs.model import Caller

    client = Client(agent)
    arguments = {"root": str(agent.root), "devices": ["/dev/full"]}
    result = await client.send("corex.create", arguments, caller=Caller("op", "operator"))
    assert (result.code, "devices" in json.loads(result.data)) == (403, True)
    assert os.listdir(f"{agent.tmp}/run/containers") == []


@in_agent
async def test_group_is_refused_where_there_are_none(agent: Agent) -> None:
    with pytest.raises(Unavailable, match="cgroups"):
        await agent.start("true", cgroups=[["memory", "box"]])
    for wrong in ([["memory"]], [["memory", "../x"]]):
        with pytest.raises(msgspec.ValidationError, match=r"\$\.cgroups\[0\]"):
            agent.spec(cgroups=wrong)
