"""Logs, statistics and metrics of a whole agent, over its gate."""

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from g8tools.up.vm import free_port
from tests.support.daemon import Daemon, daemon

pytestmark = pytest.mark.root

DEADLINE_S = 60.0


class Measured:
    """An agent that measures every second, and where its metrics page is."""

    def __init__(self, agent: Daemon, port: int) -> None:
        self.agent = agent
        self.port = port

    def page(self, method: str = "GET", path: str = "/metrics") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    port = free_port()
    config = f'[stats]\nperiod_s = 1\nlisten = "127.0.0.1:{port}"\n[logging.ledis]\nsize = 2000\n'
    with daemon(tmp_path_factory.mktemp("agent"), config) as running:
        yield Measured(running, port)


@pytest.fixture
def agent(measured: Measured) -> Daemon:
    return measured.agent


def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what or condition}"
        time.sleep(0.02)
    return value


def records(agent: Daemon, key: str, job: str) -> list[dict[str, Any]]:
    """What the list has of one job, up to its end record."""
    with agent.gate() as gate:

        def whole() -> list[dict[str, Any]]:
            found = [json.loads(text) for text in gate.lrange(key, 0, -1)]
            mine = [record for record in found if record["command"] == job]
            return mine if mine and mine[-1]["message"]["meta"] & 6 else []

        return list(eventually(whole, f"the end of {job} in {key}"))


def told(found: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(record["message"]["meta"] >> 16, record["message"]["message"]) for record in found]


def test_subscriber_sees_every_message_and_the_end(agent: Daemon) -> None:
    key = agent.direct("logger.subscribe", queue="all")
    assert key == "logger:all"
    job = agent.push("bash", {"script": "echo out; echo 3::public; echo err >&2; exit 3"})
    found = records(agent, key, job)
    assert {*told(found)} == {(1, "out\n"), (3, "public\n"), (2, "err\n"), (2, "")}
    assert told(found)[-1] == (2, "")
    assert found[-1]["message"]["meta"] & 6 == 4
    assert {record["core"] for record in found} == {0}
    assert agent.direct("logger.unsubscribe", queue=key) is None


def test_subscriber_gets_its_levels_and_end_messages_always(agent: Daemon) -> None:
    key = agent.direct("logger.subscribe", queue="some", levels=[3, 9])
    job = agent.push("bash", {"script": "echo out; echo 3::public; echo 9::bad"})
    assert told(records(agent, key, job)) == [(3, "public\n"), (9, "bad\n"), (1, "")]
    ping = agent.push("core.ping")
    ((level, text),) = told(records(agent, key, ping))
    assert level == 20
    assert "PONG" in text
    assert agent.direct("logger.subscribe", queue="some", levels=[1]) == key  # as it was
    job = agent.push("bash", {"script": "echo out"})
    assert told(records(agent, key, job)) == [(1, "")]
    agent.direct("logger.unsubscribe", queue=key)


def test_subscriber_begins_with_what_was_before(agent: Daemon) -> None:
    job = agent.push("bash", {"script": "echo 4::before"})
    agent.result(job)
    key = agent.direct("logger.subscribe")
    assert (4, "before\n") in told(records(agent, key, job))
    agent.direct("logger.unsubscribe", queue=key)


def test_subscriber_list_is_trimmed_and_keeps_the_end(agent: Daemon) -> None:
    key = agent.direct("logger.subscribe", queue="long")
    job = agent.push("bash", {"script": "for n in $(seq 5000); do echo 3::$n; done"})
    found = records(agent, key, job)
    assert told(found)[-2:] == [(3, "5000\n"), (1, "")]
    with agent.gate() as gate:
        assert gate.llen(key) <= 2000
    agent.direct("logger.unsubscribe", queue=key)


def test_unsubscribed_list_stays_and_gets_no_more(agent: Daemon) -> None:
    key = agent.direct("logger.subscribe", queue="ended", levels=[3])
    job = agent.push("bash", {"script": "echo 3::x"})
    records(agent, key, job)
    agent.direct("logger.unsubscribe", queue=key)
    with agent.gate() as gate:
        before = gate.llen(key)
        agent.job("bash", {"script": "echo 3::y"})
        other = agent.direct("logger.subscribe", queue="other", levels=[3])
        records(agent, other, agent.push("core.ping"))
        assert gate.llen(key) == before
    agent.direct("logger.unsubscribe", queue=other)


def test_waiting_client_of_a_logger_list_is_woken(agent: Daemon) -> None:
    key = agent.direct("logger.subscribe", queue="woken", levels=[4])
    with agent.gate() as gate:
        while gate.llen(key):
            gate.blpop([key], 1)
        job = agent.push("bash", {"script": "sleep 0.3; echo 4::now"})
        while json.loads(gate.blpop([key], 60)[1])["command"] != job:
            pass
    agent.direct("logger.unsubscribe", queue=key)


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("logger.unsubscribe", {}, "queue is required"),
        ("logger.set_level", {"level": "LOUD"}, "invalid log level: LOUD"),
        ("logger.set_level", {}, "level"),
        ("logger.subscribe", {"queue": "a\nb"}, "queue"),
        ("logger.subscribe", {"levels": ["x"]}, "levels"),
        ("monitor", {"domain": "weather"}, "invalid monitoring domain: weather"),
        ("aggregator.query", {"tags": {"id": 1}}, "tags"),
        ("cgroup.ensure", {"subsystem": "devices", "name": "x"}, "subsystem"),
        ("cgroup.memory.spec", {"name": "x", "mem": -1}, "mem"),
        ("cgroup.task-add", {"subsystem": "memory", "name": "x", "pid": 0}, "pid"),
    ],
)
def test_bad_arguments_are_named(agent: Daemon, command: str, arguments: dict[str, Any], text: str) -> None:
    result = agent.job(command, arguments)
    assert (result["state"], result["code"]) == ("ERROR", 400)
    assert text in result["data"]


def test_log_level_is_changed(agent: Daemon) -> None:
    agent.direct("logger.set_level", level="debug")
    job = agent.push("bash", {"script": "echo 4::to the log; echo 3::not kept"})
    agent.result(job)
    eventually(lambda: f"[0]{job} 4|to the log" in agent.log())
    assert "not kept" not in agent.log()
    for level in ("CRITICAL", "ERROR", "warning", "Notice"):
        agent.direct("logger.set_level", level=level)
    job = agent.push("bash", {"script": "echo 4::quiet"})
    agent.result(job)
    agent.direct("logger.set_level", level="INFO")
    assert job not in agent.log()


def test_metric_of_a_job_is_aggregated(agent: Daemon) -> None:
    script = "echo '10::my.metric:5|A|id=a,type=test'; echo 10::rubbish; echo '10::my.bare:2|A'"
    assert agent.job("bash", {"script": script})["state"] == "SUCCESS"
    state = agent.direct("aggregator.query", key="my.metric")["my.metric/a"]
    assert (state["op"], state["last_value"]) == ("A", 5.0)
    assert state["tags"] == [{"key": "id", "value": "a"}, {"key": "type", "value": "test"}]
    assert state["current"]["300"]["avg"] == 5.0
    assert state["current"]["3600"]["count"] == 1
    assert agent.direct("aggregator.query", tags={"type": "test"}).keys() == {"my.metric/a"}
    assert agent.direct("aggregator.query", key="my.bare")["my.bare"]["tags"] == []
    assert agent.direct("aggregator.query", key="my") == {}


def test_state_is_written_to_redis_and_ends_with_its_series(agent: Daemon) -> None:
    agent.job("bash", {"script": "echo '10::written:5|A|id=0,type=phys'"})
    with agent.raw() as raw:
        (key,) = eventually(lambda: raw.keys("state:written:*"))
        assert key == f"state:written:{hashlib.md5(b'[{id 0} {type phys}]').hexdigest()}"
        assert json.loads(raw.get(key))["last_value"] == 5.0
        assert 3500 < raw.ttl(key) <= 3600


def test_state_keys_are_not_for_clients(agent: Daemon) -> None:
    with agent.gate() as gate, pytest.raises(redis.exceptions.NoPermissionError):
        gate.exists("state:written:x")


EXPECTED = {
    "cpu": {
        "machine.CPU.utilisation/0", "machine.CPU.percent/0", "machine.CPU.contextswitch",
        "machine.CPU.interrupts", "machine.process.threads",
    },
    "memory": {
        "machine.memory.ram.available", "machine.memory.swap.left", "machine.memory.swap.used",
    },
}  # fmt: skip


@pytest.mark.parametrize("domain", ["cpu", "Disk", "MEMORY", "network"])
def test_monitor_feeds_the_statistics(agent: Daemon, domain: str) -> None:
    assert agent.direct("monitor", domain=domain) is None
    found = agent.direct("aggregator.query", tags={"type": "phys"})
    assert found.keys() >= EXPECTED.get(domain.lower(), set())


def test_monitor_values_are_the_kernel_s(agent: Daemon) -> None:
    before = available_mib()
    agent.direct("monitor", domain="memory")
    state = agent.direct("aggregator.query", key="machine.memory.ram.available")
    after = available_mib()
    least, most = min(before, after) * 0.5, max(before, after) * 1.5  # who else runs takes and gives back
    assert least < state["machine.memory.ram.available"]["last_value"] < most


def available_mib() -> float:
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) / 1024


def test_node_measures_by_itself(agent: Daemon) -> None:
    def counted() -> bool:
        found = agent.direct("aggregator.query", key="machine.process.threads")
        return bool(found) and found["machine.process.threads"]["current"]["3600"]["count"] >= 2

    eventually(counted, "two measurements")


def test_metrics_page_is_prometheus_text(measured: Measured) -> None:
    measured.agent.job("bash", {"script": "echo '10::page.metric:7.5|A|id=we\"ird'"})
    measured.agent.job("bash", {"script": "echo '10::page.count:3|D'"})
    status, page = measured.page()
    assert status == 200
    lines = page.splitlines()
    assert "# TYPE g8node_jobs gauge" in lines
    assert 'g8_page_metric{id="we\\"ird"} 7.5' in lines
    assert "g8_page_count_total 3.0" in lines
    assert any(line.startswith('g8node_jobs_finished_total{state="SUCCESS"} ') for line in lines)
    assert 'g8node_subsystem_up{name="redis"} 1.0' in lines
    assert measured.page("GET", "/")[0] == 404
    assert measured.page("POST")[0] == 405
    assert measured.page("HEAD") == (200, "")


def raw_answer(port: int, request: bytes) -> bytes:
    """What the page's port says to these bytes, until it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", 200),
        (b"rubbish\r\n\r\n", 400),
        (b"\0\xff\r\n\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
    ],
)
def test_metrics_page_answers_any_request(measured: Measured, request_: bytes, status: int) -> None:
    assert raw_answer(measured.port, request_).startswith(b"HTTP/1.1 %d " % status)


def test_metrics_page_is_for_a_few_at_once(measured: Measured) -> None:
    with contextlib.ExitStack() as idle:
        for _ in range(16):
            idle.enter_context(socket.create_connection(("127.0.0.1", measured.port), timeout=60))
        assert raw_answer(measured.port, b"").startswith(b"HTTP/1.1 503 ")

    def is_served() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):  # refused before it has asked
            return measured.page()[0] == 200
        return False

    eventually(is_served)


def test_metrics_page_does_not_take_its_answer_back(measured: Measured) -> None:
    """A close with something unread would be a reset."""
    with socket.create_connection(("127.0.0.1", measured.port), timeout=60) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 10_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")
        for _ in range(4):
            client.sendall(b"x" * 10_000)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


def test_core_state_shows_the_counters(agent: Daemon) -> None:
    state = agent.direct("core.state")
    assert state["stats"]["series"] > 0
    assert state["loggers"]["dropped"] == 0


def test_redis_killed_subscribers_get_the_end(agent: Daemon, tmp_path: Path) -> None:
    key = agent.direct("logger.subscribe", queue="outage", levels=[3])
    job = agent.push("bash", {"script": f"until test -e {tmp_path}/go; do sleep 0.05; done; echo 3::late"})
    with agent.raw() as raw:
        raw.config_set("appendfsync", "always")
    eventually(lambda: job in {row["cmd"]["id"] for row in agent.direct("job.list")})
    os.kill(agent.redis_pid(), signal.SIGKILL)
    (tmp_path / "go").touch()
    agent.result(job)
    assert told(records(agent, key, job)) == [(3, "late\n"), (1, "")]
    agent.direct("logger.unsubscribe", queue=key)


def test_cgroups_without_version_2_say_why(agent: Daemon) -> None:
    """This answer is for hosts whose /sys/fs/cgroup has no version 2; the others are tested in QEMU."""
    with open("/proc/mounts", encoding="ascii") as file:
        clean = any(line.split()[1:3] == ["/sys/fs/cgroup", "cgroup2"] for line in file)
    result = agent.job("cgroup.list")
    if clean:
        assert (result["state"], result["data"]) == ("SUCCESS", "{}")
    else:
        assert (result["state"], result["code"]) == ("ERROR", 503)
        assert "no control groups of version 2" in result["data"]
