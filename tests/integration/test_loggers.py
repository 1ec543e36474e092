"""Log records and points on their way to a real redis-server that dies meanwhile."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from g8node.jobs import loggers as loggers_module
from g8node.jobs import statistics as statistics_module
from g8node.jobs.loggers import Loggers
from g8node.jobs.model import Message
from g8node.jobs.statistics import Statistics
from g8node.node.stats import Stats
from tests.support.redis import Stack, command, eventually, running_stack

T = TypeVar("T")


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


@contextlib.asynccontextmanager
async def running(sink: Loggers | Statistics, stack: Stack) -> AsyncIterator[None]:
    stack.manager.sinks.append(sink)
    stack.supervisor.start("sink", sink.run)
    try:
        yield
    finally:
        await stack.supervisor.stop("sink")
        await sink.close()


async def until(look: Callable[[], Awaitable[T]], ok: Callable[[T], bool]) -> T:
    """What the look gives once it is ok."""
    async with asyncio.timeout(60):
        while True:
            if ok(value := await look()):
                return value
            await asyncio.sleep(0.01)


async def numbers(stack: Stack, key: str) -> list[int]:
    found = [json.loads(text)["message"] for text in await stack.redis.lrange(key, 0, -1)]
    return [int(message["message"]) for message in found if message["meta"] >> 16 == 3]


async def test_records_survive_the_death_of_redis_in_order_and_once(stack: Stack) -> None:
    loggers = Loggers(stack.socket, size=100_000)
    async with running(loggers, stack):
        key = loggers.subscribe("x", [3])
        job = stack.manager.submit(command("core.ping", "begin"))
        total = 9000
        for number in range(total):
            job.emit(3, str(number))
            if number == total // 2:
                await eventually(lambda: loggers.state()["waiting"] < total // 4)
                os.kill(stack.server.pid, signal.SIGKILL)
        await eventually(lambda: loggers.state()["waiting"] == 0)
        found = await until(lambda: numbers(stack, key), lambda found: len(found) >= total)
        assert found == list(range(total))
        assert loggers.state()["dropped"] == 0


async def test_list_is_bounded_by_bytes(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1 << 20
    monkeypatch.setattr(loggers_module, "LIST_BYTES", limit)
    loggers = Loggers(stack.socket, size=100_000)
    async with running(loggers, stack):
        key = loggers.subscribe("x", [3])
        job = stack.manager.submit(command("core.ping", "begin"))
        for number in range(50):
            job.emit(3, str(number).ljust(100_000))
        await eventually(lambda: loggers.state()["waiting"] == 0)
        found = await until(lambda: numbers(stack, key), lambda found: 49 in found)
        assert found == list(range(50 - len(found), 50))
        assert await stack.redis.memory_usage(key) < 2 * limit


async def test_list_without_its_subscription_goes_after_a_while(stack: Stack) -> None:
    loggers = Loggers(stack.socket, size=10)
    async with running(loggers, stack):
        key = loggers.subscribe("x", [3])
        job = stack.manager.submit(command("core.ping", "begin"))
        job.emit(3, "1")
        await until(lambda: numbers(stack, key), lambda found: 1 in found)
        assert await stack.redis.ttl(key) == -1
        loggers.unsubscribe(key)
        await until(lambda: stack.redis.ttl(key), lambda left: 3500 < left <= 3600)
        loggers.subscribe("x", [3])
        job.emit(3, "2")
        await until(lambda: numbers(stack, key), lambda found: 2 in found)
        assert await stack.redis.ttl(key) == -1


async def test_what_was_said_before_the_end_of_a_subscription_is_in_its_list(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers_module, "PATIENCE_S", 60.0)
    loggers = Loggers(stack.socket, size=10)
    key = loggers.subscribe("x", [3])
    job = stack.manager.submit(command("core.ping", "begin"))
    loggers.record(job, Message("1", 1, 3 << 16))
    ending = asyncio.create_task(loggers.unsubscribed(key))
    await eventually(lambda: not loggers.state()["subscriptions"])
    loggers.record(job, Message("2", 1, 3 << 16))
    async with running(loggers, stack):
        await ending
        assert await numbers(stack, key) == [1]
        await until(lambda: stack.redis.ttl(key), lambda left: 3500 < left <= 3600)


async def test_key_that_is_no_list_is_replaced(stack: Stack) -> None:
    await stack.redis.set("logger:x", "text")
    loggers = Loggers(stack.socket, size=10)
    async with running(loggers, stack):
        loggers.subscribe("x", [3])
        stack.manager.submit(command("core.ping", "begin")).emit(3, "7")
        await until(lambda: stack.redis.type("logger:x"), lambda kind: kind == "list")
        assert await numbers(stack, "logger:x") == [7]


async def test_points_are_pushed_once_and_trimmed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_module, "FLUSH_S", 0.01)
    script = statistics_module._WRITE.replace(str(statistics_module.LIST_KEPT), "10")
    monkeypatch.setattr(statistics_module, "_WRITE", script)
    now = 1_700_000_100.0
    stats = Stats(clock=lambda: now)
    statistics = Statistics(stats, stack.socket)
    pushed: list[str] = []
    statistics.on_pushed = pushed.extend
    async with running(statistics, stack):
        job = stack.manager.submit(command("core.ping", "begin"))
        for number in range(25):
            job.emit(10, f"k:{number}|A|id=a,type=t\n")
            now += 300
        await until(lambda: stack.redis.llen("statistics:3600"), lambda length: length >= 2)
        found = [json.loads(text) for text in await stack.redis.lrange("statistics:300", 0, -1)]
        assert [point["avg"] for point in found] == [float(number) for number in range(14, 24)]
        assert found[-1] == {
            "avg": 23.0, "total": 23.0, "max": 23.0, "count": 1, "start": found[-2]["start"] + 300,
            "key": "k", "tags": {"id": "a", "type": "t"},
        }  # fmt: skip
        await eventually(lambda: {*pushed} == {"statistics:300", "statistics:3600"})
