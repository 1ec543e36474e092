"""The gate with real clients: authentication, allow-list, direct commands, thousands of waiters."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from g8node.jobs import gate as gates
from g8node.jobs import identity
from g8node.jobs.link import Link
from g8node.jobs.waiters import Waiters
from tests.support.redis import PASSWORD, Stack, eventually, running_stack

ALLOWED = {
    "ping", "echo", "hello", "auth", "select", "quit", "rpush", "blpop", "brpoplpush", "rpoplpush", "lrange",
    "llen", "exists", "ttl",
}  # fmt: skip

ANSWERED_HERE = {"client|id", "client|getname", "client|setname", "client|setinfo", "command|docs"}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        await stack.open_gate()
        yield stack


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate waits for a redis that starts again for as long as a busy machine needs."""
    monkeypatch.setattr(gates, "_PATIENCE_S", 60.0)


def port(stack: Stack) -> int:
    assert stack.gate is not None
    return stack.gate.port


async def cli(stack: Stack, *words: str, password: str = PASSWORD) -> str:
    """What redis-cli prints."""

    def run() -> str:
        argv = ["redis-cli", "-p", str(port(stack)), *words]
        env = os.environ | {"REDISCLI_AUTH": password}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)
        return (done.stdout + done.stderr).strip()

    return await asyncio.to_thread(run)


async def cli_list(stack: Stack) -> str:
    """The real server's COMMAND LIST (redis-py cannot parse it)."""

    def run() -> str:
        argv = ["redis-cli", "-s", stack.socket, "COMMAND", "LIST"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    return await asyncio.to_thread(run)


async def raw(stack: Stack, data: bytes, *, until: bytes = b"") -> bytes:
    """Send bytes, read until the gate hangs up or has said `until`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(stack))
    try:
        writer.write(data)
        got = b""
        async with asyncio.timeout(120):
            with contextlib.suppress(ConnectionResetError):  # it hung up on what it had not read
                while not until or until not in got:
                    if not (piece := await reader.read(65536)):
                        break
                    got += piece
        return got
    finally:
        writer.close()


async def test_gate_original_client_s_sequence(stack: Stack) -> None:
    client = stack.client()
    await client.rpush("core:default", '{"id":"1","command":"core.ping","arguments":{}}')
    assert await client.brpoplpush("result:1:flag", "result:1:flag", 60) == ""
    assert await client.exists("result:1:flag") == 1
    for _ in range(2):
        result = json.loads(await client.brpoplpush("result:1", "result:1", 60))
        assert json.loads(result["data"]).startswith("PONG")
    assert 200 < await client.ttl("result:1:flag") <= 300
    assert await client.llen("result:1") == 1
    assert json.loads((await client.lrange("result:1", 0, -1))[0]) == result
    assert await client.rpoplpush("result:1", "result:1")


async def test_gate_sequence_with_redis_cli(stack: Stack) -> None:
    pushed = await cli(stack, "RPUSH", "core:default", '{"id":"1","command":"core.ping","arguments":{}}')
    assert pushed == "1"
    result = json.loads(await cli(stack, "BRPOPLPUSH", "result:1", "result:1", "60"))
    assert result["state"] == "SUCCESS"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_gate_speaks_both_protocols(stack: Stack, protocol: int) -> None:
    client = stack.client(protocol=protocol)
    assert await client.ping()
    assert await client.echo("hi") == "hi"
    assert await client.blpop(["stream:none"], timeout=0.05) is None
    assert (await stack.run("core.ping", "1", client))["state"] == "SUCCESS"


async def test_gate_direct_commands_answer_at_once(stack: Stack) -> None:
    assert json.loads(await cli(stack, "core.ping")).startswith("PONG")
    assert len(json.loads(await cli(stack, "info.cpu"))) == os.cpu_count()
    result = json.loads(await cli(stack, "bash", 'script="ls /"'))
    assert "usr" in result["streams"][0].split()
    assert await cli(stack, "bash", "--text", "script=echo $((6*7))") == "42"
    assert json.loads(await cli(stack, "core.system", '{"name":"false"}'))["code"] == 1001
    assert await cli(stack, "job.kill", "id=none") == "false"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["bash"], "ERR 400 arguments: Object missing required field `script`"),
        (["bash", "scrip=x"], "ERR 400 bash: unknown argument 'scrip' (expected script, stdin)"),
        (["bash", "ls"], "ERR 400 bash: expected key=value or one JSON object, not 'ls'"),
        (["bash", "--nope", "x"], "ERR 400 unknown option --nope"),
        (["core.subscribe", "id=none"], "ERR 404 job 'none' does not exist"),
        (["process.kill", "pid=1"], "ERR 400 invalid PID"),
        (["no.such"], "NOPERM 'no.such' is no command of this node (core.help lists them)"),
    ],
)
async def test_gate_direct_errors_name_the_thing(stack: Stack, words: list[str], error: str) -> None:
    assert (await cli(stack, *words)).startswith(error)


async def test_gate_direct_id_is_exactly_once(stack: Stack) -> None:
    script = f"script=echo x >>{stack.folder}/ran"
    first = await cli(stack, "bash", "--id=7", script)
    assert json.loads(first)["id"] == "7"
    assert await cli(stack, "bash", "--id=7", script) == first
    assert (stack.folder / "ran").read_text() == "x\n"
    assert (await cli(stack, "bash", "--id=7", "script=true")).startswith("DUPLICATE")
    assert json.loads(await stack.redis.lindex("result:7", 0)) == json.loads(first)


@pytest.mark.parametrize(
    ("entry", "named"),
    [("{", "JSON"), ("", "JSON"), ('{"command":"core.ping"}', "without id"), ('{"id":5}', "$.id")],
)
async def test_gate_rpush_of_a_bad_command_fails_and_pushes_nothing(
    stack: Stack, entry: str, named: str
) -> None:
    with pytest.raises(ResponseError, match=r"^400 ") as raised:
        await stack.client().rpush("core:default", '{"id":"good","command":"core.ping"}', entry)
    assert named in str(raised.value)
    await stack.run("core.ping", "1")
    assert await stack.redis.exists("result:good") == 0
    assert stack.bus.undecodable == 0


async def test_gate_rpush_stamps_the_caller(stack: Stack) -> None:
    client = stack.client()
    forged = {"caller": {"name": "root", "role": "admin"}, "arguments": {"script": "read x"}}
    await stack.push(
        "core.system", "1", client, **(forged | {"arguments": {"name": "sleep", "args": ["99"]}})
    )
    await eventually(lambda: stack.manager.find("1"))
    live = stack.manager.find("1")
    assert live is not None
    assert live.request.caller is not None
    assert live.request.caller.name == "password"
    assert stack.bus.owner("1") == live.request.caller
    await eventually(lambda: live.pid)
    live.kill(9)
    await live.result()


async def test_gate_allow_list_against_redis_s_own_command_list(stack: Stack) -> None:
    """Each command of the real server is either on the allow-list or NOPERM, whatever its arguments."""
    client = stack.client()
    names = sorted((await cli_list(stack)).split())
    assert len(names) > 200
    offenders = []
    for name in (name for name in names if name not in ALLOWED | ANSWERED_HERE):
        for args in ([], ["result:1"], ["core:default", "x"], ["result:1", "result:1", "1"]):
            try:
                answer: Any = await client.execute_command(*name.upper().split("|"), *args)
            except NoPermissionError:
                continue
            except ResponseError as error:
                answer = error
            offenders.append((name, args, answer))
    assert offenders == []


@pytest.mark.parametrize(
    "words",
    [
        ["RPUSH", "result:1", '{"id":"1"}'],
        ["RPUSH", "core:pending", '{"id":"1"}'],
        ["LLEN", "core:default"],
        ["LRANGE", "core:pending", "0", "-1"],
        ["BLPOP", "core:default", "1"],
        ["BLPOP", "result:1", "core:default", "1"],
        ["BRPOPLPUSH", "result:1", "core:default", "1"],
        ["RPOPLPUSH", "result:1", "stream:1"],
        ["EXISTS", "result:1", "core:outbox"],
        ["TTL", "core:outbox"],
        ["SELECT", "1"],
        ["CLIENT", "LIST"],
        ["CLIENT", "KILL", "ID", "1"],
        ["COMMAND"],
        ["CONFIG", "GET", "*"],
        ["EVAL", "return 1", "0"],
    ],
)
async def test_gate_what_is_not_allowed_is_noperm(stack: Stack, words: list[str]) -> None:
    with pytest.raises(NoPermissionError):
        await stack.client().execute_command(*words)


async def test_gate_arity_and_timeouts_are_checked(stack: Stack) -> None:
    client = stack.client()
    for words in (
        ["LRANGE", "result:1"],
        ["BLPOP", "result:1"],
        ["BLPOP", "result:1", "x"],
        ["TTL", "result:1", "2"],
    ):
        with pytest.raises(ResponseError, match=r"^400 "):
            await client.execute_command(*words)
    with pytest.raises(ResponseError, match="negative"):
        await client.execute_command("BLPOP", "result:1", "-1")


@pytest.mark.parametrize("password", ["wrong", "", PASSWORD + "x", PASSWORD[:-1]])
async def test_gate_wrong_password_is_refused(stack: Stack, password: str) -> None:
    answer = await raw(
        stack, b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(password), password.encode()), until=b"\r\n"
    )
    assert answer.startswith(b"-WRONGPASS")


async def test_gate_accepts_the_ways_to_authenticate(stack: Stack) -> None:
    password = PASSWORD.encode()
    for words in (
        b'AUTH "%b"' % password,
        b'AUTH default "%b"' % password,
        b'HELLO 3 AUTH default "%b" SETNAME me' % password,
    ):
        answer = await raw(stack, words + b"\r\nPING\r\nQUIT\r\n")
        assert answer.endswith(b"+PONG\r\n+OK\r\n")


async def test_gate_before_auth_nothing_but_auth(stack: Stack) -> None:
    for words in (b"PING", b"core.ping", b"CLIENT ID", b"EXISTS result:1", b"HELLO 3", b"no.such"):
        assert (await raw(stack, words + b"\r\n", until=b"\r\n")).startswith(b"-NOAUTH")
    with pytest.raises(AuthenticationError):
        await stack.client(password=None).ping()


@pytest.mark.parametrize("data", [b"*100\r\n", b"*1\r\n$20000\r\n", b"a" * 70_000, b"*1\r\n$-5\r\n"])
async def test_gate_before_auth_limits_are_small(stack: Stack, data: bytes) -> None:
    assert b"Protocol error" in await raw(stack, data)


async def test_gate_guessing_is_slowed_down(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still, for however long the attempts need to arrive."""
    monkeypatch.setattr(identity, "time", SimpleNamespace(monotonic=lambda: 100.0, time=time.time))
    for _ in range(5):
        assert (await raw(stack, b"AUTH wrong\r\n", until=b"\r\n")).startswith(b"-WRONGPASS")
    answers = await asyncio.gather(*(raw(stack, b"AUTH wrong\r\n", until=b"\r\n") for _ in range(12)))
    assert sum(answer.startswith(b"-ERR too many") for answer in answers) == 6


async def test_gate_client_limit(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        await stack.open_gate(max_clients=2)
        clients = [stack.client(single_connection_client=True) for _ in range(2)]
        for client in clients:
            assert await client.ping()
        assert b"max number of clients" in await raw(stack, b"PING\r\n")
        await clients[0].aclose()
        await eventually(lambda: stack.gate is not None and stack.gate.state()["clients"] == 1)
        assert await cli(stack, "PING") == "PONG"


async def test_gate_without_password_serves_only_loopback(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        missing = str(tmp_path / "none")
        gate = await stack.open_gate(password_file=missing, listen="0.0.0.0:0")
        assert gate.port == 0
        gate = await stack.open_gate(password_file=missing)
        assert await cli(stack, "PING") == "PONG"
        assert await cli(stack, "EXISTS", "result:1", password="anything") == "0"


async def test_gate_2000_blocked_clients_do_not_starve_each_other(stack: Stack) -> None:
    total = 2000
    auth = b'AUTH "%b"\r\n' % PASSWORD.encode()

    async def wait(number: int) -> bytes:
        return await raw(
            stack, auth + b"BRPOPLPUSH result:w%d result:w%d 120\r\n" % (number, number), until=b"}\r\n"
        )

    waiting = [asyncio.create_task(wait(number)) for number in range(total)]
    await eventually(lambda: stack.gate is not None and stack.gate.state()["clients"] == total)
    assert json.loads(await cli(stack, "core.ping")).startswith("PONG")
    assert int((await stack.redis.info("clients"))["connected_clients"]) < 10
    async with stack.redis.pipeline(transaction=False) as pipeline:
        for number in reversed(range(total)):
            pipeline.rpush("core:default", f'{{"id":"w{number}","command":"core.ping"}}')
        await pipeline.execute()
    answers = await asyncio.gather(*waiting)
    assert all(b"SUCCESS" in answer for answer in answers)


@pytest.mark.usefixtures("patience")
async def test_gate_blocked_clients_survive_the_death_of_redis(stack: Stack) -> None:
    client = stack.client()
    waiting = asyncio.create_task(client.brpoplpush("result:1", "result:1", 60))
    await eventually(lambda: stack.gate is not None and stack.gate.state()["clients"] == 1)
    starts = stack.server.starts
    os.kill(stack.server.pid, signal.SIGKILL)
    await eventually(lambda: stack.server.starts > starts)
    await stack.push("core.ping", "1", stack.client())
    assert json.loads(await waiting)["state"] == "SUCCESS"


async def cut_off(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: str, mark: bytes
) -> None:
    """Between a client and redis: breaks the connection instead of passing on an answer that has the mark."""
    to_reader, to_writer = await asyncio.open_unix_connection(socket)

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter, stop: bytes) -> None:
        while (data := await source.read(65536)) and not (stop and stop in data):
            target.write(data)
        writer.transport.abort()
        to_writer.transport.abort()

    with contextlib.suppress(ConnectionError):
        await asyncio.gather(forward(reader, to_writer, b""), forward(to_reader, writer, mark))


@pytest.mark.parametrize("times", [1, 3])
async def test_gate_blpop_whose_answer_is_lost_does_not_lose_the_element(stack: Stack, times: int) -> None:
    """Redis has popped it and the connection breaks: asked again, it answers with the same element."""
    path, left = f"{stack.folder}/relay.sock", times

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        left -= 1
        await cut_off(reader, writer, stack.socket, b"precious" if left >= 0 else b"")

    link = Link(path)
    async with await asyncio.start_unix_server(relay, path) as server:
        await stack.redis.rpush("stream:b", "precious", "second")
        waiters = Waiters(link)
        keys = ["stream:a", "stream:b"]
        found = await waiters.pop(keys, [key.encode() for key in keys], 60)
        assert (found, left) == ([b"stream:b", b"precious"], -1)
        assert await stack.redis.lrange("stream:b", 0, -1) == ["second"]
        assert await waiters.pop(keys, [key.encode() for key in keys], 60) == [b"stream:b", b"second"]
        await link.call("PING")  # the tokens are given back before it
        assert await stack.redis.keys("core:popped:*") == []
        await link.close()
        server.close()


async def test_gate_stream_is_followed_with_blpop(stack: Stack) -> None:
    client = stack.client()
    heard_it = stack.folder / "heard"
    os.mkfifo(heard_it)
    script = (
        f"for n in 1 2 3; do echo $n; cat {heard_it}; done"  # lines that are read at once are one message
    )
    await stack.push("bash", "1", client, arguments={"script": script}, stream=True)
    heard: list[str] = []
    while True:
        _, text = await client.blpop(["stream:1"], timeout=60)
        message = json.loads(text)["message"]
        heard.append(message["message"])
        if message["message"]:
            os.close(await asyncio.to_thread(os.open, heard_it, os.O_WRONLY))
        if message["meta"] & 6:
            break
    assert heard == ["1\n", "2\n", "3\n", ""]


async def test_gate_disconnected_waiter_is_forgotten(stack: Stack) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(stack))
    writer.write(b'AUTH "%b"\r\nBLPOP result:x 0\r\n' % PASSWORD.encode())
    assert await reader.readline() == b"+OK\r\n"
    assert stack.gate is not None
    waiters = stack.gate._waiters
    await eventually(lambda: waiters._by_key)
    writer.close()
    await eventually(lambda: not waiters._by_key)


async def test_gate_pipelined_requests_are_answered_in_order(stack: Stack) -> None:
    requests = b"".join(b"ECHO %d\r\n" % number for number in range(2000))
    answer = await raw(stack, b'AUTH "%b"\r\n' % PASSWORD.encode() + requests + b"QUIT\r\n")
    assert answer.split(b"\r\n")[2:-2:2] == [b"%d" % number for number in range(2000)]


async def test_gate_many_requests_at_once_leave_the_others_their_turn(stack: Stack) -> None:
    count, taken = 60_000, 0

    async def take_turns() -> None:
        nonlocal taken
        while True:
            await asyncio.sleep(0)
            taken += 1

    reader, writer = await asyncio.open_connection("127.0.0.1", port(stack))
    turns = asyncio.create_task(take_turns())
    try:
        writer.write(f'AUTH "{PASSWORD}"\r\n'.encode() + b"PING\r\n" * count + b"QUIT\r\n")
        async with asyncio.timeout(120):
            assert await reader.read() == b"+OK\r\n" + b"+PONG\r\n" * count + b"+OK\r\n"
    finally:
        turns.cancel()
        writer.close()
    assert taken > count / 100  # fewer than a hundred requests from one turn to the next


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-1", ""])
async def test_gate_direct_option_of_no_number_is_refused(stack: Stack, number: str) -> None:
    with pytest.raises(ResponseError, match="--max_time: expected a number"):
        await stack.client().execute_command("core.ping", f"--max_time={number}")


async def replies(stack: Stack, count: int, data: bytes) -> list[Any]:
    """AUTH, then data in one write: the answers to data, decoded; errors as their texts."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(stack))
    decoder, found = hiredis.Reader(replyError=str), list[Any]()
    try:
        writer.write(resp("AUTH", PASSWORD) + data)
        async with asyncio.timeout(120):
            while len(found) <= count:
                decoder.feed(await reader.read(65536))
                while (reply := decoder.gets()) is not False:
                    found.append(reply)
        return found[1:]
    finally:
        writer.close()


def resp(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words)


async def test_gate_pipeline_of_every_kind_of_request_keeps_its_order(stack: Stack) -> None:
    """Reads that travel together, answers of the gate itself, refusals, jobs and waits, in one write."""
    await stack.redis.rpush("result:a", "one", "two")
    requests: list[tuple[str, object]] = [
        ("LRANGE result:a 0 -1", [b"one", b"two"]),
        ("LLEN result:a", 2),
        ("GET result:a", "NOPERM 'GET' is no command of this node (core.help lists them)"),
        ("LRANGE result:a x y", "ERR value is not an integer or out of range"),
        ("PING between", b"between"),
        ("EXISTS result:a result:none", 1),
        ("RPOPLPUSH result:a result:a", b"two"),
        ("BRPOPLPUSH result:a result:a 60", b"one"),
        ("TTL result:a", -1),
        ("LLEN core:default", "NOPERM no permission to access key 'core:default'"),
        ("LKEYEXISTS result:a", 1),
    ]
    data = b"".join(resp(*words.split()) for words, _ in requests) * 100
    assert await replies(stack, 1100, data) == [answer for _, answer in requests] * 100


async def test_gate_long_pipelines_of_reads_are_answered_whole_and_in_order(stack: Stack) -> None:
    await stack.redis.rpush("result:a", *range(1000))
    data = b"".join(resp("LRANGE", "result:a", str(n % 1000), str(n % 1000)) for n in range(20_000))
    assert await replies(stack, 20_000, data) == [[b"%d" % (n % 1000)] for n in range(20_000)]


@pytest.mark.usefixtures("patience")
async def test_gate_pipeline_under_way_survives_the_death_of_redis(stack: Stack) -> None:
    await stack.redis.rpush("result:a", "one")
    os.kill(stack.server.pid, signal.SIGSTOP)  # so that the questions are with it when it dies
    asking = asyncio.create_task(replies(stack, 500, resp("LRANGE", "result:a", "0", "0") * 500))
    gate = stack.gate
    await eventually(lambda: gate is not None and gate._link.is_open and gate._link.under_way)
    os.kill(stack.server.pid, signal.SIGKILL)
    assert await asking == [[b"one"]] * 500
