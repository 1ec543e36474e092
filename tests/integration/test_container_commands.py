"""corex.* through the job manager, over real containers; redis has no part in it."""

import asyncio
import contextlib
import json
from typing import Any

import msgspec
import pytest

from g8node.errors import NotFound
from g8node.jobs.model import Caller, Command
from tests.support.agent import Agent, in_agent, until
from tests.support.commands import Client

pytestmark = pytest.mark.root


@in_agent
async def test_create_with_command_streams_and_ends_as_job(agent: Agent) -> None:
    client = Client(agent)
    id = await client.call(
        "corex.create", {"root": str(agent.root), "command": "echo hi", "nics": None}, stream=True, tags=["a"]
    )
    result = await client.result(f"core-{id}")
    assert (result.state, result.stdout, result.container, result.tags) == ("SUCCESS", "hi\n", id, ["a"])
    assert client.streams[f"core-{id}"] == ["hi\n", ""]


@in_agent
async def test_create_sync_has_the_result_of_process_1(agent: Agent) -> None:
    client = Client(agent)
    arguments = {"root": str(agent.root), "command": ["sh", "-c", "echo out; echo '20:::5'; exit 3"]}
    result = await client.send("corex.create-sync", arguments)
    assert (result.state, result.code, result.stdout, result.data.strip()) == ("ERROR", 1003, "out\n", "5")
    assert (await client.send("corex.create-sync", {"root": "/nope"})).code == 404
    arguments["command"] = ["sleep", "1000"]
    result = await client.send("corex.create-sync", arguments, max_time=1)
    assert result.state == "TIMEOUT"
    await until(lambda: not agent.containers.all())


@in_agent
async def test_signal_to_create_sync_is_one_to_process_1(agent: Agent) -> None:
    client = Client(agent)
    arguments = {
        "root": str(agent.root),
        "command": ["sh", "-c", "trap 'exit 4' TERM; echo up; sleep 1000 & wait"],
    }
    waiting = asyncio.create_task(client.send("corex.create-sync", arguments))
    await until(lambda: (log := client.manager.container_logs.find(1)) is not None and bool(log.messages))
    (job,) = [job for job in client.manager if job.request.command == "corex.create-sync"]
    job.kill(15)
    assert (await waiting).code == 1004


@in_agent
async def test_signal_to_create_sync_before_process_1_is_not_lost(agent: Agent) -> None:
    client = Client(agent)
    arguments = {"root": str(agent.root), "command": ["sleep", "1000"]}
    waiting = asyncio.create_task(client.send("corex.create-sync", arguments))
    await until(lambda: any(job.phase == "running" for job in client.manager))
    (job,) = [job for job in client.manager if job.request.command == "corex.create-sync"]
    assert job.pid == 0
    job.kill(9)
    assert (await waiting).signal == 9


@in_agent
async def test_signal_while_the_root_is_mounted_is_the_result_and_leaves_nothing(agent: Agent) -> None:
    client = Client(agent)
    begun, wait_for_ever = asyncio.Event(), asyncio.Event()

    async def attach(*_: object, **__: object) -> None:
        begun.set()
        await wait_for_ever.wait()

    agent.mounts.attach = attach  # type: ignore[assignment,method-assign]
    waiting = asyncio.create_task(client.send("corex.create-sync", {"root": str(agent.root)}))
    await begun.wait()
    (job,) = client.manager
    job.kill(9)
    result = await waiting
    assert (result.state, result.code, result.signal) == ("ERROR", 999, 9)
    wait_for_ever.set()
    await until(lambda: not agent.containers.all())


@in_agent
async def test_stats_are_of_the_whole_container(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    before = await client.call("corex.stats", {"container": id})
    busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; sleep 1000"
    job = await client.dispatch(id, "bash", {"script": busy})
    await until(lambda: (found := client.manager.find(job)) is not None and bool(found.backlog))
    after = await client.call("corex.stats", {"container": id})
    assert after["processes"] > before["processes"] >= 1
    assert after["cpu"]["used_s"] > before["cpu"]["used_s"]
    assert after["memory"]["used"] > before["memory"]["used"] > 0
    assert (await client.send("corex.stats", {"container": 77})).code == 404


@in_agent
async def test_logs_are_kept_and_can_be_followed(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(command=["sh", "-c", "echo a; echo b >&2; echo c"])
    result = await client.result(f"core-{id}")
    shown = await client.call("corex.logs", {"container": id})
    said = {level: "".join(row["message"] for row in shown if row["level"] == level) for level in (1, 2)}
    assert said == {1: "a\nc\n", 2: "b\n"}
    assert (await client.call("corex.logs", {"container": id, "tail": 1}))[0] == shown[-1]
    assert result.container == id
    assert (await client.send("corex.logs", {"container": 77})).code == 404


@in_agent
async def test_followed_log_ends_with_its_container(agent: Agent) -> None:
    client = Client(agent)
    script = "echo first; while ! test -e /go; do sleep 0.05; done; echo last"
    id = await client.create(command=["sh", "-c", script])
    log = client.manager.container_logs.find(id)
    assert log is not None
    await until(lambda: bool(log.messages))
    following = asyncio.create_task(client.send("corex.logs", {"container": id, "follow": True}, stream=True))
    await until(lambda: any(lines[:1] == ["first\n"] for lines in client.streams.values()))
    await client.inside(id, "filesystem.mkdir", {"path": "/go"})
    result = await asyncio.wait_for(following, 60)
    assert (result.state, client.streams[result.id][:2]) == ("SUCCESS", ["first\n", "last\n"])
    reader = Caller("someone", "operator")
    assert (await client.send("corex.logs", {"container": id}, caller=reader)).code == 404


@in_agent
async def test_flist_layer_comes_over_a_running_container(agent: Agent) -> None:
    client = Client(agent)
    (agent.tmp / "layer").mkdir()
    (agent.tmp / "layer/new").touch()
    id = await client.create()
    assert await client.call("corex.flist-layer", {"container": id, "flist": f"{agent.tmp}/layer"}) is None
    assert (await client.inside(id, "filesystem.exists", {"path": "/new"})).data == "true"
    listed = await client.call("corex.list")
    assert listed[str(id)]["container"]["live_layer"] == f"{agent.tmp}/layer"
    assert (await client.send("corex.flist-layer", {"container": 77, "flist": "/x"})).code == 404
    assert (await client.send("corex.flist-layer", {"container": id, "flist": "/x"})).code == 404


@in_agent
async def test_list_get_and_find_show_the_container(agent: Agent) -> None:
    client = Client(agent)
    id = await client.call("corex.create", {"root": str(agent.root), "name": "Web"}, tags=["x", "y"])
    assert client.manager.find(f"core-{id}") is not None
    listed = await client.call("corex.list")
    row = listed[str(id)]
    assert row.keys() == {"cpu", "rss", "vms", "swap", "container"}
    assert row["rss"] > 0
    assert row["container"]["arguments"]["name"] == "Web"
    assert row["container"]["arguments"]["tags"] == ["x", "y"]
    assert row["container"]["pid"] > 1
    assert await client.call("corex.get", {"query": "wEB"}) == {"id": id, "container": row["container"]}
    assert (await client.call("corex.get", {"query": id}))["id"] == id
    assert await client.call("corex.get", {"query": "other"}) is None
    assert list(await client.call("corex.find", {"tags": ["y"]})) == [str(id)]
    assert await client.call("corex.find", {"tags": ["y", "z"]}) == {}
    assert (await client.send("corex.get", {"query": 0})).code == 400
    assert (await client.send("corex.get", {"query": True})).code == 400


@in_agent
async def test_dispatch_runs_programs_in_the_container(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(hostname="inner", env={"A": "1"})
    result = await client.inside(id, "bash", {"script": "hostname; echo $A $B; exit 3"})
    assert (result.state, result.code, result.stdout, result.container) == ("ERROR", 1003, "inner\n1\n", id)
    assert result.id in client.flags
    system = {
        "name": "sh",
        "args": ["-c", "pwd; cat; echo $B"],
        "dir": "/tmp",
        "stdin": "in\n",
        "env": {"B": "2"},
    }
    result = await client.inside(id, "core.system", system, id="mine", tags=["t"], stream=True)
    assert (result.id, result.state, result.stdout, result.tags) == (
        "mine",
        "SUCCESS",
        "/tmp\nin\n2\n",
        ["t"],
    )
    assert "".join(client.streams["mine"]) == "/tmp\nin\n2\n"
    assert (await client.inside(id, "core.system", {"name": "nope"})).code == 404
    assert (await client.inside(id, "core.ping")).data.startswith('"PONG')
    assert (await client.inside(id, "kvm.list")).state == "UNKNOWN_CMD"


@in_agent
async def test_dispatch_sees_only_its_own_container(agent: Agent) -> None:
    client = Client(agent)
    first, second = await client.create(), await client.create()
    mine = await client.dispatch(first, "core.system", {"name": "sleep", "args": ["1000"]}, id="mine")
    await until(lambda: (found := client.manager.find("mine")) is not None and found.pid > 0)
    assert json.loads((await client.inside(second, "job.kill", {"id": mine})).data) is False
    assert json.loads((await client.inside(first, "job.kill", {"id": f"core-{first}"})).data) is False
    rows = json.loads((await client.inside(first, "job.list")).data)
    assert {row["cmd"]["command"] for row in rows} == {"core.system", "job.list"}
    processes: list[dict[str, Any]] = []
    async with asyncio.timeout(60):  # crun ends before what it starts has come to its exec
        while sorted(row["cmdline"] for row in processes) != ["/dev/init -P", "sleep 1000"]:
            processes = json.loads((await client.inside(first, "process.list")).data)
    pid = next(row["pid"] for row in processes if row["cmdline"] == "sleep 1000")
    assert (await client.inside(second, "process.kill", {"pid": pid, "signal": 9})).state == "ERROR"
    assert (await client.inside(first, "process.kill", {"pid": pid, "signal": 9})).state == "SUCCESS"
    assert (await client.result("mine")).code == -1 or client.results["mine"].state == "ERROR"


@in_agent
async def test_terminate_ends_every_job_of_the_container(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    job = await client.dispatch(id, "bash", {"script": "trap 'echo bye; exit 0' TERM; sleep 1000 & wait"})
    await until(lambda: (found := client.manager.find(job)) is not None and found.pid > 0)
    # The shell needs a moment to set its trap; a TERM before it ends it as well.
    assert await client.call("corex.terminate", {"container": id}) is None
    assert (await client.result(job)).container == id
    assert (await client.result(f"core-{id}")).container == id
    assert await client.call("corex.list") == {}
    for name in ("corex.terminate", "corex.dispatch"):
        result = await client.send(name, {"container": id, "command": {"command": "core.ping"}})
        assert (result.code, result.data) == (500, '"container 1 does not exist"')


@in_agent
async def test_wrong_arguments_are_400_and_name_the_field(agent: Agent) -> None:
    client = Client(agent)
    root = str(agent.root)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "root"),
        ({"root": 5}, "root"),
        ({"root": root, "nics": [{"type": "bridge"}]}, "nics"),
        ({"root": root, "hostname": "a b"}, "hostname"),
        ({"root": root, "env": {"A=B": "1"}}, "env"),
        ({"root": root, "env": {"A": 1}}, "env"),
        ({"root": root, "mount": {"relative": "/mnt"}}, "mount"),
        ({"root": root, "mount": {"/tmp": "mnt"}}, "mount"),
        ({"root": root, "mount": {"/no/such": "/mnt"}}, "mount"),
        ({"root": root, "config": {"": "x"}}, "config"),
        ({"root": root, "command": "a 'b"}, "command"),
        ({"root": root, "command": [""]}, "command"),
        ({"root": root, "privileged": "yes"}, "privileged"),
    ]
    for arguments, field in wrong:
        result = await client.send("corex.create", arguments)
        assert (result.state, result.code) == ("ERROR", 400), (arguments, result)
        assert field in result.data
    for arguments in ({"container": "1"}, {"container": 1}, {"container": 1, "command": "x"}):
        assert (await client.send("corex.dispatch", arguments)).code in (400, 500)
    assert await client.call("corex.list") == {}


@in_agent
async def test_start_failure_is_the_error_of_create(agent: Agent) -> None:
    client = Client(agent)
    result = await client.send("corex.create", {"root": str(agent.root), "command": "/bin/nope"})
    assert (result.state, result.code) == ("ERROR", 404)
    assert "/bin/nope" in result.data
    assert (await client.result("core-1")).state == "ERROR"
    assert (await client.send("corex.create", {"root": "/no/flist"})).code == 404


@in_agent
async def test_operator_gets_no_way_to_the_host(agent: Agent) -> None:
    client = Client(agent)
    operator = Caller("eve", "operator")
    root = str(agent.root)
    for more in ({"privileged": True}, {"mount": {"/": "/host"}}):
        result = await client.send("corex.create", {"root": root, **more}, caller=operator)
        assert result.code == 403, result
    id = await client.create(privileged=True)
    inner = {"command": "bash", "arguments": {"script": "id"}, "caller": {"name": "root", "role": "admin"}}
    result = await client.send("corex.dispatch", {"container": id, "command": inner}, caller=operator)
    assert result.code == 403
    plain = await client.call("corex.create", {"root": root}, caller=operator)
    job_id = json.loads(
        (await client.send("corex.dispatch", {"container": plain, "command": inner}, caller=operator)).data
    )
    live = client.manager.find(job_id)
    assert live is None or live.request.caller == operator
    assert "uid=0" in (await client.result(job_id)).stdout


@in_agent
async def test_killed_or_late_create_leaves_no_container(agent: Agent) -> None:
    client = Client(agent)
    await asyncio.wait_for(client.send("corex.create", {"root": str(agent.root)}), 60)
    await client.call("corex.terminate", {"container": 1})
    for delay in range(8):
        command = Command.make(f"late{delay}", "corex.create", {"root": str(agent.root)})
        job = client.manager.submit(command)
        await asyncio.sleep(delay * 0.004)
        for task in list(client.manager._tasks):
            if task.get_name() == f"job late{delay}":
                task.cancel()
        await job.result()
    assert msgspec.json.encode(sorted(agent.containers._live)) is not None
    for id in [container.id for container in agent.containers.all()]:
        with contextlib.suppress(NotFound):  # it is ending already
            await agent.containers.terminate(id)
    await until(lambda: not agent.containers._live)
    assert not agent.mounts.attached
