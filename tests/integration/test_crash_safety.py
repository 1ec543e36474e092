"""Errors where nobody expects them: the subsystem comes back, the node says why, and answers meanwhile."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.daemon import Daemon, daemon
from tests.support.faulty import ERRORS
from tests.support.vm import TOP

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("node")
    env = {"G8NODE_FAULT": str(folder / "fault"), "PYTHONPATH": str(TOP)}
    with daemon(folder, "[stats]\nperiod_s = 1\n", env, module="tests.support.faulty") as running:
        yield running


def subsystems(node: Daemon) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in node.direct("core.state")["subsystems"]}


def until_running(node: Daemon, name: str) -> dict[str, Any]:
    """Its row, once it is not in the pause before a restart any more."""
    until(lambda: subsystems(node)[name]["running"], f"{name} runs")
    return subsystems(node)[name]


def answers(node: Daemon) -> bool:
    """Through redis, which the gate waits for five seconds, and the bus."""
    try:
        return bool(node.job("core.ping")["state"] == "SUCCESS")
    except redis.RedisError:
        return False


@pytest.mark.parametrize("error", ERRORS)
def test_error_in_any_subsystem_is_told_and_it_comes_back(node: Daemon, error: str) -> None:
    """Every name that the supervisor knows, as the node itself tells it."""
    names = ["redis", "bus", "g8ufs", "loggers", "statistics", "monitor"]
    names += sorted(name for name, row in subsystems(node).items() if row["running"] and name not in names)
    for name in names:
        before = until_running(node, name)["restarts"]
        (node.folder / "fault").write_text(f"{name} {error}")
        logged = len(node.log())
        node.process.send_signal(signal.SIGUSR1)
        until(lambda: subsystems(node)[name]["restarts"] > before, f"the restart of {name}")  # noqa: B023
        assert f"injected into {name}" in subsystems(node)[name]["last_error"]
        log = node.log()[logged:]
        assert f"subsystem {name} failed, is started again" in log
        assert "Traceback" in log
        assert "PONG" in node.direct("core.ping")
        until(lambda: answers(node), f"a job after the restart of {name}")
        until_running(node, name)


def test_node_that_survived_all_errors_works_as_before(node: Daemon) -> None:
    assert node.job("bash", {"script": "echo hi"})["streams"][0] == "hi\n"
    key = node.direct("logger.subscribe", queue=secrets.token_hex(4))
    node.job("bash", {"script": "echo heard"})
    with node.gate() as gate:
        until(lambda: any("heard" in record for record in gate.lrange(key, 0, -1)), "the log record")
    until(lambda: node.direct("aggregator.query"), "a measurement")
    found = subprocess.run(["pgrep", "-f", f"redis-server .*{node.socket}"], capture_output=True, text=True)
    assert len(found.stdout.split()) == 1
    assert node.direct("core.state")["last_error"]


def test_process_that_dies_of_a_signal_shows_where_it_was(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        server = int(subprocess.check_output(["pgrep", "-P", str(running.pid), "redis-server"]))
        os.kill(running.pid, signal.SIGSEGV)
        running.process.wait(60)
        log = running.log()
        os.kill(server, signal.SIGKILL)  # nobody is left to end it
    # The other threads go on while faulthandler reads their frames, so it may not come to the last of them.
    _, _, dump = log.partition("Fatal Python error: Segmentation fault")
    assert "(most recent call first)" in dump
    assert 'File "' in dump


def test_what_nobody_catches_is_logged_and_counted() -> None:
    program = """
import asyncio, threading, uvloop
from g8node.runtime import logs
from g8node.runtime.faults import Faults

class Finalizer:
    def __del__(self):
        raise ValueError("in a finalizer")

def fail(text):
    raise ValueError(text)

async def main():
    faults = Faults()
    faults.install()
    loop = asyncio.get_running_loop()
    loop.call_soon(fail, "in a callback")
    thread = threading.Thread(target=fail, args=("in a thread",))
    thread.start()
    thread.join()
    Finalizer()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(1000):
        faults.report("flood", None)
    print(faults.state())

logs.configure()
uvloop.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for where in ("in a callback", "in a thread", "in a finalizer"):
        assert f"ValueError: {where}" in done.stderr
    assert "'count': 1003" in done.stdout
    assert done.stderr.count("where=flood") <= 20
