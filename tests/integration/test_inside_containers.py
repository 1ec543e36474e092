"""The base commands inside a container: the in-container half of the System list of core0-resources.md 5."""

import base64
import json
import os
import signal
from typing import Any

import pytest

from tests.support.agent import Agent, in_agent
from tests.support.commands import Client

pytestmark = pytest.mark.root

FILE_MODES = [  # mode, may read, may write, what is in the file after "new" was written or tried
    ("r", True, False, "old text"),
    ("w", False, True, "new"),
    ("w+", True, True, "new"),
    ("r+", True, True, "new text"),
    ("a", False, True, "old textnew"),
    ("x", False, True, None),
]


async def ask(client: Client, container: int, name: str, arguments: Any = None) -> Any:
    result = await client.inside(container, name, arguments)
    assert result.state == "SUCCESS", result
    assert result.container == container
    return json.loads(result.data)


async def refused(client: Client, container: int, name: str, arguments: Any = None) -> str:
    result = await client.inside(container, name, arguments)
    assert result.state == "ERROR", result
    return f"{result.code} {json.loads(result.data)}"


async def text(client: Client, container: int, script: str) -> str:
    result = await client.inside(container, "bash", {"script": script})
    assert result.state == "SUCCESS", result
    return result.stdout


@in_agent
async def test_ping_and_a_folder_made_by_system(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    assert (await ask(client, id, "core.ping")).startswith("PONG")
    made = await client.inside(id, "core.system", {"name": "mkdir", "args": ["/made"]})
    assert made.state == "SUCCESS"
    assert await text(client, id, "ls -d /made") == "/made\n"
    assert (await client.inside(id, "core.system", {"name": "rm", "args": ["-r", "/made"]})).ok
    assert await text(client, id, "ls / | grep -c made || true") == "0\n"


@in_agent
async def test_processes_are_the_containers_own(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    await client.dispatch(id, "core.system", {"name": "sleep", "args": ["1000"]}, id="sleeper")
    rows = await ask(client, id, "process.list")
    while not any("sleep 1000" in row["cmdline"] for row in rows):
        rows = await ask(client, id, "process.list")
    assert 1 in {row["pid"] for row in rows}
    sleeper = next(row["pid"] for row in rows if "sleep 1000" in row["cmdline"])
    assert await text(client, id, f"cat /proc/{sleeper}/comm") == "sleep\n"
    await ask(client, id, "process.kill", {"pid": sleeper, "signal": int(signal.SIGTERM)})
    assert (await client.result("sleeper")).code == 999
    assert await ask(client, id, "process.list", {"pid": sleeper}) == []


@in_agent
async def test_info_matches_what_the_shell_says(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(hostname="inner-name")
    system = await ask(client, id, "info.os")
    assert system["hostname"] == "inner-name" == (await text(client, id, "hostname")).strip()
    assert system["kernelVersion"] == (await text(client, id, "uname -r")).strip()
    assert 1 <= system["procs"] < 10
    assert (await ask(client, id, "info.mem"))["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )
    assert len(await ask(client, id, "info.cpu")) == int(
        await text(client, id, "grep -c ^processor /proc/cpuinfo")
    )
    assert all(
        row["fstype"] not in ("proc", "tmpfs", "overlay") for row in await ask(client, id, "info.disk")
    )
    assert [nic["name"] for nic in await ask(client, id, "info.nic")] == ["lo"]
    assert [link["name"] for link in await ask(client, id, "ip.link.list")] == ["lo"]
    assert set(await ask(client, id, "core.state")) == {"cpu", "rss", "vms", "swap"}


@in_agent
async def test_listening_ports_are_the_containers_own(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    await client.dispatch(id, "bash", {"script": "exec nc -l -p 4242"}, id="listener")
    ports: list[dict[str, Any]] = []
    while not any(row["pid"] for row in ports):  # pid 0: it came between the two looks
        ports = [row for row in await ask(client, id, "info.port") if row["network"].startswith("tcp")]
    assert [row["port"] for row in ports] == [4242]
    pid = ports[0]["pid"]
    assert (await text(client, id, f"cat /proc/{pid}/comm")).strip() == "nc"


@in_agent
async def test_folders(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    await ask(client, id, "filesystem.mkdir", {"path": "/a/b/c"})
    assert await ask(client, id, "filesystem.exists", {"path": "/a/b"}) is True
    assert await text(client, id, "stat -c %a /a/b/c") == "755\n"
    (row,) = await ask(client, id, "filesystem.list", {"path": "/a/b"})
    assert (row["name"], row["is_dir"], row["mode"]) == ("c", True, 0o755)
    await ask(client, id, "filesystem.chmod", {"path": "/a", "mode": 0o700, "recursive": True})
    assert await text(client, id, "stat -c %a /a /a/b/c") == "700\n700\n"
    await ask(client, id, "filesystem.move", {"path": "/a/b", "destination": "/moved"})
    assert await text(client, id, "ls /moved /a") == "/a:\n\n/moved:\nc\n"
    await ask(client, id, "filesystem.remove", {"path": "/moved"})
    await ask(client, id, "filesystem.remove", {"path": "/moved"})
    assert await ask(client, id, "filesystem.exists", {"path": "/moved"}) is False


@in_agent
async def test_owner_is_a_user_of_the_container(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    await text(
        client, id, "echo me:x:4321:4321::/:/bin/sh >>/etc/passwd; echo mine:x:4322: >>/etc/group; >/f"
    )
    await ask(client, id, "filesystem.chown", {"path": "/f", "user": "me", "group": "mine"})
    assert await text(client, id, "stat -c %u:%g /f") == "4321:4322\n"
    nobody = {"path": "/f", "user": "nobody-of-that-name", "group": "mine"}
    assert (await refused(client, id, "filesystem.chown", nobody)).startswith("404 user")


@in_agent
async def test_file_modes(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    for mode, reads, writes, left in FILE_MODES:
        path = f"/file-{mode}"
        if left is not None:
            await text(client, id, f"printf 'old text' >{path}")
        fd = await ask(client, id, "filesystem.open", {"file": path, "mode": mode})
        block = {"fd": fd, "block": base64.b64encode(b"new").decode()}
        if writes:
            await ask(client, id, "filesystem.write", block)
        else:
            assert "400" in await refused(client, id, "filesystem.write", block)
        if reads:
            await ask(client, id, "filesystem.read", {"fd": fd})
        else:
            assert "400" in await refused(client, id, "filesystem.read", {"fd": fd})
        await ask(client, id, "filesystem.close", {"fd": fd})
        assert await text(client, id, f"cat {path}") == (left if left is not None else "new")
    assert "404" in await refused(client, id, "filesystem.open", {"file": "/none", "mode": "r"})
    assert "409" in await refused(client, id, "filesystem.open", {"file": "/file-x", "mode": "x"})


@in_agent
async def test_large_file_up_and_down(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    data = os.urandom(1_300_000)
    fd = await ask(client, id, "filesystem.open", {"file": "/large", "mode": "w"})
    for at in range(0, len(data), 512 << 10):
        block = base64.b64encode(data[at : at + (512 << 10)]).decode()
        await ask(client, id, "filesystem.write", {"fd": fd, "block": block})
    await ask(client, id, "filesystem.close", {"fd": fd})
    fd = await ask(client, id, "filesystem.open", {"file": "/large", "mode": "r"})
    read = b""
    while block := await ask(client, id, "filesystem.read", {"fd": fd}):
        read += base64.b64decode(block)
    assert read == data


@in_agent
async def test_handles_of_one_container_are_unknown_elsewhere(agent: Agent) -> None:
    client = Client(agent)
    one, two = await client.create(), await client.create()
    fd = await ask(client, one, "filesystem.open", {"file": "/etc/passwd", "mode": "r"})
    assert "404" in await refused(client, two, "filesystem.read", {"fd": fd})
    assert (await client.send("filesystem.read", {"fd": fd})).code == 404
    mine = await client.call("filesystem.open", {"file": "/etc/passwd", "mode": "r"})
    assert "404" in await refused(client, one, "filesystem.read", {"fd": mine})
    await client.call("filesystem.close", {"fd": mine})


@in_agent
async def test_no_path_leads_out(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    secret = agent.tmp / "secret"
    secret.write_text("of the host")
    await text(
        client, id, f"ln -s {agent.tmp} /out; ln -s /proc/1/root/proc/1/root{secret} /magic; mkfifo /pipe"
    )
    for path in (f"/out/{secret.name}", f"/../../..{secret}", f"{secret}"):
        assert await ask(client, id, "filesystem.exists", {"path": path}) is False, path
    assert "symbolic links" in await refused(client, id, "filesystem.exists", {"path": "/magic"})
    await ask(client, id, "filesystem.mkdir", {"path": f"{agent.tmp}/made"})
    await ask(client, id, "filesystem.remove", {"path": str(secret)})
    assert secret.read_text() == "of the host"
    assert not (agent.tmp / "made").exists()
    assert "neither a file nor a device" in await refused(
        client, id, "filesystem.open", {"file": "/pipe", "mode": "r"}
    )


@in_agent
async def test_network_changes_need_a_privileged_container(agent: Agent) -> None:
    client = Client(agent)
    plain, mighty = await client.create(), await client.create(privileged=True)
    change = {"name": "lo", "ip": "127.0.0.9/8"}
    assert "403" in await refused(client, plain, "ip.addr.add", change)
    before = await client.call("ip.addr.list", {"name": "lo"})
    await ask(client, mighty, "ip.addr.add", change)
    assert "127.0.0.9/8" in await ask(client, mighty, "ip.addr.list", {"name": "lo"})
    await ask(client, mighty, "ip.link.mtu", {"name": "lo", "mtu": 4000})
    await ask(client, mighty, "ip.bridge.add", {"name": "inner0"})
    assert [link["name"] for link in await ask(client, mighty, "ip.link.list")] == ["lo", "inner0"]
    assert [nic["name"] for nic in await ask(client, mighty, "info.nic")] == ["lo", "inner0"]
    assert await client.call("ip.addr.list", {"name": "lo"}) == before
    assert "inner0" not in {link["name"] for link in await client.call("ip.link.list")}


@in_agent
async def test_help_shows_what_is_answered_inside(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    names = {row["command"] for row in await ask(client, id, "core.help")}
    assert {"core.ping", "filesystem.open", "ip.link.list", "info.nic"} - names <= {"info.nic"}
    assert not {name for name in names if name.startswith("corex.")}
    assert (await client.inside(id, "corex.list")).state == "UNKNOWN_CMD"
    assert "404" in await refused(client, id, "core.help", {"command": "corex.list"})


@in_agent
async def test_nothing_is_left_when_a_container_ends_under_its_commands(agent: Agent) -> None:
    client = Client(agent)
    warm = await client.create()
    await ask(client, warm, "info.nic")
    await client.call("corex.terminate", {"container": warm})
    before = agent.traces()
    for _ in range(3):
        id = await client.create()
        await ask(client, id, "filesystem.open", {"file": "/etc/passwd", "mode": "r"})
        late = [await client.dispatch(id, "filesystem.list", {"path": "/"}) for _ in range(8)]
        await client.call("corex.terminate", {"container": id})
        for each in late:
            assert (await client.result(each)).state in ("SUCCESS", "ERROR")
        assert (
            await client.send("corex.dispatch", {"container": id, "command": {"command": "core.ping"}})
        ).code
    await agent.leaves(before)
