"""What an operator or an attacker did to the bus of a real agent, and what must not come of it."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from g8node.errors import Unavailable
from g8node.jobs.bus import fingerprint
from g8node.jobs.link import Link
from g8node.jobs.model import Command
from tests.support.daemon import daemon


def ended(pid: int, limit_s: float = 60.0) -> bool:
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


@contextmanager
def redis_server(path: str, *options: str) -> Iterator[None]:
    argv = ["redis-server", "--port", "0", "--unixsocket", path, "--dir", os.path.dirname(path)]
    process = subprocess.Popen([*argv, "--appendonly", "yes", *options], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def test_redis_that_still_loads_its_data_counts_as_away(tmp_path: Path) -> None:
    path = str(tmp_path / "redis.sock")
    link = Link(path)
    with redis_server(path):
        for number in range(1100):
            assert await link.call_patiently("SET", f"key{number}", "x" * 100, limit_s=60) == b"OK"
    # While it loads it looks at who calls before the first and before the 1025th command: there are 8 s.
    with redis_server(path, "--key-load-delay", "8000"):
        why = ""
        async with asyncio.timeout(60):
            while "LOADING" not in why:
                try:
                    await link.call("PING")
                except Unavailable as error:  # no socket yet, then what is expected
                    why = str(error)
                await asyncio.sleep(0.01)
        assert await link.call_patiently("GET", "key1099", limit_s=60) == b"x" * 100
    await link.close()


def test_fingerprint_does_not_sort_megabytes_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (
        Command.make("1", "bash", {str(number): 0 for number in range(count)}) for count in (10, 500_000)
    )
    decode, decoded = msgspec.json.decode, []
    monkeypatch.setattr(msgspec.json, "decode", lambda data: decoded.append(data) or decode(data))
    assert fingerprint(small) == fingerprint(small)
    assert len(decoded) == 2
    assert fingerprint(large) == fingerprint(large)
    assert len(decoded) == 2


def test_fingerprint_knows_the_same_arguments_in_another_layout() -> None:
    one = Command.make("1", "bash", {"script": "a", "stdin": "b"})
    assert fingerprint(one) == fingerprint(Command.make("2", "bash", {"stdin": "b", "script": "a"}))
    assert fingerprint(one) != fingerprint(Command.make("1", "bash", {"script": "b", "stdin": "b"}))
