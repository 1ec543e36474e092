"""`make up` and `make down`, as the README has them, in a folder of the test's."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g8tools.up.cli import fetch

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.slow]


def up(base: Path, action: str) -> str:
    argv = [sys.executable, "-m", "g8tools.up", action, "--base", str(base)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def shown(base: Path) -> Iterator[str]:
    yield up(base, "start")
    up(base, "stop")


@pytest.fixture(scope="module")
def state(base: Path, shown: str) -> dict[str, Any]:
    del shown
    loaded: dict[str, Any] = json.loads((base / "up.json").read_text())
    return loaded


def test_page_of_nginx_names_the_container(state: dict[str, Any]) -> None:
    deadline = time.monotonic() + 90
    while f"container {state['container_id']}" not in (page := fetch(state["web_url"])):
        assert time.monotonic() < deadline, page


def test_state_file_has_what_is_promised(state: dict[str, Any], base: Path) -> None:
    assert {"gate_host", "gate_port", "password", "hub_url", "container_id", "pids"} <= set(state)
    assert (base / "up.json").stat().st_mode & 0o077 == 0
    assert all(Path(f"/proc/{pid}").exists() for pid in state["pids"].values())


def test_printed_lines_work(shown: str) -> None:
    ping = next(line for line in shown.splitlines() if line.endswith("core.ping"))
    done = subprocess.run(ping, shell=True, capture_output=True, text=True, check=True)
    assert "PONG Version" in done.stdout
    assert "make down" in shown


def test_cli_runs_a_program_in_the_container(state: dict[str, Any], base: Path) -> None:
    password = base / "password"
    password.write_text(state["password"])
    node = {"G8_NODE": f"127.0.0.1:{state['gate_port']}", "G8_PASSWORD_FILE": str(password)}
    argv = [sys.executable, "-m", "g8tools.g8", "container", "exec", str(state["container_id"]), "--"]
    argv += ["nginx", "-v"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **node})
    assert done.returncode == 0, done.stderr
    assert "nginx version" in done.stdout + done.stderr


def test_stop_ends_everything(base: Path, state: dict[str, Any]) -> None:
    """Last: the fixture's own stop then finds nothing."""
    assert "stopped" in up(base, "stop")
    assert not (base / "up.json").exists()
    assert not fetch(state["hub_url"])
    assert not fetch(state["web_url"])
    assert "nothing runs" in up(base, "stop")
