"""The original suite's checks of jobs, processes and the machine, by any client of a node's gate.

docs/acceptance.md says which line is checked where; these run against an agent and inside QEMU.
"""

import base64
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import redis

DEADLINE_S = 60.0


class Client:
    """The original client's way: RPUSH, the flag, the result that can be read again."""

    def __init__(self, gate: redis.Redis) -> None:
        self.gate = gate

    def push(self, command: str, arguments: dict[str, Any] | None = None, **fields: Any) -> str:
        id = secrets.token_hex(6)
        request = {"id": id, "command": command, "arguments": arguments or {}, **fields}
        self.gate.rpush("core:default", json.dumps(request))
        flag = f"result:{id}:flag"
        assert self.gate.brpoplpush(flag, flag, 60) is not None, f"{command} was not accepted"
        return id

    def result(self, id: str) -> dict[str, Any]:
        text = self.gate.brpoplpush(f"result:{id}", f"result:{id}", 60)
        assert text is not None, f"no result of {id}"
        decoded: dict[str, Any] = json.loads(text)
        return decoded

    def run(self, command: str, arguments: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        return self.result(self.push(command, arguments, **fields))

    def json(self, command: str, **arguments: Any) -> Any:
        """The decoded data of a command that succeeds."""
        result = self.run(command, arguments)
        assert (result["state"], result["level"]) == ("SUCCESS", 20), result
        return json.loads(result["data"])

    def system(self, command: str, **fields: Any) -> str:
        name, *args = command.split()
        result = self.run("core.system", {"name": name, "args": args}, **fields)
        assert result["state"] == "SUCCESS", result
        return str(result["streams"][0])

    def records(self, id: str) -> list[dict[str, Any]]:
        """A streaming job's records up to its end."""
        found = []
        while True:
            popped = self.gate.blpop([f"stream:{id}"], 60)
            assert popped is not None, f"no end of {id}: {found}"
            found.append(json.loads(popped[1])["message"])
            if found[-1]["meta"] & 6:
                return found

    def job_ids(self) -> set[str]:
        return {row["cmd"]["id"] for row in self.json("job.list")}


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.05)


def folder_made_by_system_is_seen_by_bash(client: Client) -> None:
    folder = f"/tmp/g8-{secrets.token_hex(4)}"
    client.system(f"mkdir {folder}")
    look = {"script": f"test -d {folder} && echo there"}
    assert client.run("bash", look)["streams"][0] == "there\n"
    client.system(f"rm -rf {folder}")
    assert client.run("bash", look)["code"] == 1001


def process_is_listed_killed_and_gone(client: Client) -> None:
    id = client.push("core.system", {"name": "sleep", "args": ["12345"]})
    until(lambda: client.json("job.list", id=id)[0]["pid"] > 0, "the process")
    pid = client.json("job.list", id=id)[0]["pid"]
    (row,) = client.json("process.list", pid=pid)
    assert row["cmdline"].split()[-1] == "12345"
    assert pid in {each["pid"] for each in client.json("process.list")}
    assert client.json("process.kill", pid=pid, signal=9) is None
    result = client.result(id)
    assert (result["state"], result["code"]) == ("ERROR", 999)
    until(lambda: client.json("process.list", pid=pid) == [], "the end of the process")
    assert client.run("process.kill", {"pid": 1, "signal": 9})["state"] == "ERROR"


def job_is_listed_with_its_arguments_killed_and_gone(client: Client) -> None:
    script = "sleep 12346 & sleep 12346"
    id = client.push("bash", {"script": script}, tags=["a", "b"])
    (row,) = client.json("job.list", id=id)
    assert row["cmd"]["arguments"]["script"] == script
    assert row["cmd"]["tags"] == ["a", "b"]
    assert id in client.job_ids()
    until(lambda: client.json("job.kill", id=id, signal=15) is True, "a signal that is taken")
    assert client.result(id)["state"] == "ERROR"
    assert id not in client.job_ids()
    rows = client.json("process.list")
    assert not [each for each in rows if each["cmdline"].endswith("sleep 12346")], "the whole tree ends"
    assert client.json("job.kill", id=id) is False


def interrupted_job_is_an_error(client: Client) -> None:
    id = client.push("core.system", {"name": "sleep", "args": ["12347"]})
    until(lambda: client.json("job.list", id=id)[0]["pid"] > 0, "the process")
    assert client.json("job.kill", id=id, signal=2) is True
    assert client.result(id)["state"] == "ERROR"


def job_over_its_time_is_a_timeout(client: Client) -> None:
    result = client.run("core.system", {"name": "sleep", "args": ["12348"]}, max_time=1)
    assert result["state"] == "TIMEOUT"
    assert result["time"] >= 900


def stdin_comes_back_exactly(client: Client) -> None:
    text = "é\n\n  two 2x::y\0end"
    result = client.run("core.system", {"name": "cat", "stdin": text})
    assert result["streams"] == [text, ""]


def result_is_read_twice_and_failures_have_codes(client: Client) -> None:
    id = client.push("core.ping")
    first, second = client.result(id), client.result(id)
    assert first == second
    assert json.loads(first["data"]).startswith("PONG")
    assert client.run("bash", {"script": "exit 7"})["code"] == 1007
    assert client.run("core.system", {"name": "no-such-program"})["code"] == 404
    assert client.run("no.such.command")["state"] == "UNKNOWN_CMD"
    assert client.run("filesystem.open", {"file": "/no/such", "mode": "r"})["code"] == 404
    assert client.gate.exists("result:g8-unknown:flag") == 0


def failing_builtin_runs_so_often(client: Client) -> None:
    id = client.push("filesystem.read", {"fd": "0-0"}, max_restart=3, stream=True)
    assert client.result(id)["state"] == "ERROR"
    ends = [json.loads(text)["message"] for text in client.gate.lrange(f"stream:{id}", 0, -1)]
    assert [end["meta"] for end in ends] == [20 << 16 | 5] * 3


def recurring_job_runs_until_it_is_unscheduled(client: Client) -> None:
    id = client.push("bash", {"script": "echo again"}, recurring_period=1, stream=True)
    key = f"stream:{id}"
    until(lambda: int(client.gate.llen(key)) >= 6, "three runs, two records each")
    assert client.json("job.unschedule", id=id) is True
    assert client.result(id)["state"] == "SUCCESS"
    assert id not in client.job_ids()


def levels_go_where_they_belong(client: Client) -> None:
    gate = f"/tmp/g8-{secrets.token_hex(4)}"
    client.system(f"mkfifo {gate}")
    script = f"read x <{gate}; echo out; echo err >&2; echo 3::public; echo 9::bad; echo 20::1"
    target = client.push("bash", {"script": script}, stream=True)
    follower = client.push("core.subscribe", {"id": target}, stream=True)
    client.run("bash", {"script": f"echo go >{gate}; rm {gate}"})
    result = client.result(target)
    assert (result["streams"], result["data"], result["level"]) == (["out\n", "err\n"], "1\n", 20)
    assert result["critical"] == "bad\n"
    heard = client.records(follower)
    assert {(each["meta"] >> 16, each["message"]) for each in heard} >= {
        (1, "out\n"),
        (2, "err\n"),
        (3, "public\n"),
        (9, "bad\n"),
    }
    assert client.result(follower)["state"] == "SUCCESS"


def subscriber_of_a_killed_job_gets_its_end(client: Client) -> None:
    queue = client.json("logger.subscribe", queue=f"g8-{secrets.token_hex(4)}", levels=[3])
    target = client.push("core.system", {"name": "sleep", "args": ["12349"]}, stream=True)
    follower = client.push("core.subscribe", {"id": target}, stream=True)
    until(lambda: client.json("job.list", id=target)[0]["pid"] > 0, "the process")
    client.json("job.kill", id=target, signal=9)
    assert client.records(target)[-1]["meta"] & 4
    assert client.records(follower)[-1]["meta"] & 4

    def ended() -> bool:
        records = [json.loads(text) for text in client.gate.lrange(queue, 0, -1)]
        return any(each["command"] == target and each["message"]["meta"] & 4 for each in records)

    until(ended, "the end record of the logger")
    client.json("logger.unsubscribe", queue=queue)


def information_agrees_with_the_kernel(client: Client) -> None:
    facts = client.json("info.os")
    assert facts["kernelVersion"] == client.system("uname -r").strip()
    assert facts["hostname"] == client.system("cat /proc/sys/kernel/hostname").strip()
    seen = client.system("cat /proc/meminfo")
    total_kb = int(seen.partition("MemTotal:")[2].split()[0])
    assert client.json("info.mem")["total"] == total_kb * 1024
    processors = client.system("cat /proc/cpuinfo")
    assert len(client.json("info.cpu")) == processors.count("processor\t:")
    nics = {row["name"]: row for row in client.json("info.nic")}
    for line in client.system("cat /proc/net/dev").splitlines()[2:]:
        name = line.partition(":")[0].strip()
        assert nics[name]["mtu"] == int(client.system(f"cat /sys/class/net/{name}/mtu"))


def uploaded_file_comes_back_whole(client: Client) -> None:
    path, data = f"/tmp/g8-{secrets.token_hex(4)}", secrets.token_bytes(700_000)
    handle = client.json("filesystem.open", file=path, mode="w+")
    for at in range(0, len(data), 512 << 10):
        client.json(
            "filesystem.write", fd=handle, block=base64.b64encode(data[at : at + (512 << 10)]).decode()
        )
    client.json("filesystem.close", fd=handle)
    handle, got = client.json("filesystem.open", file=path, mode="r"), b""
    while block := client.json("filesystem.read", fd=handle):
        got += base64.b64decode(block)
    client.json("filesystem.close", fd=handle)
    assert got == data
    client.json("filesystem.remove", path=path)
    assert client.json("filesystem.exists", path=path) is False


def jobs_of_a_queue_run_in_order(client: Client) -> None:
    path = f"/tmp/g8-{secrets.token_hex(4)}"
    ids = [
        client.push(
            "bash", {"script": f"echo begin {n} >>{path}; sleep 0.1; echo end {n} >>{path}"}, queue="q"
        )
        for n in range(3)
    ]
    for id in ids:
        assert client.result(id)["state"] == "SUCCESS"
    lines = client.system(f"cat {path}").splitlines()
    assert lines == [f"{what} {n}" for n in range(3) for what in ("begin", "end")]
    client.json("filesystem.remove", path=path)


SCENARIOS: tuple[Callable[[Client], None], ...] = (
    folder_made_by_system_is_seen_by_bash,
    process_is_listed_killed_and_gone,
    job_is_listed_with_its_arguments_killed_and_gone,
    interrupted_job_is_an_error,
    job_over_its_time_is_a_timeout,
    stdin_comes_back_exactly,
    result_is_read_twice_and_failures_have_codes,
    failing_builtin_runs_so_often,
    recurring_job_runs_until_it_is_unscheduled,
    levels_go_where_they_belong,
    subscriber_of_a_killed_job_gets_its_end,
    information_agrees_with_the_kernel,
    uploaded_file_comes_back_whole,
    jobs_of_a_queue_run_in_order,
)
