"""corex.exec: programs in containers that a client talks with."""

import asyncio
import base64
import json

import pytest

from g8node.jobs.model import Caller
from tests.support.agent import Agent, in_agent, until
from tests.support.commands import Client

pytestmark = pytest.mark.root


class Talk:
    """A running corex.exec."""

    def __init__(self, client: Client, id: int, command: list[str], **arguments: object) -> None:
        self.client = client
        self.done = asyncio.create_task(
            client.send("corex.exec", {"container": id, "command": command, **arguments}, stream=True)
        )

    async def started(self) -> str:
        def job() -> str:
            running = (each for each in self.client.manager if each.request.command == "corex.exec")
            return next((each.id for each in running if each.run is not None), "")

        await until(lambda: bool(job()))
        self.job = job()
        return self.job

    @property
    def said(self) -> str:
        return "".join(self.client.streams.get(self.job, []))

    async def send(self, text: str, *, close: bool = False) -> int:
        data = base64.b64encode(text.encode()).decode()
        return (await self.client.send("job.input", {"id": self.job, "data": data, "close": close})).code

    async def hears(self, text: str) -> None:
        await until(lambda: text in self.said)


@in_agent
async def test_terminal_is_one_and_has_a_size(agent: Agent) -> None:
    client = Client(agent)
    talk = Talk(client, await client.create(), ["sh"], tty=True, rows=30, columns=100)
    await talk.started()
    await talk.send("stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo all-$TERM\n")
    await talk.hears("30 100")
    await talk.hears("/dev/pts/0")
    await talk.hears("all-xterm")
    size = {"id": talk.job, "rows": 50, "columns": 120}
    assert (await client.send("job.resize", size)).state == "SUCCESS"
    await talk.send("stty size\n")
    await talk.hears("50 120")
    await talk.send("echo 20:::x\n")  # no level of ours
    await talk.hears("\n20:::x")
    await talk.send("exit 7\n")
    result = await asyncio.wait_for(talk.done, 60)
    assert (result.state, result.code) == ("ERROR", 1007)
    assert await talk.send("late\n") in (404, 409)


@in_agent
async def test_interrupt_reaches_what_runs_in_the_foreground(agent: Agent) -> None:
    client = Client(agent)
    # A shell that waits for one long sleep never sees what comes just before it starts that.
    script = "trap 'echo trapped; exit 3' INT; echo ready; while :; do sleep 0.2; done"
    talk = Talk(client, await client.create(), ["sh", "-c", script], tty=True)
    await talk.started()
    await talk.hears("ready")
    await talk.send("\x03")
    result = await asyncio.wait_for(talk.done, 60)
    assert (result.code, "trapped" in result.stdout) == (1003, True)


@in_agent
async def test_end_of_input_is_known_on_a_terminal(agent: Agent) -> None:
    client = Client(agent)
    talk = Talk(client, await client.create(), ["sh", "-c", "echo ready; cat; echo over"], tty=True)
    await talk.started()
    await talk.hears("ready")
    await talk.send("line\n", close=True)
    result = await asyncio.wait_for(talk.done, 60)
    assert result.stdout.split() == ["ready", "line", "line", "over"]
    assert await talk.send("late") == 404


@in_agent
async def test_input_without_a_terminal_has_an_end(agent: Agent) -> None:
    client = Client(agent)
    talk = Talk(client, await client.create(), ["sh", "-c", "cat; echo over >&2"], stdin=True)
    await talk.started()
    assert await talk.send("one\n") == 0
    await talk.hears("one")
    assert (await client.send("job.resize", {"id": talk.job, "rows": 1, "columns": 1})).code == 409
    assert await talk.send("two\n", close=True) == 0
    result = await asyncio.wait_for(talk.done, 60)
    assert (result.state, result.stdout, result.stderr) == ("SUCCESS", "one\ntwo\n", "over\n")


@in_agent
async def test_input_that_nobody_reads_is_refused_and_not_kept(agent: Agent) -> None:
    client = Client(agent)
    talk = Talk(client, await client.create(), ["sleep", "1000"], stdin=True)
    await talk.started()
    codes = [await talk.send("x" * 500_000) for _ in range(5)]
    assert codes[0] == 0
    assert codes[-1] == 503
    client.manager.kill(talk.job, 9)
    assert (await asyncio.wait_for(talk.done, 60)).code == 999


@in_agent
async def test_environment_folder_user_and_failures(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(workdir="/var")
    script = ["sh", "-c", "echo $PWD $A $(id -u)"]
    arguments = {"container": id, "command": script, "env": {"A": "1"}, "user": "nobody"}
    assert (await client.send("corex.exec", arguments)).stdout == "/var 1 65534\n"
    assert (await client.send("corex.exec", arguments | {"dir": "/tmp"})).stdout == "/tmp 1 65534\n"
    for wrong, code in (({"command": ["nope"]}, 404), ({"user": "nope"}, 404), ({"command": "'"}, 400)):
        for tty in (False, True):
            assert (await client.send("corex.exec", arguments | wrong | {"tty": tty})).code == code, wrong
    assert (await client.send("corex.exec", arguments | {"container": 77})).code == 404


@in_agent
async def test_operator_talks_with_no_container_of_an_admin_s_rights(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(privileged=True)
    operator = Caller("op", "operator")
    result = await client.send("corex.exec", {"container": id, "command": "true"}, caller=operator)
    assert (result.code, "privileged" in json.loads(result.data)) == (403, True)
    talk = Talk(client, id, ["cat"], stdin=True)
    await talk.started()
    other = {"id": talk.job, "data": "", "close": True}
    assert (await client.send("job.input", other, caller=operator)).code == 404
    await talk.send("", close=True)
    await talk.done


@in_agent
async def test_cancelled_session_leaves_nothing(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    await client.send("corex.exec", {"container": id, "command": "true", "tty": True})
    before = agent.traces()
    for tty in (True, False):
        talk = Talk(client, id, ["sleep", "1000"], tty=tty, stdin=True)
        job = await talk.started()
        client.manager.kill(job, 9)
        await talk.done
    await agent.leaves(before)
