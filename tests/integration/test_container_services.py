"""Services that containers bring in /.startup.toml."""

import pytest

from tests.support.agent import Agent, in_agent, until
from tests.support.commands import Client

pytestmark = pytest.mark.root

FILE = """
[startup.first]
name = "bash"
running_delay = -1
[startup.first.args]
script = "echo {WHO} >/first"

[startup.second]
name = "bash"
after = ["first"]
[startup.second.args]
script = "cat /first; sleep 1000"

[startup.again]
name = "core.system"
protected = true
[startup.again.args]
name = "sleep"
args = ["1000"]

[startup.nothing]
name = "kvm.list"
running_delay = -1
"""


def jobs(client: Client, id: int) -> set[str]:
    return {job.id for job in client.manager if job.container == id and job.pid}


@in_agent
async def test_services_start_in_order_and_end_with_the_container(agent: Agent) -> None:
    (agent.root / ".startup.toml").write_text(FILE)
    client = Client(agent)
    first, second = await client.create(env={"WHO": "me"}), await client.create(env={"WHO": "you"})
    for id, who in ((first, "me"), (second, "you")):
        wanted = {f"core-{id}", f"core-{id}.second", f"core-{id}.again"}
        await until(lambda: jobs(client, id) == wanted)  # noqa: B023
        assert (await client.inside(id, "bash", {"script": "cat /first"})).stdout == f"{who}\n"
        assert client.results[f"core-{id}.nothing"].state == "UNKNOWN_CMD"
    await client.call("corex.terminate", {"container": first})
    await until(lambda: not any(job.container == first for job in client.manager))
    assert jobs(client, second) == wanted


@in_agent
async def test_restarted_container_has_its_services_again(agent: Agent) -> None:
    (agent.root / ".startup.toml").write_text(FILE)
    client = Client(agent)
    id = await client.create(command=["sleep", "1000"], restart={"policy": "always"}, env={"WHO": "me"})
    container = agent.containers.get(id)
    wanted = {f"core-{id}", f"core-{id}.second", f"core-{id}.again"}
    await until(lambda: jobs(client, id) == wanted)
    before = {job.id: job.pid for job in client.manager if job.container == id}
    client.manager.kill(f"core-{id}", 9)
    await until(lambda: container.restarts.count == 1 and container.running.is_set())
    await until(lambda: jobs(client, id) == wanted)
    assert before[f"core-{id}.again"] not in {job.pid for job in client.manager}


@in_agent
async def test_file_that_makes_no_sense_harms_nothing(agent: Agent) -> None:
    for text in ("[", "startup = 5", "[startup.x]\nname = 5", "[startup.'core-1']\nname = 'core.ping'"):
        (agent.root / ".startup.toml").write_text(text)
        client = Client(agent)
        id = await client.create()
        assert (await client.inside(id, "core.ping")).state == "SUCCESS"
        await client.call("corex.terminate", {"container": id})
        agent.containers.listeners.clear()
