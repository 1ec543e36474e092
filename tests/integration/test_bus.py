"""The bus over a real redis-server: the sequence of spec core0-protocol 2, duplicates, bad input, outages."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from g8node.errors import AlreadyExists
from g8node.jobs.commands import bash, core, info, job, process
from g8node.jobs.model import LOCAL, Caller, Command
from g8node.jobs.registry import Context, Registry
from g8node.jobs.registry import command as registered
from tests.support.redis import Stack, command, eventually, running_stack

STATS: dict[str, int] = {}


@registered("test.count")
async def count(ctx: Context) -> int:
    """How often a job of this id ran."""
    STATS[ctx.job.id] = STATS.get(ctx.job.id, 0) + 1
    await asyncio.sleep(0.001)
    return STATS[ctx.job.id]


@registered("test.count_at_once")
def count_at_once(ctx: Context) -> int:
    """The same, of a job that has ended when it is accepted."""
    STATS[ctx.job.id] = STATS.get(ctx.job.id, 0) + 1
    return STATS[ctx.job.id]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    registry = Registry([bash, core, info, job, process])
    registry.add_function(count)
    registry.add_function(count_at_once)
    STATS.clear()
    async with running_stack(tmp_path, registry) as stack:
        yield stack


async def kill_redis(stack: Stack) -> None:
    """SIGKILL, and wait for the next life."""
    starts = stack.server.starts
    os.kill(stack.server.pid, signal.SIGKILL)
    await eventually(lambda: stack.server.starts > starts)
    await stack.server.ready()


async def test_bus_sequence_of_flag_and_result(stack: Stack) -> None:
    await stack.push("core.ping", "1", arguments={})
    assert await stack.redis.brpoplpush("result:1:flag", "result:1:flag", 60) == ""
    for _ in range(2):  # it rotates, so it can be read again
        result = json.loads(await stack.redis.brpoplpush("result:1", "result:1", 60))
        assert json.loads(result["data"]).startswith("PONG")
    assert set(result) == {
        "id", "command", "state", "code", "data", "level", "starttime", "time", "tags", "container"
    }  # fmt: skip
    assert 240 < await stack.redis.ttl("result:1") <= 300
    assert 240 < await stack.redis.ttl("result:1:flag") <= 300
    assert await stack.redis.llen("result:1") == 1
    assert await stack.redis.llen("core:pending") == 0


async def test_bus_flag_has_no_ttl_while_the_job_runs(stack: Stack) -> None:
    await stack.push("bash", "1", arguments={"script": "read x"}, tags=["a"])
    await stack.push("core.system", "2", arguments={"name": "sleep", "args": ["100"]})
    assert await stack.redis.brpoplpush("result:2:flag", "result:2:flag", 60) == ""
    assert await stack.redis.ttl("result:2:flag") == -1
    assert (await stack.result("1"))["tags"] == ["a"]
    stack.manager.kill("2")
    assert (await stack.result("2"))["code"] == 999
    assert await stack.redis.ttl("result:2:flag") > 0


async def test_bus_results_of_processes_and_unknown_commands(stack: Stack) -> None:
    failed = await stack.run("bash", "1", arguments={"script": "echo o; echo e >&2; exit 2"})
    assert (failed["state"], failed["code"], failed["streams"]) == ("ERROR", 1002, ["o\n", "e\n"])
    unknown = await stack.run("no.such", "2", arguments=None)
    assert (unknown["state"], unknown["data"], unknown["level"], unknown["code"]) == ("UNKNOWN_CMD", "", 0, 0)


async def test_bus_job_list_keeps_the_original_arguments(stack: Stack) -> None:
    await stack.push("core.system", "s", arguments={"name": "sleep", "args": ["100"]})
    await eventually(lambda: (live := stack.manager.find("s")) and live.pid)
    listed = json.loads((await stack.run("job.list", "l", arguments={"id": None}))["data"])
    rows = {row["cmd"]["id"]: row for row in listed}
    assert set(rows) == {"s", "l"}
    assert rows["s"]["cmd"]["arguments"]["name"] == "sleep"
    assert rows["s"]["pid"] > 0
    assert rows["s"]["rss"] > 0
    assert json.loads((await stack.run("job.kill", "k", arguments={"id": "s"}))["data"]) is True
    await stack.result("s")
    assert json.loads((await stack.run("job.list", "l2"))["data"])[0]["cmd"]["id"] == "l2"
    assert (await stack.run("job.list", "l3", arguments={"id": "s"}))["code"] == 404
    assert json.loads((await stack.run("job.kill", "k2", arguments={"id": "s"}))["data"]) is False


async def test_bus_stream_has_every_record_and_its_end(stack: Stack) -> None:
    await stack.push("bash", "1", arguments={"script": "echo a; echo 3::b; echo c >&2"}, stream=True)
    await stack.result("1")
    records = [json.loads(text) for text in await stack.redis.lrange("stream:1", 0, -1)]
    said = {(record["message"]["meta"] >> 16, record["message"]["message"]) for record in records}
    assert said == {(1, "a\n"), (3, "b\n"), (2, "c\n"), (1, "")}
    assert [record["message"]["meta"] & 6 for record in records] == [0, 0, 0, 2]
    assert {(record["core"], record["command"]) for record in records} == {(0, "1")}
    assert 0 < await stack.redis.ttl("stream:1") <= 60


async def test_bus_stream_is_bounded_and_loses_nothing_before_the_bound(stack: Stack) -> None:
    await stack.push("bash", "1", arguments={"script": "seq 5000 | sed 's/^/3::/'"}, stream=True)
    await stack.result("1")
    records = [json.loads(text) for text in await stack.redis.lrange("stream:1", 0, -1)]
    assert [record["message"]["message"] for record in records[:-1]] == [f"{n}\n" for n in range(4002, 5001)]


async def test_bus_queue_order(stack: Stack) -> None:
    for number in range(20):
        await stack.push(
            "bash", str(number), arguments={"script": f"echo {number} >>{stack.folder}/order"}, queue="q"
        )
    await stack.result("19")
    assert (stack.folder / "order").read_text().split() == [str(number) for number in range(20)]


async def test_bus_duplicate_gets_no_second_result(stack: Stack) -> None:
    for _ in range(3):
        await stack.push("test.count", "1")
    await stack.result("1")
    await stack.push("test.count", "1")
    await stack.run("core.ping", "2")
    assert STATS == {"1": 1}
    assert await stack.redis.llen("result:1") == 1
    assert stack.bus.duplicates == 3


async def test_bus_direct_duplicate_answers_with_the_one_result(stack: Stack) -> None:
    first = await stack.bus.call(command("test.count", "1"))
    assert await stack.bus.call(command("test.count", "1")) == first
    both = await asyncio.gather(*(stack.bus.call(command("test.count", "2")) for _ in range(5)))
    assert len({result.data for result in both}) == 1
    assert STATS == {"1": 1, "2": 1}
    with pytest.raises(AlreadyExists):
        await stack.bus.call(command("core.ping", "1"))
    with pytest.raises(AlreadyExists):
        await stack.bus.call(command("test.count", "1", {"other": 1}))


async def test_bus_direct_duplicates_at_once_run_once(stack: Stack) -> None:
    both = await asyncio.gather(*(stack.bus.call(command("test.count_at_once", "1")) for _ in range(5)))
    assert STATS == {"1": 1}
    assert len({result.data for result in both}) == 1


@pytest.mark.parametrize("name", ["core.system", "test.count_at_once"])
async def test_bus_direct_duplicate_that_is_accepted_while_redis_is_asked(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Redis has the flag of a job whose result it does not have yet."""
    same = command(name, "1", {"name": "sleep", "args": ["100"]} if name == "core.system" else None)
    ask = stack.bus.link.call_patiently

    async def late(*args: Any, limit_s: float) -> Any:
        if args[0] == "EXISTS" and not STATS:
            STATS["asked"] = 1
            stack.bus.submit(same)
            await stack.bus.outbox.flushed()
        return await ask(*args, limit_s=limit_s)

    monkeypatch.setattr(stack.bus.link, "call_patiently", late)
    taken = await stack.bus.take(same, stack.bus.submit)
    assert taken is stack.manager.find("1") or STATS["1"] == 1
    stack.manager.kill("1", 9)


async def test_bus_id_of_a_job_of_the_node_is_refused(stack: Stack) -> None:
    service = stack.manager.submit(command("core.system", "svc", {"name": "sleep", "args": ["100"]}))
    await stack.push("core.ping", "svc")
    await stack.run("core.ping", "1")
    assert stack.manager.find("svc") is service
    assert stack.bus.owner("svc") == LOCAL
    await eventually(lambda: service.pid)
    service.kill(9)
    await service.result()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "5",
        '"x"',
        "\\xff",
        '{"command":"core.ping"}',
        '{"id":1}',
        '{"id":""}',
        "[" * 50000,
    ],
)
async def test_bus_bad_commands_are_counted_and_the_node_goes_on(stack: Stack, text: str) -> None:
    await stack.redis.rpush("core:default", text)
    assert (await stack.run("core.ping", "1"))["state"] == "SUCCESS"
    state = json.loads((await stack.run("core.state", "2"))["data"])
    assert state["bus"]["undecodable"] == 1
    assert state["rss"] > 1 << 20


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("bash", {}, "script"),
        ("bash", {"script": 5}, "$.script"),
        ("core.system", {"name": "x", "args": "y"}, "$.args"),
        ("core.system", {"name": "x", "env": {"A": 1}}, "$.env"),
        ("job.kill", {"id": "x", "signal": 99}, "$.signal"),
        ("process.kill", {"pid": "x"}, "$.pid"),
        ("process.list", [], "object"),
    ],
)
async def test_bus_wrong_arguments_are_400_and_named(
    stack: Stack, name: str, arguments: Any, named: str
) -> None:
    result = await stack.run(name, "1", arguments=arguments)
    assert (result["state"], result["code"]) == ("ERROR", 400)
    assert named in json.loads(result["data"])


@pytest.mark.parametrize(
    "name", ["info.os", "info.cpu", "info.mem", "info.version", "process.list", "core.help"]
)
async def test_bus_information_commands_answer_json(stack: Stack, name: str) -> None:
    result = await stack.run(name, "1")
    assert (result["state"], result["level"]) == ("SUCCESS", 20)
    assert json.loads(result["data"])


async def test_bus_process_kill_refuses_init_and_reports_a_missing_process(stack: Stack) -> None:
    refused = await stack.run("process.kill", "1", arguments={"pid": 1, "signal": 9})
    assert (refused["code"], json.loads(refused["data"])) == (400, "invalid PID")
    missing = await stack.run("process.kill", "2", arguments={"pid": 2**22 + 5, "signal": 9})
    assert missing["code"] == 404


async def test_bus_core_default_that_is_no_list_is_survived(stack: Stack) -> None:
    await stack.run("core.ping", "0")
    await stack.redis.set("core:default", "x")
    await eventually(lambda: stack.bus.link.is_open)
    await stack.redis.delete("core:default")
    assert (await stack.run("core.ping", "1"))["state"] == "SUCCESS"


async def test_outage_running_jobs_finish_and_their_results_appear(stack: Stack) -> None:
    release = stack.folder / "go"
    os.mkfifo(release)
    await stack.push("bash", "1", arguments={"script": f"echo a; cat {release}; echo b"}, stream=True)
    await eventually(lambda: (live := stack.manager.find("1")) and live.backlog)
    starts = stack.server.starts
    os.kill(stack.server.pid, signal.SIGKILL)
    fd = await asyncio.to_thread(os.open, release, os.O_WRONLY)
    os.close(fd)
    await eventually(lambda: stack.manager.find("1") is None)
    await eventually(lambda: stack.server.starts > starts)
    await stack.server.ready()
    result = await stack.result("1")
    assert result["streams"] == ["a\nb\n", ""]
    assert restarts_of_the_bus(stack) == 0
    texts = [json.loads(text)["message"]["message"] for text in await stack.redis.lrange("stream:1", 0, -1)]
    assert texts == ["a\n", "b\n", ""]
    assert await stack.redis.ttl("result:1:flag") > 0


def restarts_of_the_bus(stack: Stack) -> int:
    """What it connects again by itself has no pause of a supervisor in it: those grow to half a minute."""
    [bus] = [status for status in stack.supervisor.status() if status.name == "bus"]
    return bus.restarts


async def test_outage_a_waiting_command_is_taken_soon_afterwards(stack: Stack) -> None:
    await stack.run("core.ping", "0")
    await kill_redis(stack)
    assert (await stack.run("core.ping", "1"))["state"] == "SUCCESS"
    assert restarts_of_the_bus(stack) == 0


async def test_outage_no_popped_command_is_lost_and_none_runs_twice(stack: Stack) -> None:
    """Commands are pushed while redis is killed at random points; each has exactly one run and one result."""
    total, killed = 3000, 8
    chance = random.Random(7)

    async def push() -> None:
        for start in range(0, total, 50):
            texts = [json.dumps({"id": f"c{n}", "command": "test.count"}) for n in range(start, start + 50)]
            while True:
                try:
                    async with stack.redis.pipeline(transaction=True) as pipeline:
                        for text in texts:
                            pipeline.rpush("core:default", text)
                        await pipeline.execute()
                    break
                except (RedisError, OSError):  # pushed or not: the ids are the same
                    await asyncio.sleep(0.01)

    pushing = asyncio.create_task(push())
    for _ in range(killed):
        await asyncio.sleep(chance.uniform(0.01, 0.15))
        await kill_redis(stack)
    await pushing
    await eventually(lambda: len(STATS) == total and not stack.manager.jobs, "every command ran", 60)
    await stack.bus.outbox.flushed()
    assert set(STATS.values()) == {1}
    async with stack.redis.pipeline(transaction=False) as pipeline:
        for n in range(total):
            pipeline.llen(f"result:c{n}")
        assert set(await pipeline.execute()) == {1}
    assert await stack.redis.llen("core:pending") == 0
    assert stack.bus.outbox.dropped == 0


async def test_bus_close_writes_what_is_unsent(stack: Stack) -> None:
    await stack.run("core.ping", "0")
    stack.bus.submit(Command.make("1", "core.ping", caller=Caller("me")))
    await stack.bus.close()
    assert await stack.redis.llen("result:1") == 1


async def test_bus_id_is_that_of_the_command_and_not_one_in_its_arguments(stack: Stack) -> None:
    """Redis looks for flags by what looks like an id; commands that queue together are taken so."""
    for id in ("old", "ol\u00e9"):
        await stack.run("test.count", id)
    entries = [
        '{"arguments": {"id": "old"}, "id": "new", "command": "test.count"}',
        '{"arguments": {"id": "new2"}, "id": "old", "command": "test.count"}',
        '{"tags": ["\\"id\\": \\"x"], "id" : "new3", "command": "test.count"}',
        '{"id": "ol\\u00e9", "command": "test.count"}',
        '{"id": "n\\"\\u0000w", "command": "test.count"}',
        '{"command": "test.count"}',
        '\0"id":"old"',
        '{"id": "new4", "command": "test.count"}',
        '{"id": "new4", "command": "test.count"}',
        '{"id": "last", "command": "core.ping"}',
    ]
    await stack.supervisor.stop("bus")
    await stack.redis.rpush("core:default", *entries)
    stack.supervisor.start("bus", stack.bus.run)
    await stack.result("last")
    await eventually(lambda: not stack.manager.jobs)
    ran = {"old": 1, "ol\u00e9": 1, "new": 1, "new3": 1, 'n"\0w': 1, "new4": 1}
    assert ran == STATS
    assert await stack.redis.llen("core:pending") == 0


async def test_bus_results_are_written_while_the_queue_cannot_be_read(stack: Stack) -> None:
    await stack.run("core.ping", "0")
    await stack.redis.delete("core:default")
    await stack.redis.set("core:default", "no list")
    async with asyncio.timeout(60):
        assert (await stack.bus.call(Command.make("1", "core.ping"))).state == "SUCCESS"
        assert (await stack.result("1"))["state"] == "SUCCESS"
        await stack.redis.delete("core:default")
        assert (await stack.run("core.ping", "2"))["state"] == "SUCCESS"


async def test_bus_20000_queued_pings(stack: Stack) -> None:
    """The figure is `make bench`'s; here only that a flood is worked off, in order and completely."""
    total = 20_000
    await stack.supervisor.stop("bus")
    for start in range(0, total, 5000):
        async with stack.redis.pipeline(transaction=False) as pipeline:
            for n in range(start, start + 5000):
                pipeline.rpush("core:default", f'{{"id":"p{n}","command":"core.ping","arguments":{{}}}}')
            await pipeline.execute()
    stack.supervisor.start("bus", stack.bus.run)
    assert json.loads(await stack.redis.brpoplpush(f"result:p{total - 1}", f"result:p{total - 1}", 120))
    assert await stack.redis.dbsize() >= 2 * total


async def test_bus_full_memory_gives_up_the_oldest_results_and_no_command(tmp_path: Path) -> None:
    """Results of 3 MB are kept for 300 s: more of them than redis may hold must not hold up the queue."""
    jobs, script = 40, "head -c 3000000 /dev/zero | tr '\\0' x"
    async with running_stack(tmp_path, max_memory_bytes=48 << 20) as stack:
        async with stack.redis.pipeline(transaction=False) as pipeline:
            for number in range(jobs):
                await stack.push("bash", f"loud{number}", pipeline, arguments={"script": script}, queue="q")
                await stack.push("core.ping", f"ping{number}", pipeline, queue="q")
            await pipeline.execute()
        last = json.loads(
            await stack.redis.brpoplpush(f"result:ping{jobs - 1}", f"result:ping{jobs - 1}", 120)
        )
        assert last["state"] == "SUCCESS"
        kept = json.loads(await stack.redis.lindex(f"result:loud{jobs - 1}", 0))
        assert len(kept["streams"][0]) == 3_000_000
        assert await stack.redis.exists("result:loud0") == 0
        assert await stack.redis.llen("core:default") == 0
        assert int((await stack.redis.info("stats"))["evicted_keys"]) > 10
