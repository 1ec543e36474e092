"""Containers come and go by the hundred, many at once: nothing of them stays."""

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import TOP
from tests.support.busybox import Containers, busybox_flist
from tests.support.netns import Inside, daemon_inside

pytestmark = [pytest.mark.root, pytest.mark.fuse]

AT_ONCE = 16
SETTLE_S = 60.0


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    flist = busybox_flist(tmp_path_factory.mktemp("flist"))
    env, folder = {"PYTHONPATH": str(TOP)}, tmp_path_factory.mktemp("node")
    with daemon_inside(folder, env=env, module="tests.support.counted") as node:
        yield Containers(node, flist)
        assert "Traceback" not in node.log()


def lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines()


def traces(node: Inside) -> dict[str, Any]:
    """How many there are of what a container could leave behind, the folders by name."""
    root = node.folder / "root/run"
    rules = node.there("nft", "list", "ruleset").splitlines()
    counts = node.direct("test.counts")
    return {
        "mounts": len(lines(f"/proc/{node.pid}/mountinfo")),
        "network namespaces": len(spaces(node)),
        "links": len(node.there("ip", "-o", "link").splitlines()),
        "rules": len([line for line in rules if "comment" in line]),
        "control groups": len(groups(node)),
        "descriptors": len(os.listdir(f"/proc/{node.pid}/fd")),
        "processes": len(below(node.pid)),
        "tasks": counts["tasks"],
        "threads": counts["threads"],
        "states": os.listdir(root / "crun"),
        "folders": os.listdir(root / "containers"),
        "ownerless": node.direct("core.gc", dry_run=True),
        "jobs": len([row for row in node.direct("job.list") if row["cmd"]["id"].startswith("core-")]),
    }


def spaces(node: Inside) -> set[str]:
    """Those that the node holds open and those that its processes are in."""
    found = set()
    for pid in (node.pid, *below(node.pid)):
        for path in (f"/proc/{pid}/ns/net", *(f"/proc/{pid}/fd/{fd}" for fd in descriptors(pid))):
            with contextlib.suppress(OSError):
                target = os.readlink(path)
                found |= {target} if target.startswith("net:") else set()
    return found


def descriptors(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def groups(node: Inside) -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/g8-{node.pid}/**") if path.is_dir()]


def below(pid: int) -> list[int]:
    """All descendants, zombies included."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *below(int(child))]
    return found


def churn(boxes: Containers, count: int) -> None:
    """Each with a link, a forward of its own, a file and a job; half end by themselves."""

    def one(number: int) -> None:
        command = {"command": ["echo", "x"]} if number % 2 else {}
        id = boxes.create(
            {"type": "default"}, port={str(20000 + number % 10000): 80}, config={"/f": "x"}, **command
        )
        if number % 2:
            assert boxes.node.result(f"core-{id}", timeout_s=60)["state"] == "SUCCESS"
        else:
            assert boxes.sh(id, "cat /f") == "x"
            boxes.node.direct("corex.terminate", container=id)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(count)))


def leaves_nothing(boxes: Containers, count: int) -> None:
    churn(boxes, AT_ONCE)  # threads, sockets and caches that stay are made by the first ones
    before = settled(boxes, lambda found: at_rest(found) and same(found, traces(boxes.node)))
    assert at_rest(before), before
    began = time.monotonic()
    churn(boxes, count)
    ended = time.monotonic()
    # Connections of clients that have gone are closed a moment later; a pool may have a few threads more.
    after = settled(boxes, lambda found: same(before, found))
    print(f"\n{count} containers in {ended - began:.0f} s, equal after {time.monotonic() - ended:.1f} s")
    for name, value in before.items():
        print(f"{name:20} {value!s:>8} {after[name]!s:>8}")
    assert same(before, after), (before, after)


def at_rest(found: dict[str, Any]) -> bool:
    """Nothing is being taken away any more, which links are after the folder; two stay: lo and the bridge."""
    gone = ("folders", "states", "ownerless", "jobs")
    return not any(found[name] for name in gone) and (found["network namespaces"], found["links"]) == (1, 2)


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Equal; descriptors may be a few more, and threads, of pools that are bounded."""
    exact = before.keys() - {"descriptors", "threads"}
    return all(after[name] == before[name] for name in exact) and (
        after["descriptors"] <= before["descriptors"] + 4 and after["threads"] <= before["threads"] + 8
    )


def settled(boxes: Containers, enough: Any) -> dict[str, Any]:
    deadline = time.monotonic() + SETTLE_S
    while not enough(found := traces(boxes.node)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def test_a_hundred_containers_leave_nothing(boxes: Containers) -> None:
    leaves_nothing(boxes, 100)


@pytest.mark.soak
def test_two_thousand_containers_leave_nothing(boxes: Containers) -> None:
    leaves_nothing(boxes, 1000)
    leaves_nothing(boxes, 1000)
