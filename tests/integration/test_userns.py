"""Containers whose root is nobody on the node: with ids of their own, and all else as it was."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from g8node.errors import InvalidArgument, Unavailable
from g8node.flist.container import read_flist
from g8node.node.container import Container
from g8node.runtime import blocking
from tests.support.agent import Agent, Running, in_agent, until
from tests.support.commands import Client
from tests.support.daemon import daemon, refused
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish
from tests.support.zdb import ZdbModel

pytestmark = pytest.mark.root

WHO = """#include <stdio.h>
#include <unistd.h>
int main(void) { printf("%d %d\\n", getuid(), geteuid()); return 0; }
"""


async def start(agent: Agent, **fields: Any) -> tuple[Container, Running]:
    return await agent.start(userns=True, **fields)


def owner(path: str | Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_uid, found.st_gid


@in_agent(public=True)
async def test_root_inside_is_nobody_outside(agent: Agent) -> None:
    before = agent.traces()["mounts"]
    one, _ = await start(agent)
    two, _ = await start(agent)
    table = await blocking.run("disk", Path(f"/proc/{one.pid}/status").read_text)
    assert f"Uid:\t{one.id * 65536}\t{one.id * 65536}" in table
    maps = [
        (await agent.output(each, "cat", "/proc/self/uid_map", "/proc/self/gid_map")).out
        for each in (one, two)
    ]
    assert [m.split() for m in maps] == [2 * ["0", str(each.id * 65536), "65536"] for each in (one, two)]
    script = (
        "id -u; echo x >/made; stat -c '%u %g' / /etc/hosts /etc/passwd /made; echo 1 >/proc/1/oom_score_adj"
    )
    ended = await agent.output(one, "sh", "-c", script)
    assert ended.out.splitlines() == ["0", *4 * ["0 0"]], ended
    assert await blocking.run("path", owner, f"{one.rootfs}/made") == (one.base, one.base)
    assert await blocking.run("path", owner, f"{one.rootfs}/etc/hosts") == (one.base, one.base)
    # What is the node's root's alone is closed to it, privileges of a container or not.
    ended = await agent.output(
        one, "sh", "-c", "cat /proc/timer_list /proc/sched_debug; mknod /dev/x b 254 0"
    )
    assert ended.code != 0
    for each in (one, two):
        await agent.containers.terminate(each.id)
    assert agent.traces()["mounts"] == before


@in_agent(public=True)
async def test_setuid_and_users_mean_what_they_did(agent: Agent) -> None:
    source = agent.tmp / "who.c"
    source.write_text(WHO)
    argv = ["gcc", "-static", "-o", str(agent.root / "bin/who-am-i"), str(source)]
    await blocking.run("path", lambda: subprocess.run(argv, check=True))
    (agent.root / "bin/who-am-i").chmod(0o4755)
    (agent.root / "etc/own").write_text("secret")
    os.chown(agent.root / "etc/own", 65534, 65534)
    (agent.root / "etc/own").chmod(0o600)
    container, _ = await start(agent, sysctls={"net.core.somaxconn": "77", "kernel.shmmni": "78"})
    assert (await agent.output(container, "who-am-i", user="nobody")).out == "65534 0\n"
    assert (await agent.output(container, "cat", "/etc/own", user="nobody")).out == "secret"
    ended = await agent.output(container, "cat", "/etc/own", user="77")
    assert "Permission denied" in ended.err
    ended = await agent.output(container, "cat", "/proc/sys/net/core/somaxconn", "/proc/sys/kernel/shmmni")
    assert ended.out.split() == ["77", "78"]


@in_agent(public=True)
async def test_what_is_mounted_into_it_has_its_owners(agent: Agent) -> None:
    outer, flist = agent.tmp / "outer", agent.tmp / "flist"
    for folder in (outer, flist):
        folder.mkdir()
        (folder / "secret").write_text("x\n")
        (folder / "secret").chmod(0o600)
        os.chown(folder / "secret", 7, 8)
    (outer / "file").write_text("one\n")
    container, _ = await start(
        agent,
        mount={str(outer): "/outer", f"file://{flist}": "/flist", str(outer / "file"): "/etc/one"},
        volumes={"/v": {"name": "v", "size": 16 << 20}, "/r": {"name": "r", "readonly": True}},
        tmpfs={"/t": 1 << 20},
        layers=[str(flist)],
    )
    script = """stat -c '%u %g %a' /outer/secret /flist/secret /secret
        cat /outer/secret /flist/secret /etc/one
        for x in outer flist v t; do echo new >/$x/new; chown 9:9 /$x/new; stat -c '%u %g' /$x/new; done
        echo no >/r/no; grep -E ' /(v|r) ' /proc/self/mountinfo | cut -d ' ' -f 5,6"""
    ended = await agent.output(container, "sh", "-c", script)
    first, second = (set(line.split()[1].split(",")) for line in ended.out.splitlines()[-2:])
    assert ended.out.splitlines()[:-2] == [*3 * ["7 8 600"], "x", "x", "one", *4 * ["9 9"]], ended
    assert first >= {"nosuid", "nodev"} <= second
    assert "Read-only" in ended.err
    assert await blocking.run("path", owner, outer / "new") == (9, 9)
    await agent.containers.terminate(container.id)
    ended = await agent.run(["stat", "-c", "%u %g", "/v/new"], volumes={"/v": {"name": "v"}})
    assert ended.out == "9 9\n"


@in_agent(public=True)
async def test_files_made_from_outside_are_its_own(agent: Agent) -> None:
    client = Client(agent)
    container, _ = await start(agent, volumes={"/v": {"name": "v"}})
    for folder in ("/home/x", "/v/x"):
        await client.inside(container.id, "filesystem.mkdir", {"path": folder})
        made = await client.inside(container.id, "filesystem.open", {"file": f"{folder}/f", "mode": "w"})
        handle = json.loads(made.data)
        await client.inside(container.id, "filesystem.write", {"fd": handle, "block": "eA=="})
        await client.inside(container.id, "filesystem.close", {"fd": handle})
        ended = await agent.output(container, "stat", "-c", "%u %g", folder, f"{folder}/f")
        assert ended.out.split() == 4 * ["0"], ended
        change = {"path": f"{folder}/f", "user": "nobody", "group": "root", "recursive": False}
        assert (await client.inside(container.id, "filesystem.chown", change)).state == "SUCCESS"
        assert (await agent.output(container, "stat", "-c", "%u %g", f"{folder}/f")).out == "65534 0\n"
        await client.inside(
            container.id, "filesystem.move", {"path": f"{folder}/f", "destination": f"{folder}/g"}
        )
        await client.inside(container.id, "filesystem.remove", {"path": f"{folder}/g"})
        assert (await agent.output(container, "ls", folder)).out == ""
    await blocking.run("path", (agent.tmp / "made").touch)  # threads are the node's root again
    assert await blocking.run("path", owner, agent.tmp / "made") == (0, 0)


@in_agent(public=True)
async def test_backup_and_flist_have_the_owners_of_inside(agent: Agent) -> None:
    client = Client(agent)
    container, _ = await start(agent)
    script = "mkdir /srv /out; echo data >/srv/file; chown 7:8 /srv/file; rm /etc/os-release"
    await agent.output(container, "sh", "-c", script)
    mounts = agent.traces()["mounts"]
    env = {"RESTIC_PASSWORD": "w", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    argv = ["restic", "--no-cache", "-r", f"{agent.tmp}/repo", "init"]
    await blocking.run("path", lambda: subprocess.run(argv, env=env, check=True, capture_output=True))
    url = f"{agent.tmp}/repo?password=w"
    saved = await client.call("corex.backup", {"container": container.id, "url": url})
    look = ["sh", "-c", "stat -c '%u %g' /srv/file /etc/passwd /etc/hosts /srv; ls /etc/os-release"]
    wanted = {"container": container.id, "src": "/", "flist": "/out/f.flist"}
    async with ZdbModel() as zdb:
        path = await client.call("corex.flist.create", wanted | {"storage": f"127.0.0.1:{zdb.port}"})
    assert agent.traces()["mounts"] == mounts
    ended = await agent.output(container, "stat", "-c", "%u %g", "/out/f.flist")
    assert ended.out == "0 0\n"
    flist = await blocking.run("path", read_flist, path)
    assert flist.root.children is not None
    srv = flist.root.children[b"srv"]
    assert srv.children is not None
    assert (srv.uid, srv.children[b"file"].uid, srv.children[b"file"].gid) == (0, 7, 8)
    for shifted in (False, True):
        ended = await agent.run(look, root=f"restic:{url}#{saved}", userns=shifted)
        assert ended.out.splitlines() == ["7 8", *3 * ["0 0"]], ended
        assert "No such file" in ended.err


@in_agent(public=True)
async def test_layer_is_put_over_it_while_it_runs(agent: Agent) -> None:
    container, _ = await start(agent, volumes={"/v": {"name": "v"}})
    await agent.output(container, "sh", "-c", "echo mine >/mine; echo v >/v/f")
    for text in ("first", "second"):
        folder = agent.tmp / text
        folder.mkdir()
        (folder / "new").write_text(f"{text}\n")
        await agent.containers.put_layer(container.id, str(folder))
        script = "cat /new /mine /v/f; echo more >>/mine; stat -c %u /new /mine"
        ended = await agent.output(container, "sh", "-c", script)
        assert ended.out.split()[:2] == [text, "mine"], ended
        assert ended.out.split()[-3:] == ["v", "0", "0"]


@in_agent(public=True)
async def test_it_starts_again_with_the_same_ids(agent: Agent) -> None:
    container, _ = await start(agent, command=["sleep", "1000"], restart={"policy": "always"})
    first = container.pid
    os.kill(first, 9)
    await until(lambda: container.pid not in (0, first) and container.running.is_set())
    assert (await agent.output(container, "cat", "/proc/1/uid_map")).out.split() == [
        "0",
        str(container.base),
        "65536",
    ]


@in_agent(public=True)
async def test_what_cannot_be_is_refused_with_the_reason(agent: Agent) -> None:
    for fields in ({"privileged": True}, {"devices": ["/dev/full"]}, {"host_network": True}):
        with pytest.raises(InvalidArgument, match=f"userns: .*{next(iter(fields))}"):
            await start(agent, **fields)
    before = agent.traces()
    with pytest.raises(Unavailable, match="userns: the owners of what is in /proc/sys"):
        await start(agent, mount={"/proc/sys": "/x"})
    agent.tmp.chmod(0o700)
    with pytest.raises(Unavailable, match="closed to others"):
        await agent.start(userns=True)
    await agent.leaves(before)


@pytest.mark.fuse
def test_view_that_cannot_be_mapped_is_refused(tmp_path: Path) -> None:
    with hub(tmp_path) as images:
        flist = publish(images, busybox_tree(tmp_path / "tree"), "box")
        with daemon(tmp_path / "node", '[g8ufs]\nview = "tree"\n') as node:
            answer = refused(node, "corex.create", root=flist, userns=True)
            assert answer.startswith("503 ")
            assert "userns" in answer
