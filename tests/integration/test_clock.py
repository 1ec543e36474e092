"""clock.sync against a real UDP server; nothing here sets the clock of the machine."""

import json

import pytest

from g8node.errors import Unavailable
from g8node.jobs.commands import clock as commands
from g8node.jobs.model import Result
from g8node.jobs.registry import Registry
from g8node.node import clock
from tests.support.ntp import ntp_server
from tests.support.redis import command, running_manager


async def sync(**arguments: object) -> Result:
    async with running_manager(registry=Registry([commands])) as manager:
        return await manager.submit(command("clock.sync", arguments=arguments)).result()


async def test_measure_believes_two_servers_of_three() -> None:
    with ntp_server(3600.0) as right, ntp_server(3600.0) as too, ntp_server(-9e6) as liar:
        found = await clock.measure([f"127.0.0.1:{port}" for port in (right, liar, too)], 60)
    assert found.offset_s == pytest.approx(3600.0, abs=60)


async def test_measure_needs_one_answer_only() -> None:
    with ntp_server(-3600.0) as port:
        found = await clock.measure(["127.0.0.1:9", f"127.0.0.1:{port}"], 60)
    assert found.offset_s == pytest.approx(-3600.0, abs=60)


async def test_measure_without_an_answer_names_the_servers() -> None:
    with pytest.raises(Unavailable, match=r"no time server answers: 127\.0\.0\.1:9: "):
        await clock.measure(["127.0.0.1:9"], 60)


async def test_sync_of_an_agent_only_measures() -> None:
    with ntp_server(1000.0) as port:
        result = await sync(servers=[f"127.0.0.1:{port},127.0.0.1:9"], timeout=60)
    value = json.loads(result.data)
    assert value["synced"] is False
    assert value["offset_s"] == pytest.approx(1000.0, abs=60)


async def test_sync_is_an_error_unless_tolerant() -> None:
    assert (await sync(servers=["127.0.0.1:9"], timeout=60)).code == 503
    assert (
        json.loads((await sync(servers=["127.0.0.1:9"], timeout=60, tolerant=True)).data)["synced"] is False
    )


async def test_sync_refuses_wrong_arguments_naming_the_field() -> None:
    for arguments, field in (({}, "servers"), ({"servers": []}, "servers"), ({"servers": [1]}, "servers")):
        result = await sync(**arguments)
        assert result.code == 400
        assert field in result.data
