"""What an operator or an attacker did to the bus of a real agent, and what must not come of it."""

import os
import signal
import time
from pathlib import Path

import pytest

from g8node.jobs.bus import fingerprint
from g8node.jobs.model import Command
from tests.support.daemon import daemon


def ended(pid: int, limit_s: float = 10.0) -> bool:
    deadline = time.monotonic() + limit_s
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.root
def test_agent_after_a_killed_one_ends_its_redis_and_begins_empty(tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        assert first.job("core.ping", id="before")["state"] == "SUCCESS"
        leftover = first.redis_pid()
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
    assert os.path.exists(f"/proc/{leftover}")
    with daemon(tmp_path) as second:
        assert ended(leftover)
        assert second.redis_pid() != leftover
        with second.gate() as gate:
            assert not gate.exists("result:before")
        assert second.job("core.ping")["state"] == "SUCCESS"


def test_fingerprint_does_not_sort_megabytes_of_keys() -> None:
    command = Command.make("1", "bash", {str(number): 0 for number in range(500_000)})
    start = time.process_time()
    assert fingerprint(command) == fingerprint(command)
    assert time.process_time() - start < 0.1


def test_fingerprint_knows_the_same_arguments_in_another_layout() -> None:
    one = Command.make("1", "bash", {"script": "a", "stdin": "b"})
    assert fingerprint(one) == fingerprint(Command.make("2", "bash", {"stdin": "b", "script": "a"}))
    assert fingerprint(one) != fingerprint(Command.make("1", "bash", {"script": "b", "stdin": "b"}))
