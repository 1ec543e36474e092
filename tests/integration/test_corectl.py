"""corectl over the socket of a whole agent."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

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


def corectl(node: Daemon, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "g8node.corectl", "-s", str(node.folder / "root/run/core.sock"), *words]
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def test_answers_are_yaml_or_json(node: Daemon) -> None:
    assert msgspec.yaml.decode(corectl(node, "ping").stdout).startswith("PONG")
    as_yaml = msgspec.yaml.decode(corectl(node, "info", "cpu").stdout)
    as_json = json.loads(corectl(node, "--json", "info", "cpu").stdout)
    assert [each["modelName"] for each in as_yaml] == [each["modelName"] for each in as_json]
    for what in ("nic", "mem", "memory", "disk", "os", "port", "version"):
        assert corectl(node, "info", what).stdout
    assert isinstance(json.loads(corectl(node, "--json", "statistics").stdout), dict)
    assert "bash" in corectl(node, "raw", "core.help", "command=bash").stdout


def test_execute_ends_as_the_program_does(node: Daemon) -> None:
    done = corectl(node, "execute", "sh", "-c", "echo out; echo err >&2; exit 5", code=5)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    corectl(node, "execute", "sh", "-c", "kill -15 $$", code=143)
    assert "no-such-program" in corectl(node, "execute", "no-such-program", code=1).stderr
    corectl(node, "-t", "1", "execute", "sleep", "600", code=137)


@pytest.mark.parametrize("words", [(), ("--async",)])
def test_execute_of_what_cannot_start_says_why(node: Daemon, words: tuple[str, ...]) -> None:
    done = corectl(node, *words, "--container", "none", "execute", "ls", code=1)
    assert (done.stdout, done.stderr) == ("", "corectl: ls: container 'none' does not exist\n")


def test_jobs_are_listed_and_ended(node: Daemon) -> None:
    assert "slow" in corectl(node, "--async", "--id", "slow", "execute", "sleep", "600").stdout
    jobs = msgspec.yaml.decode(corectl(node, "job").stdout)
    assert "slow" in [job["cmd"]["id"] for job in jobs]
    corectl(node, "stop", "slow")
    assert node.result("slow")["state"] == "ERROR"
    assert corectl(node, "job", "kill", "slow", code=100).stderr == "corectl: no job 'slow'\n"


def test_containers_are_a_table(node: Daemon, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with hub(tmp_path / "hub") as images:
        root = publish(images, busybox_tree(tmp_path / "root"), "busybox")
        created = node.job(
            "corex.create", {"root": root, "host_network": True, "hostname": "h1"}, tags=["t1"]
        )
        id = str(json.loads(created["data"]))
        header, row = corectl(node, "container", "list", "t1").stdout.splitlines()
        assert header.split() == ["ID", "FLIST", "HOSTNAME", "TAGS"]
        assert row.split() == [id, root, "h1", "t1"]
        assert msgspec.yaml.decode(corectl(node, "container", "inspect", id).stdout)["id"] == int(id)
        assert corectl(node, "--container", "t1", "execute", "cat", "/etc/hostname").stdout == "h1\n"
        node.direct("corex.terminate", container=int(id))
    corectl(node, "container", "inspect", id, code=100)
