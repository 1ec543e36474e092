"""What the next agent makes of containers of one that was killed: held still, with flists of many kinds."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from g8node.linux import namespace
from tests.support.daemon import Daemon, daemon
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish

pytestmark = [pytest.mark.root, pytest.mark.fuse]

TALKER = "i=0; while :; do i=$((i+1)); echo $i >/count.new; mv /count.new /count; sleep 0.1; done"


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tree = busybox_tree(tmp_path_factory.mktemp("tree") / "root")
    with hub(tmp_path_factory.mktemp("hub")) as images:
        yield publish(images, tree, "busybox")


def kill(node: Daemon) -> None:
    node.process.kill()
    node.process.wait()


def eventually(find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def sh(node: Daemon, id: int, script: str) -> str:
    done = node.run_in(id, script)
    assert done["state"] == "SUCCESS", done
    return str(done["streams"][0])


def is_held(pid: int) -> bool:
    """Whether its control group is frozen, or all processes of the container are stopped."""
    group = Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1].partition("::")[2]
    events = Path(f"/sys/fs/cgroup{group}/cgroup.events")
    if events.exists() and "frozen 1" in events.read_text():
        return True
    return all(state(each) == "T" for each in namespace.inner_pids(pid))


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def restics(repo: Path) -> list[str]:
    """Processes that work on the repository."""
    named = f"RESTIC_REPOSITORY={repo}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += [place.parent.name] if named in place.read_bytes().split(b"\0") else []
    return found


def test_containers_held_still_by_a_killed_agent_go_on(tmp_path: Path, busybox: str) -> None:
    """In the middle of a backup, and of a corex.flist.create."""
    repo = tmp_path / "repo"
    restic = ["restic", "--no-cache", "--quiet", "--repo", str(repo), "init"]
    subprocess.run(restic, check=True, env={**os.environ, "RESTIC_PASSWORD": "x"}, timeout=60)
    os.mkfifo(repo / "locks" / ("0" * 64))  # restic waits for it as for a slow server
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with daemon(tmp_path) as node:
            base = {"root": busybox, "host_network": True, "command": ["sh", "-c", TALKER]}
            ids = [node.direct("corex.create", **base) for _ in range(2)]
            pids = [node.direct("corex.get", query=id)["container"]["pid"] for id in ids]
            for id in ids:
                eventually(lambda: sh(node, id, "cat /count 2>/dev/null || :"))  # noqa: B023
            node.push("corex.backup", {"container": ids[0], "url": f"{repo}?password=x"})
            storage = f"127.0.0.1:{silent.getsockname()[1]}"
            wanted = {"container": ids[1], "src": "/bin", "flist": "/tmp/x", "storage": storage}
            node.push("corex.flist.create", wanted)
            tops = [tmp_path / f"root/run/containers/{id}" for id in ids]
            eventually(
                lambda: all(
                    is_held(pid) and (top / "held").exists() for pid, top in zip(pids, tops, strict=True)
                )
            )
            eventually(lambda: Path(f"/proc/{node.pid}/root{tops[0]}/rootfs/.corex.meta").exists())
            kill(node)
        assert all(is_held(pid) for pid in pids)
        assert restics(repo)
        with daemon(tmp_path) as node:
            assert not restics(repo)
            assert {int(id) for id in node.direct("corex.list")} == set(ids)
            for id, pid, top in zip(ids, pids, tops, strict=True):
                assert "T" not in {state(each) for each in namespace.inner_pids(pid)}
                before = int(sh(node, id, "cat /count"))
                eventually(lambda: int(sh(node, id, "cat /count")) > before)  # noqa: B023
                assert sh(node, id, "ls -A / | grep corex || :") == ""
                assert not (top / "held").exists()
