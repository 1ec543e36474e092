"""corex.backup and corex.restore with a real restic."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from g8node.errors import NodeError
from g8node.jobs import discreet
from g8node.jobs.model import Caller
from g8node.linux import cgroup, namespace
from g8node.node.restic import repository
from g8node.runtime import blocking
from tests.support.agent import Agent, in_agent, until
from tests.support.commands import Client

pytestmark = pytest.mark.root

PASSWORD = "a word+& "
QUOTED = "a%20word%2B%26%20"
RESTIC = "/usr/bin/restic"


def _repo(folder: Path, *words: str) -> str:
    env = {"RESTIC_PASSWORD": PASSWORD, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    argv = [RESTIC, "--no-cache", "-r", str(folder), *words]
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout


async def _init(folder: Path) -> str:
    """Its URL."""
    await blocking.run("path", _repo, folder, "init")
    return f"{folder}?password={QUOTED}"


@in_agent
async def test_backup_comes_back_as_an_equal_container(agent: Agent) -> None:
    client = Client(agent)
    agent.mounts.info = {"environ": '{"OF": "the flist"}', "workdir": "/var"}
    url = await _init(agent.tmp / "repo[1]")
    (agent.root / "proc/here").touch()
    (agent.root / "var/proc").mkdir()
    (agent.root / "var/proc/kept").touch()
    made = {"name": "web", "hostname": "web", "config": {"/etc/own": "first"}, "env": {"A": "1"}}
    id = await client.call("corex.create", {"root": str(agent.root), **made}, tags=["x"])
    script = """mkdir /srv; echo data >/srv/file; ln -s /srv/file /srv/link; ln /srv/file /srv/hard
        chown 7:8 /srv/hard; chmod 4711 /srv/file; echo second >/etc/own; rm /etc/os-release"""
    assert (await client.inside(id, "bash", {"script": script})).state == "SUCCESS"
    saved = await client.call("corex.backup", {"container": id, "url": f"file:{url}", "tags": ["y", "--z"]})
    assert (await client.inside(id, "filesystem.exists", {"path": "/.corex.meta"})).data == "false"
    listed = json.loads(await blocking.run("path", _repo, agent.tmp / "repo[1]", "snapshots", "--json"))
    assert sorted(listed[0]["tags"]) == ["--z", "x", "y"]
    assert listed[0]["id"].startswith(saved)

    restored = await client.call("corex.restore", {"url": f"{url}#{saved}"}, tags=["new"])
    shown = (await client.call("corex.get", {"query": restored}))["container"]["arguments"]
    assert shown["root"] == f"restic:{agent.tmp}/repo[1]?password=…#{saved}"
    assert (shown["name"], shown["tags"], shown["env"]) == ("web", ["new"], {"OF": "the flist", "A": "1"})
    look = """cd /srv; stat -c '%n %a %u %g %h' file hard; readlink link; cat file /etc/own; hostname
        echo $OF $A $PWD; ls -d /etc/os-release /.corex.meta /var/proc/kept; ls /srv"""
    answer = await client.inside(restored, "bash", {"script": look})
    assert answer.streams is not None
    assert answer.streams[0].splitlines() == [
        "file 4711 7 8 2", "hard 4711 7 8 2", "/srv/file", "data", "second", "web", "the flist 1 /srv",
        "/var/proc/kept", "file", "hard", "link",
    ]  # fmt: skip
    await client.call("corex.terminate", {"container": restored})
    assert not os.listdir(agent.tmp / "run/containers/restored")

    only_data = await client.create(root=f"restic:{url}#latest", command=["cat", "/srv/file"])
    assert (await client.result(f"core-{only_data}")).streams == ("data\n", "")


@in_agent
async def test_what_cannot_be_saved_or_found_is_told(agent: Agent) -> None:
    client = Client(agent)
    url = await _init(agent.tmp / "repo")
    id = await client.create()
    saved = await client.call("corex.backup", {"container": id, "url": url})
    for command, arguments, code, words in (
        ("corex.backup", {"container": id, "url": f"{agent.tmp}/no?password=x"}, 500, "restic failed"),
        ("corex.backup", {"container": id, "url": f"{agent.tmp}/repo?password=x"}, 500, "restic failed"),
        ("corex.backup", {"container": 77, "url": url}, 500, "does not exist"),
        ("corex.restore", {"url": f"{url}#0123abcd"}, 500, "restic failed"),
        ("corex.create", {"root": f"restic:{url}#0123abcd"}, 500, "restic failed"),
        ("corex.restore", {"url": f"{url}#../x"}, 400, "url"),
        ("corex.restore", {"url": url}, 400, "url"),
    ):
        result = await client.send(command, arguments)
        assert (result.code, words in result.data) == (code, True), result
        assert "a word" not in result.data
        assert QUOTED not in result.data
    operator = Caller("someone", "operator")
    for command, arguments in (
        ("corex.backup", {"container": id, "url": url}),
        ("corex.restore", {"url": f"{url}#{saved}"}),
        ("corex.create", {"root": f"restic:{url}#{saved}"}),
    ):
        assert (await client.send(command, arguments, caller=operator)).code == 403
    assert len(agent.containers.all()) == 1


@in_agent
async def test_nothing_moves_during_a_backup_which_a_signal_ends(agent: Agent) -> None:
    client = Client(agent)
    url = await _init(agent.tmp / "repo")
    health = {"command": ["true"], "interval": 0.1, "timeout": 60, "retries": 1, "restart": True}
    id = await client.create(health=health)
    container = agent.containers.get(id)
    await until(lambda: container.health is not None and container.health.status == "healthy")
    # A lock file that is a fifo: restic waits for its reader as for a slow server.
    await blocking.run("path", os.mkfifo, agent.tmp / "repo/locks" / ("0" * 64))
    saving = asyncio.create_task(client.send("corex.backup", {"container": id, "url": url}))
    job = await _running(client, "corex.backup")
    rows = await client.call("job.list", {"id": job})
    assert rows[0]["cmd"]["arguments"]["url"].endswith("?password=…")
    pid = client.manager.find(job).pid  # type: ignore[union-attr]
    await until(lambda: "restic" in Path(f"/proc/{pid}/cmdline").read_text())
    words = Path(f"/proc/{pid}/cmdline").read_text()  # noqa: ASYNC240 - a file of /proc
    assert str(agent.tmp / "repo") not in words
    assert "word" not in words
    group = container.cgroup if agent.containers.opened()[0].cgroups else ""
    async with asyncio.timeout(60):
        while not await blocking.run("disk", _still, container.pid, group):  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.01)
    entering = asyncio.create_task(client.inside(id, "bash", {"script": "echo in"}))
    assert await client.call("job.kill", {"id": job, "signal": 9}) is True
    result = await saving
    assert (result.state, "signal 9" in result.data) == ("ERROR", True)
    assert (await entering).streams == ("in\n", "")
    assert not await blocking.run("disk", _still, container.pid, group)
    assert container.restarts.count == 0
    assert (await client.inside(id, "filesystem.exists", {"path": "/.corex.meta"})).data == "false"


@in_agent
async def test_container_that_is_ended_ends_its_backup(agent: Agent) -> None:
    client = Client(agent)
    url = await _init(agent.tmp / "repo")
    await blocking.run("path", os.mkfifo, agent.tmp / "repo/locks" / ("0" * 64))
    id = await client.create(command=["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"])
    saving = asyncio.create_task(client.send("corex.backup", {"container": id, "url": url}))
    await _running(client, "corex.backup")
    await client.call("corex.terminate", {"container": id})
    assert (await saving).code == 409
    creating = asyncio.create_task(client.send("corex.create", {"root": f"restic:{url}#latest"}))
    restored = agent.tmp / "run/containers/restored"
    await until(lambda: restored.exists() and any(restored.iterdir()))
    (job,) = (each.id for each in client.manager if each.request.command == "corex.create")
    await client.call("job.kill", {"id": job, "signal": 15})
    assert (await creating).code == 503
    await until(lambda: not any(restored.iterdir()))


async def _running(client: Client, command: str) -> str:
    """The id of the job of that command, when its process is there."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [job.id for job in client.manager if job.request.command == command and job.pid]
        return bool(found)

    await until(look)
    return found[0]


def _still(pid: int, group: str) -> bool:
    """Whether the control group is frozen or, without one, every process in the container is stopped."""
    if group:
        return "frozen 1" in Path(f"{cgroup.MOUNT}/{group}/cgroup.events").read_text()
    try:
        stats = [Path(f"/proc/{each}/stat").read_text() for each in namespace.inner_pids(pid)]
    except OSError:  # one has ended: nothing stands still yet
        return False
    return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/a/b?password=p", "/a/b"),
        ("file:/a//b/?password=p", "/a/b"),
        ("file:///a/b?password=p", "/a/b"),
        ("rest:http://u:w@h:8000/x?password=p", "rest:http://u:w@h:8000/x"),
        ("s3:https://h/b?x=1&password=p", "s3:https://h/b?x=1"),
    ],
)
def test_repository_is_read_from_its_url(url: str, place: str) -> None:
    repo = repository(f"{url}#abcdef12", field="url", snapshot=True)
    assert (repo.place, repo.password, repo.snapshot) == (place, "p", "abcdef12")
    assert repo.is_the_node_s is place.startswith("/")
    with pytest.raises(NodeError, match=r"^url: "):
        repository(url, field="url", snapshot=True)


def test_passwords_of_urls_are_not_shown() -> None:
    assert discreet.text("restic:rest:http://u:w@h/x?password=p%20q&y=1#s") == (
        "restic:rest:http://u:…@h/x?password=…&y=1#s"
    )
