"""`g8` and the client library against the whole daemon in agent mode."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument, PermissionDenied, Unavailable
from g8tools.g8.aio import Client, JobNotFoundError, Message, ResultError
from tests.support.daemon import Daemon, daemon
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish

TOP = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tree = busybox_tree(tmp_path_factory.mktemp("tree") / "root")
    with hub(tmp_path_factory.mktemp("hub")) as images:
        yield publish(images, tree, "busybox")


def connect(node: Daemon) -> Client:
    return Client("127.0.0.1", node.port, node.password, ssl=False, timeout=60)


def g8(node: Daemon, *words: str, code: int = 0, input: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "g8tools.g8", *words]
    env = {
        "PATH": "/usr/bin:/bin",
        "G8_NODE": f"127.0.0.1:{node.port}",
        "G8_PASSWORD_FILE": str(node.folder / "password"),
    }
    done = subprocess.run(
        argv, cwd=TOP, env=env, input=input, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


async def test_ping(node: Daemon) -> None:
    async with connect(node) as client:
        assert (await client.ping()).startswith("PONG Version: ")


async def test_result_can_be_read_again(node: Daemon) -> None:
    async with connect(node) as client:
        response = await client.bash("echo out; echo err >&2; exit 3", tags=["a"])
        first, second = await response.get(), await client.response_for(response.id).get()
        assert first == second
        assert (first.stdout, first.stderr, first.code, first.state) == ("out\n", "err\n", 1003, "ERROR")
        assert first.tags == ["a"]
        with pytest.raises(ResultError) as caught:
            first.checked()
        assert caught.value.code == 1003


async def test_output_is_streamed_in_order(node: Daemon) -> None:
    async with connect(node) as client:
        response = await client.bash("echo one; echo 3::two; echo three", stream=True)
        messages = [message async for message in response.messages()]
        assert "".join(message.text for message in messages) == "one\ntwo\nthree\n"
        assert Message(3, "two\n", 1) in messages
        assert messages[-1].flags & 2
        assert (await response.get()).state == "SUCCESS"


async def test_system_splits_like_a_shell_and_passes_stdin(node: Daemon) -> None:
    async with connect(node) as client:
        response = await client.system("sh -c 'cat; echo \"$WORD\"'", stdin="in ", env={"WORD": "a b"})
        assert (await response.get()).checked().stdout == "in a b\n"


async def test_result_that_is_late_is_a_timeout_and_the_job_lives(node: Daemon) -> None:
    async with connect(node) as client:
        response = await client.system("sleep 600")
        assert await response.running
        with pytest.raises(TimeoutError):
            await response.get(timeout=0.5)
        await client.sync("job.kill", {"id": response.id, "signal": 9})
        assert (await response.get()).state != "SUCCESS"
        assert not await response.running


async def test_max_time_ends_a_job(node: Daemon) -> None:
    async with connect(node) as client:
        response = await client.system("sleep 600", max_time=1)
        assert (await response.get()).state == "TIMEOUT"


async def test_jobs_of_one_queue_run_one_after_another(node: Daemon, tmp_path: Path) -> None:
    async with connect(node) as client:
        out = tmp_path / "order"
        script = f"echo begin >>{out}; sleep 0.2; echo end >>{out}"
        responses = [await client.bash(script, queue="one") for _ in range(3)]
        await asyncio.gather(*(response.get() for response in responses))
        assert out.read_text() == "begin\nend\n" * 3


async def test_many_jobs_over_one_client(node: Daemon) -> None:
    async with connect(node) as client:
        responses = await asyncio.gather(*(client.bash(f"echo {n}") for n in range(30)))
        results = await asyncio.gather(*(response.get() for response in responses))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(30)]


async def test_unknown_job_is_told(node: Daemon) -> None:
    async with connect(node) as client:
        with pytest.raises(JobNotFoundError):
            await client.response_for("never-was").get()


async def test_unknown_command_is_told(node: Daemon) -> None:
    async with connect(node) as client:
        with pytest.raises((ResultError, InvalidArgument), match=r"no\.such"):
            await client.sync("no.such", {})


async def test_direct_call_answers_at_once(node: Daemon) -> None:
    async with connect(node) as client:
        assert json.loads(await client.direct("core.ping", {})).startswith("PONG")


async def test_wrong_password_is_refused(node: Daemon) -> None:
    async with Client("127.0.0.1", node.port, "wrong", ssl=False) as client:
        with pytest.raises(PermissionDenied):
            await client.ping()


async def test_node_that_is_not_there() -> None:
    async with Client("127.0.0.1", 1, ssl=False) as client:
        with pytest.raises(Unavailable, match=r"node 127\.0\.0\.1:1: "):
            await client.ping()


def test_g8_ping(node: Daemon) -> None:
    assert g8(node, "ping").stdout.startswith("PONG Version: ")
    assert json.loads(g8(node, "ping", "--json").stdout).startswith("PONG")


def test_g8_run_has_output_and_exit_status_of_the_program(node: Daemon) -> None:
    done = g8(node, "run", "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert g8(node, "run", "echo", "--json", "-x").stdout == "--json -x\n"


def test_g8_run_of_a_missing_program_is_127(node: Daemon) -> None:
    done = g8(node, "run", "/no/such/program", code=127)
    assert done.stderr.count("/no/such/program") == 1


def test_g8_run_over_its_time_says_so(node: Daemon) -> None:
    done = g8(node, "run", "--max-time", "1", "--", "sleep", "600", code=137)
    assert done.stderr == "g8: core.system: TIMEOUT: ended by the node\n"


def test_g8_run_that_is_killed_is_137(node: Daemon) -> None:
    g8(node, "run", "--", "sh", "-c", "kill -9 $$", code=137)


def test_g8_raw_prints_the_data(node: Daemon) -> None:
    assert json.loads(g8(node, "raw", "info.os").stdout)["os"]
    assert g8(node, "raw", "bash", "script=echo hi").stdout == "hi\n"
    assert "no.such" in g8(node, "raw", "no.such", code=100).stderr


def test_g8_lists_jobs(node: Daemon) -> None:
    lines = g8(node, "job", "list").stdout.splitlines()
    assert lines[0].split() == ["ID", "COMMAND", "PID", "AGE", "RSS", "TAGS"]
    jobs = json.loads(g8(node, "job", "list", "--json").stdout)
    assert "job.list" in [job["cmd"]["command"] for job in jobs]


def test_g8_containers(node: Daemon, busybox: str) -> None:
    create = (
        "container",
        "create",
        busybox,
        "--name",
        "web",
        "--host-network",
        "--env",
        "A=b c",
        "--tag",
        "t",
        "--volume",
        "db=/srv,size=16M",
    )
    container = g8(node, *create).stdout.strip()
    rows = g8(node, "container", "list").stdout.splitlines()
    assert [container, "web"] == rows[1].split()[:2]
    assert busybox in rows[1]
    run = g8(
        node, "container", "exec", container, "--", "sh", "-c", "echo $A; head -c 3 /data/0; exit 4", code=4
    )
    assert run.stdout == "b c\nAAA"
    talk = g8(node, "container", "exec", "-i", container, "--", "cat", input="typed\n")
    assert talk.stdout == "typed\n"
    assert "cpu" in g8(node, "container", "stats", container).stdout
    assert g8(node, "container", "logs", container).stdout == ""
    assert g8(node, "volume", "list").stdout.splitlines()[1].split() == ["db", "16.0", "MiB", container]
    assert "used" in g8(node, "volume", "inspect", "db").stdout
    assert "409" in g8(node, "volume", "remove", "db", "--json", code=100).stdout
    g8(node, "container", "terminate", container)
    assert container not in json.loads(g8(node, "container", "list", "--json").stdout)
    g8(node, "volume", "remove", "db")
    assert g8(node, "volume", "create", "more").stdout == "more\n"
    assert [row["name"] for row in json.loads(g8(node, "volume", "list", "--json").stdout)] == ["more"]


async def test_client_in_a_container(node: Daemon, busybox: str) -> None:
    async with connect(node) as client:
        container = await (await client.container.create(busybox, host_network=True, tags=["lib"])).get(60)
        try:
            inside = client.container.client(container)
            response = await inside.system("sh -c 'cat /data/1 | wc -c'", stream=True)
            texts = [message.text async for message in response.messages()]
            result = await response.get()
            assert "".join(texts) == result.stdout == f"{(2 << 20) + 3}\n"
            assert result.container == container
            assert (await inside.ping()).startswith("PONG")
            found = await client.container.get(container)
            assert found["id"] == container
        finally:
            await client.container.terminate(container)
        assert await client.container.get(container) is None
