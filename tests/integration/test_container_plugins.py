"""Commands that containers bring themselves."""

import asyncio
import json
import os

import pytest

from tests.support.agent import Agent, in_agent
from tests.support.commands import Client

pytestmark = pytest.mark.root

FILE = """
[plugin.app]
path = "/bin/app"
exports = ["say", "slow", "fail"]
[plugin.one]
path = "/bin/app"
queue = true
exports = ["slow"]
"""
APP = """#!/bin/sh
case $1 in
say) echo "20:::"; echo "$2"; echo ":::" ;;
slow) mkdir /busy || exit 9; sleep 0.2; rmdir /busy ;;
fail) exit 3 ;;
esac
"""


def install(agent: Agent, file: str = FILE) -> None:
    (agent.root / ".plugin.toml").write_text(file)
    (agent.root / "bin/app").write_text(APP)
    (agent.root / "bin/app").chmod(0o755)


@in_agent
async def test_function_gets_the_arguments_and_gives_a_result(agent: Agent) -> None:
    install(agent)
    client = Client(agent)
    id = await client.create()
    result = await client.inside(id, "app.say", {"a": [1, "x y"]})
    assert (result.state, result.level, json.loads(result.data)) == ("SUCCESS", 20, {"a": [1, "x y"]})
    assert (await client.inside(id, "app.fail")).code == 1003
    for unknown in ("app.other", "other.say", "app", "kvm.list"):
        assert (await client.inside(id, unknown)).state == "UNKNOWN_CMD"


@in_agent
async def test_queue_lets_one_call_after_another(agent: Agent) -> None:
    install(agent)
    client = Client(agent)
    id = await client.create()
    results = await asyncio.gather(*(client.inside(id, "one.slow") for _ in range(5)))
    assert [result.state for result in results] == ["SUCCESS"] * 5


@in_agent
async def test_hostile_file_is_refused_and_leads_nowhere(agent: Agent) -> None:
    outside = agent.tmp / "outside.toml"
    outside.write_text(FILE)
    install(agent, "[plugin.app]\npath = 5")
    client = Client(agent)
    result = await client.inside(await client.create(), "app.say")
    assert (result.code, "/.plugin.toml" in result.data) == (400, True)
    for target in (str(outside), f"../../../../../..{outside}", f"/proc/{os.getpid()}/root{outside}"):
        (agent.root / ".plugin.toml").unlink()
        (agent.root / ".plugin.toml").symlink_to(target)
        assert (await client.inside(await client.create(), "app.say")).state == "UNKNOWN_CMD"
    (agent.root / ".plugin.toml").unlink()
    os.mkfifo(agent.root / ".plugin.toml")
    assert (await client.inside(await client.create(), "app.say")).state == "UNKNOWN_CMD"
