"""What the next agent makes of containers of one that was killed: held still, with flists of many kinds."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g8node.linux import namespace
from tests.support.daemon import Daemon, daemon, eventually
from tests.support.hub import hub
from tests.support.images import busybox_tree, publish

pytestmark = [pytest.mark.root, pytest.mark.fuse]

TALKER = "i=0; while :; do i=$((i+1)); echo $i >/count.new; mv /count.new /count; sleep 0.1; done"


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


def test_containers_held_still_by_a_killed_agent_go_on(tmp_path: Path, flists: dict[str, str]) -> None:
    """In the middle of a backup, and of a corex.flist.create."""
    repo = tmp_path / "repo"
    restic = ["restic", "--no-cache", "--quiet", "--repo", str(repo), "init"]
    subprocess.run(restic, check=True, env={**os.environ, "RESTIC_PASSWORD": "x"}, timeout=60)
    os.mkfifo(repo / "locks" / ("0" * 64))  # restic waits for it as for a slow server
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with daemon(tmp_path) as node:
            base = {"root": flists["busybox"], "host_network": True, "command": ["sh", "-c", TALKER]}
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
            eventually(lambda: restics(repo))
            node.kill()
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


@pytest.fixture(scope="module", params=["erofs", pytest.param("tree", marks=pytest.mark.soak)])
def view(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def folder(place: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


@pytest.fixture(scope="module")
def flists(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    tmp = tmp_path_factory.mktemp("trees")
    with hub(tmp_path_factory.mktemp("hub")) as images:
        trees = {"busybox": busybox_tree(tmp / "root")}
        for name in ("outer", "inner", "live", "other"):
            files = {f"{name}-{n}": f"{name} {n}\n" * 50_000 for n in range(3)}
            trees[name] = folder(tmp / name, {**files, "deep/inner/file": name, "sh/x": name})
        yield {name: publish(images, tree, name) for name, tree in trees.items()}


# One works in a folder of a mounted flist, one has a file open that it writes in another.
WORKERS = """
(cd /vol; while :; do sleep 0.1; done) &
(while :; do echo x; sleep 0.1; done) >/vol/deep/inner/log &
sleep 100000
"""
IN_THE_WAY = "cd /vol; exec 3>written; touch /vol/up; sleep 100000; true"


def shown(node: Daemon, id: int) -> dict[str, Any]:
    found: dict[str, Any] = node.direct("corex.get", query=id)["container"]
    return found


def mounted(node: Daemon, id: int) -> str:
    """Where, and how."""
    return sh(node, id, "cut -d' ' -f5,6 /proc/self/mountinfo | sort")


def test_flists_inside_and_over_a_container_are_taken_over(
    tmp_path: Path, flists: dict[str, str], view: str
) -> None:
    config = f'[g8ufs]\nview = "{view}"\n'
    shared = folder(tmp_path / "shared", {"own": "the node's\n"})
    root = {"root": flists["busybox"], "host_network": True}
    inside = {flists["outer"]: "/vol", flists["inner"]: "/vol/deep/inner"}
    with daemon(tmp_path, config) as node:
        id = node.direct(
            "corex.create",
            **root,
            mount={**inside, str(shared): "/vol/deep/inner/sh"},
            command=["sh", "-c", WORKERS],
            restart={"policy": "always"},
        )
        closed = node.direct("corex.create", **root, readonly=True)
        hindered = node.direct("corex.create", **root, mount=inside, command=["sh", "-c", IN_THE_WAY])
        eventually(lambda: sh(node, hindered, "cat /vol/up && echo up || :"))
        sh(node, id, "echo mine >/vol/mine; echo mine >/vol/deep/inner/mine; rm /vol/outer-2; echo r >/top")
        for each in (id, closed):
            node.direct("corex.flist-layer", container=each, flist=flists["live"])
        pid = shown(node, id)["pid"]
        before = {each: mounted(node, each) for each in (id, closed)}
        node.kill()
    dead = [
        f"/proc/{pid}/root{path}" for path in ("/vol/outer-0", "/vol/deep/inner/inner-0", "/live-0", "/vol")
    ]
    subprocess.run(["ls", "-l", *dead], capture_output=True, timeout=60, check=False)  # whatever it says
    subprocess.run(["cat", *dead], capture_output=True, timeout=60, check=False)
    for _ in range(2):
        with daemon(tmp_path, config) as node:
            assert sorted(node.direct("corex.list")) == sorted([str(id), str(closed)])
            assert (shown(node, id)["pid"], shown(node, id)["live_layer"]) == (pid, flists["live"])
            assert {each: mounted(node, each) for each in (id, closed)} == before
            assert node.run_in(closed, "touch /new")["state"] == "ERROR"
            check_files(node, id)
            node.kill()
    with daemon(tmp_path, config) as node:
        node.direct("corex.flist-layer", container=id, flist=flists["other"])
        os.kill(pid, 9)
        eventually(lambda: shown(node, id)["pid"] not in (0, pid))  # the next run has all of it too
        assert (
            sh(node, id, "cat /vol/mine /vol/deep/inner/sh/own; ls -d /*-0") == "mine\nthe node's\n/other-0\n"
        )
        for each in (id, closed):
            node.direct("corex.terminate", container=each)
        assert os.listdir(tmp_path / "root/run/containers") == []
        assert node.direct("g8ufs.list") == []


def check_files(node: Daemon, id: int) -> None:
    """All that was there is there, and writing goes on."""
    for name, path in (("outer", "/vol"), ("inner", "/vol/deep/inner"), ("live", "")):
        assert sh(node, id, f"grep -c '{name} 1' {path}/{name}-1") == "50000\n"
    assert (
        sh(node, id, "cd /vol; cat mine deep/inner/mine deep/inner/sh/own /top")
        == "mine\nmine\nthe node's\nr\n"
    )
    assert sh(node, id, "ls /vol").split() == ["deep", "mine", "outer-0", "outer-1", "sh"]
    assert sh(node, id, "echo again >/vol/again && cat /vol/again && rm /vol/again") == "again\n"
    size = "wc -c </vol/deep/inner/log"
    before = int(sh(node, id, size))
    eventually(lambda: int(sh(node, id, size)) > before)
    assert node.direct("core.gc", dry_run=True) == []
