"""The whole daemon in agent mode: gate, jobs, g8ufs, crun and a real Hub together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from g8tools.up.vm import free_port
from tests.support.daemon import Daemon, daemon
from tests.support.faults import flip
from tests.support.hub import RunningHub, hub
from tests.support.images import busybox_tree, publish

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ALONE = "[g8ufs]\naround_bytes = 0\n"
"""Nothing comes with the chunk that is read: what is not read is surely not in the cache."""


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.fixture(scope="module")
def busybox(images: RunningHub, tree: Path) -> str:
    return publish(images, tree, "busybox")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


def create(node: Daemon, root: str, **arguments: object) -> int:
    result = node.job("corex.create", {"root": root, **arguments})
    assert result["state"] == "SUCCESS", result
    return int(json.loads(result["data"]))


def test_original_sequence_of_the_spec(node: Daemon) -> None:
    with node.gate() as gate:
        gate.rpush("core:default", '{"id":"first","command":"core.ping","arguments":{}}')
        assert gate.brpoplpush("result:first:flag", "result:first:flag", 60) == ""
        results = [json.loads(gate.brpoplpush("result:first", "result:first", 60)) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["state"] == "SUCCESS"
    assert json.loads(results[0]["data"]).startswith("PONG Version: ")


def test_command_name_as_the_first_word_of_redis_cli(node: Daemon) -> None:
    argv = ["redis-cli", "-p", str(node.port), "-a", node.password, "--no-auth-warning", "core.ping"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "PONG Version: " in done.stdout


def test_wrong_password_is_refused(node: Daemon) -> None:
    argv = ["redis-cli", "-p", str(node.port), "-a", "wrong", "--no-auth-warning", "core.ping"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "PONG" not in done.stdout
    assert "NOAUTH" in done.stdout + done.stderr


def test_container_runs_from_an_flist_of_the_hub(node: Daemon, busybox: str) -> None:
    container = create(node, busybox, hostname="box", env={"COLOUR": "green"})
    done = node.run_in(
        container, "hostname; echo $COLOUR $G8NODE_CONTAINER_ID; head -c 3 /data/2; echo; id -u"
    )
    assert done["streams"][0] == f"box\ngreen {container}\nCCC\n0\n"
    assert done["container"] == container
    listed = node.direct("corex.list")
    assert listed[str(container)]["container"]["arguments"]["hostname"] == "box"
    node.direct("corex.terminate", container=container)
    assert str(container) not in node.direct("corex.list")


def test_command_of_a_container_streams_and_ends_it(node: Daemon, busybox: str) -> None:
    created = node.job(
        "corex.create", {"root": busybox, "command": "echo hi", "host_network": True}, stream=True
    )
    container = json.loads(created["data"])
    done = node.result(f"core-{container}")
    assert (done["state"], done["streams"][0], done["container"]) == ("SUCCESS", "hi\n", container)
    with node.gate() as gate:
        record = json.loads(gate.blpop([f"stream:core-{container}"], 60)[1])
    assert record["message"]["message"] == "hi\n"
    until(lambda: str(container) not in node.direct("corex.list"), "the container's end")


def test_mounted_tree_equals_the_source(node: Daemon, busybox: str, tree: Path) -> None:
    container = create(node, busybox)
    done = node.run_in(container, "cd /; find bin data -type f -o -type l | wc -l; cat data/* | md5sum")
    count, checksum = done["streams"][0].split()[:2]
    files = [path for top in ("bin", "data") for path in (tree / top).rglob("*")]
    assert int(count) == len(files)
    content = b"".join((tree / f"data/{n}").read_bytes() for n in range(8))
    expected = subprocess.run(["md5sum"], input=content, capture_output=True, check=True).stdout.split()[0]
    assert checksum == expected.decode()
    node.direct("corex.terminate", container=container)


def test_dead_store_gives_eio_and_heals(tmp_path: Path, tree: Path) -> None:
    """Own Hub, own node: nothing of the files is in a cache beforehand."""
    with hub(tmp_path) as store, daemon(tmp_path / "node", f"{ALONE}read_timeout_s = 3\n") as node:
        url = publish(store, tree, "busybox")
        container = create(node, url)
        assert node.run_in(container, "head -c 1 /data/0")["streams"][0] == "A"
        store.process.send_signal(signal.SIGSTOP)
        try:
            unread = node.run_in(container, "cat /data/5 >/dev/null")
            assert unread["state"] == "ERROR"
            assert "Input/output error" in unread["streams"][1]
            assert node.run_in(container, "head -c 1 /data/0")["streams"][0] == "A"
        finally:
            store.process.send_signal(signal.SIGCONT)
        until(lambda: node.run_in(container, "head -c 1 /data/5")["streams"][0] == "F", "recovery")


def test_corrupted_chunk_is_never_served(tmp_path: Path, tree: Path) -> None:
    with hub(tmp_path) as store, daemon(tmp_path / "node", ALONE) as node:
        url = publish(store, tree, "busybox")
        chunks = {path: path.read_bytes() for path in (store.data / "chunks").rglob("*") if path.is_file()}
        assert len(chunks) > 8
        container = create(node, url)
        node.run_in(container, "true")
        for path, content in chunks.items():
            path.write_bytes(flip(content))
        done = node.run_in(container, "for n in 0 1 2 3 4 5 6 7; do cat /data/$n >/x && echo served; done")
        assert "served" not in done["streams"][0]
        assert done["streams"][1].count("Input/output error") == 8
        for path, content in chunks.items():
            path.write_bytes(content)
        until(lambda: node.run_in(container, "cat /data/3 >/dev/null")["state"] == "SUCCESS", "recovery")


def test_fifty_creates_at_once(node: Daemon, busybox: str) -> None:
    before = leftovers(node)
    with ThreadPoolExecutor(50) as pool:
        created = list(pool.map(lambda n: create(node, busybox, command=["sleep", str(600 + n)]), range(50)))
    assert len(set(created)) == 50
    assert len(node.direct("corex.list")) == 50
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda id: node.direct("corex.terminate", container=id), created))
    assert node.direct("corex.list") == {}
    until(lambda: all(now <= before[what] for what, now in leftovers(node).items()), "everything given back")


def leftovers(node: Daemon) -> dict[str, int]:
    """What containers must give back: mounts in the node's namespace, children, bundles."""
    mounts = Path(f"/proc/{node.pid}/mountinfo").read_text().splitlines()
    containers = node.folder / "root/run/containers"
    return {
        "mounts": sum(str(node.folder) in line for line in mounts),
        "children": len(Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()),
        "bundles": len(os.listdir(containers)) if containers.exists() else 0,
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "root"),
        ({"root": 5}, "root"),
        ({"root": "/nonexistent.flist"}, "/nonexistent.flist"),
        ({"root": "gopher://x/y.flist"}, "gopher"),
        ({"root": "{busybox}", "env": {"A": 1}}, "env"),
        ({"root": "{busybox}", "nics": [{"type": "warp"}]}, "nics"),
        ({"root": "{busybox}", "mount": {"relative": "/x"}}, "relative"),
    ],
)
def test_bad_create_is_refused_by_name(
    node: Daemon, busybox: str, arguments: dict[str, object], named: str
) -> None:
    filled = {key: busybox if value == "{busybox}" else value for key, value in arguments.items()}
    result = node.job("corex.create", filled)
    assert result["state"] == "ERROR"
    assert named in result["data"]
    assert node.direct("core.ping").startswith("PONG")


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "empty", "lying size"])
def test_damaged_flist_is_refused_and_the_node_goes_on(
    node: Daemon, images: RunningHub, busybox: str, tmp_path: Path, damage: str
) -> None:
    good = (images.data / "public/test/busybox.flist").read_bytes()
    bad = {
        "truncated": good[: len(good) // 2],
        "not gzip": b"\x00" * 1000,
        "empty": b"",
        "lying size": good[:-4] + b"\xff\xff\xff\x7f",
    }[damage]
    path = tmp_path / "bad.flist"
    path.write_bytes(bad)
    result = node.job("corex.create", {"root": f"file://{path}", "storage": images.url})
    assert result["state"] == "ERROR", result
    assert result["code"] == 400
    assert "flist" in result["data"]
    assert node.direct("core.ping").startswith("PONG")


def test_redis_killed_under_running_jobs(node: Daemon, tmp_path: Path) -> None:
    """Jobs that run finish, their results appear, queued commands are not lost, clients come back."""
    script = f"until test -e {tmp_path}/go; do sleep 0.1; done; echo"
    running = [node.push("bash", {"script": f"{script} {n}"}) for n in range(5)]
    until(lambda: {*running} <= {row["cmd"]["id"] for row in node.direct("job.list")}, "the jobs")
    killed = node.redis_pid()
    os.kill(killed, signal.SIGKILL)
    until(lambda: _answers(node), "the bus")
    assert node.redis_pid() != killed
    (tmp_path / "go").touch()
    later = node.push("bash", {"script": "echo later"})
    for n, job_id in enumerate(running):
        assert node.result(job_id)["streams"][0] == f"{n}\n"
    assert node.result(later)["streams"][0] == "later\n"


def _answers(node: Daemon) -> bool:
    try:
        return bool(node.job("core.ping")["state"] == "SUCCESS")
    except (redis.RedisError, AssertionError):
        return False


def test_container_cannot_reach_the_nodes_redis(node: Daemon, busybox: str) -> None:
    container = create(node, busybox)
    done = node.run_in(container, f"ls {node.folder}/root/run; ls /run")
    assert "redis" not in done["streams"][0]
    node.direct("corex.terminate", container=container)


def test_sigterm_ends_everything(tmp_path: Path, busybox: str) -> None:
    with daemon(tmp_path / "node") as node:
        create(node, busybox, command="sleep 600")
        node.push("bash", {"script": "sleep 600"})
        until(lambda: sum(row["pid"] > 0 for row in node.direct("job.list")) >= 2, "the processes")
        pids = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
        assert node.stop() == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        mounts = Path("/proc/self/mountinfo").read_text()
        assert str(tmp_path) not in mounts
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", node.port))


def test_second_agent_on_the_same_root_is_refused(node: Daemon) -> None:
    argv = [sys.executable, "-m", "g8node", "--config", str(node.folder / "g8node.toml")]
    second = subprocess.run(
        [*argv, "--root", str(node.folder / "root")], capture_output=True, text=True, timeout=120, check=False
    )
    assert second.returncode == 100
    assert "in use by another agent" in second.stderr
    assert node.direct("core.ping").startswith("PONG")


def test_gate_without_password_stays_closed_to_the_network(tmp_path: Path) -> None:
    port = free_port()
    config = f'[gate]\nlisten = "0.0.0.0:{port}"\npassword_file = "{tmp_path}/none"\n'
    (tmp_path / "bare.toml").write_text(config)
    argv = ["-m", "g8node", "--config", str(tmp_path / "bare.toml"), "--root", str(tmp_path / "root")]
    (tmp_path / "root").mkdir()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *argv], stdout=log, stderr=log)
    try:
        until(lambda: "g8node ready" in (tmp_path / "log").read_text(), "the agent")
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", port))
        assert "password" in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(60)
