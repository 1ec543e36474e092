"""Restarts, health and events of containers."""

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from g8node.errors import Conflict
from tests.support.agent import Agent, in_agent, until
from tests.support.commands import Client

pytestmark = pytest.mark.root

COUNT = "echo x >>/count; wc -l </count"


def quick(agent: Agent, container: Any) -> None:
    """A short first pause; the rest of the back-off is as it is."""
    container.restarts._backoff.first_s = 0.05


async def started(agent: Agent, command: list[str], **fields: Any) -> tuple[Any, Any]:
    events: list[dict[str, Any]] = []
    agent.containers.listeners.append(lambda container, event: events.append(event))
    agent.containers.listeners.append(
        lambda container, event: quick(agent, container) if event["event"] == "created" else None
    )
    container, running = await agent.start(command, **fields)
    return container, (running, events)


@in_agent
async def test_failed_container_starts_again_with_what_it_wrote(agent: Agent) -> None:
    container, (running, events) = await started(
        agent,
        ["sh", "-c", f"{COUNT}; test $(wc -l </count) = 3"],
        restart={"policy": "on-failure"},
    )
    assert (await running.ended()).out.split() == ["1", "2", "3"]
    await container.gone.wait()
    names = [event["event"] for event in events]
    assert names == ["created", "started", "died", "started", "died", "started", "died"]
    assert [event["detail"]["code"] for event in events if event["event"] == "died"] == [1, 1, 0]
    assert [event["sequence"] for event in events] == list(range(1, 8))


@in_agent
async def test_retries_end(agent: Agent) -> None:
    container, (running, _) = await started(
        agent, ["sh", "-c", f"{COUNT}; exit 7"], restart={"policy": "on-failure", "max_retries": 2}
    )
    ended = await running.ended()
    assert (ended.out.split(), ended.code) == (["1", "2", "3"], 7)
    assert container.restarts.count == 2
    await container.gone.wait()


@in_agent
async def test_container_without_policy_does_not_start_again(agent: Agent) -> None:
    assert (await agent.run(["sh", "-c", f"{COUNT}; exit 7"])).out.split() == ["1"]


@in_agent
async def test_terminate_ends_a_container_that_always_restarts(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    container, (running, _) = await started(agent, ["sh", "-c", COUNT], restart={"policy": "always"})
    await until(lambda: container.restarts.count > 0)
    assert agent.containers.all() == [container]
    await asyncio.wait_for(agent.containers.terminate(container.id), 60)
    await running.ended()
    await agent.leaves(before)


@in_agent
async def test_terminate_does_not_wait_for_the_pause(agent: Agent) -> None:
    def patient(container: Any, event: dict[str, Any]) -> None:
        if event["event"] == "created":
            container.restarts._backoff.first_s = 3600

    agent.containers.listeners.append(patient)
    container, running = await agent.start("true", restart={"policy": "always"})
    await until(lambda: container.resting)
    with pytest.raises(Conflict, match="between two runs"):
        await agent.exec(container, "true")
    await asyncio.wait_for(agent.containers.terminate(container.id), 60)
    assert (await running.ended()).code == 0


@in_agent
async def test_who_enters_a_next_run_that_has_a_pid_waits_for_its_start(agent: Agent) -> None:
    container, (running, _) = await started(agent, ["sleep", "1000"], restart={"policy": "always"})
    note, disk, first = agent.containers._journals.note, asyncio.Event(), container.pid

    async def slow(noted: Any) -> None:
        await disk.wait()
        await note(noted)

    agent.containers._journals.note = slow  # type: ignore[method-assign]
    assert running.child.signal(signal.SIGKILL)
    await until(lambda: container.pid not in (0, first))
    entering = asyncio.create_task(agent.output(container, "echo", "in"))
    await asyncio.sleep(0)
    disk.set()
    assert (await entering).out == "in\n"
    await agent.containers.terminate(container.id)
    await running.ended()


@in_agent
async def test_signal_reaches_the_current_run_only(agent: Agent) -> None:
    container, (running, _) = await started(
        agent, ["sh", "-c", "echo up; sleep 1000"], restart={"policy": "always"}
    )
    for runs in range(1, 4):
        await until(lambda: running.output().count("up") == runs and running.child.pid != 0)  # noqa: B023
        assert running.child.signal(signal.SIGKILL)
    await agent.containers.terminate(container.id)
    await running.ended()


@in_agent
async def test_health_is_found_out_and_told(agent: Agent) -> None:
    health = {"command": "test -e /ok", "interval": 0.1, "retries": 2}
    container, (_, events) = await started(agent, ["sleep", "1000"], health=health)
    await until(lambda: container.health.status == "unhealthy")
    await agent.output(container, "touch", "/ok")
    await until(lambda: container.health.status == "healthy")
    assert [e["detail"]["status"] for e in events if e["event"] == "health"] == ["unhealthy", "healthy"]
    assert container.running.is_set()


@in_agent
async def test_check_that_takes_too_long_has_failed_and_leaves_nothing(agent: Agent) -> None:
    health = {"command": ["sleep", "1000"], "interval": 0.1, "timeout": 0.1, "retries": 1}
    container, _ = await started(agent, ["sleep", "2000"], health=health)
    await until(lambda: container.health.status == "unhealthy")
    assert container.health.code is None
    await agent.containers.terminate(container.id)


@in_agent
async def test_unhealthy_container_is_started_again_if_asked(agent: Agent) -> None:
    # Who finds it sick heals it: it is sick once, whenever the next check comes.
    health = {"command": ["sh", "-c", "! rm /sick"], "interval": 0.1, "retries": 1, "restart": True}
    container, (running, events) = await started(agent, ["sh", "-c", "echo up; sleep 1000"], health=health)
    await until(lambda: container.health.status == "healthy")
    await agent.output(container, "touch", "/sick")
    await until(lambda: running.output() == "up\nup\n")
    await until(lambda: container.health.status == "healthy")
    assert container.restarts.count == 1
    assert {"unhealthy", "healthy"} == {e["detail"]["status"] for e in events if e["event"] == "health"}


@in_agent
async def test_container_that_is_asked_to_end_is_not_killed_for_being_unhealthy(agent: Agent) -> None:
    health = {"command": "test ! -e /sick", "interval": 0.1, "retries": 1, "restart": True}
    script = "trap 'touch /sick; sleep 1; echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    container, (running, events) = await started(agent, ["sh", "-c", script], health=health)
    await until(lambda: running.output() == "up\n" and container.health.status == "healthy")
    await agent.containers.terminate(container.id, grace_s=60.0)
    ended = await running.ended()
    assert (ended.out, ended.code) == ("up\nsaved\n", 0)
    assert [e["detail"]["status"] for e in events if e["event"] == "health"] == ["healthy"]


@in_agent
async def test_job_of_a_container_lasts_over_its_restarts(agent: Agent) -> None:
    client = Client(agent)
    agent.containers.listeners.append(
        lambda container, event: quick(agent, container) if event["event"] == "created" else None
    )
    script = f"{COUNT}; test $(wc -l </count) = 2"
    id = await client.create(
        command=["sh", "-c", script],
        restart={"policy": "on-failure"},
        health={"command": "true"},
    )
    result = await client.result(f"core-{id}")
    assert (result.state, result.stdout) == ("SUCCESS", "1\n2\n")


@in_agent
async def test_listing_shows_health_and_restarts(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(restart={"policy": "always"}, health={"command": "true", "interval": 0.1})
    container = agent.containers.get(id)
    await until(lambda: container.health is not None and container.health.status == "healthy")
    row = (await client.call("corex.get", {"query": id}))["container"]
    assert row["health"] == {"status": "healthy", "failures": 0, "code": 0}
    assert row["restarts"] == 0


@in_agent
async def test_events_are_messages_of_a_voice(agent: Agent) -> None:
    client = Client(agent)
    voice = client.manager.find("corex.events")
    assert voice is not None
    id = await client.create(name="web")
    await client.call("corex.terminate", {"container": id})
    told = [json.loads(message.message) for message in voice.backlog]
    assert [(event["id"], event["name"], event["event"]) for event in told] == [
        (id, "web", "created"),
        (id, "web", "started"),
        (id, "web", "died"),
    ]
    assert told[2]["detail"] == {"code": -signal.SIGKILL}
    assert os.listdir(f"{agent.tmp}/run/crun") == []
