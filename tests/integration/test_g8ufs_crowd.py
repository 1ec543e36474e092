"""Two hundred mounts and a thousand readers at once: everything is given back."""

import asyncio
import contextlib
import gc
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from g8node.flist.pack import pack
from g8node.g8ufs.session import _WORKERS
from g8node.runtime import blocking
from g8node.store.local import LocalStore
from tests.support.chunks import some_bytes
from tests.support.mounted import TOP, Node, drop_caches, in_child

pytestmark = [pytest.mark.root, pytest.mark.fuse]

MOUNTS, READERS, FILES = 200, 1000, 5


def memory_kib() -> int:
    """What is ours alone: a share of what others have mapped too would change with them."""
    gc.collect()
    found = re.search(r"^Anonymous:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def held() -> dict[str, int]:
    """What this process holds that a leak would show in.

    Of pyfuse3's workers it may keep one more than it was told to, or not.
    """
    tasks = asyncio.all_tasks()
    workers = sum(hasattr(task, "name") for task in tasks)  # see Workers
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(tasks) - workers,
        "workers too many": max(workers - _WORKERS - 1, 0),
    }


async def settled() -> dict[str, int]:
    """What is held once the kernel has let go of the last mounts: the same for half a second."""
    seen = [held()]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while len(seen) < 50 or any(one != seen[-1] for one in seen[-50:]):
                await asyncio.sleep(0.01)
                seen.append(held())
    return seen[-1]


def plant(top: Path, seed: int) -> None:
    top.mkdir()
    for number in range(FILES):
        (top / f"f{number}").write_bytes(some_bytes(3000 + 17 * number, seed * FILES + number))


def read_all(files: list[str]) -> None:
    argv = [sys.executable, "-m", "tests.support.crowd", str(READERS), *files]
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


async def round_trip(node: Node, flists: list[str]) -> None:
    """Mount all, read from all at once, unmount all."""
    targets = [str(node.tmp / f"mnt{number}") for number in range(len(flists))]
    store = f"dir://{node.tmp}/many"
    await asyncio.gather(
        *(
            node.mounts.attach(flist, target, storage=store)
            for flist, target in zip(flists, targets, strict=True)
        )
    )
    assert len(await node.mounts.list()) == len(flists)
    await blocking.run("disk", drop_caches)
    await blocking.run("path", read_all, [f"{target}/f{n}" for target in targets for n in range(FILES)])
    await asyncio.gather(*(node.mounts.detach(target) for target in targets))
    assert await node.mounts.list() == []


@in_child(stalls=True, deadline_s=400)
async def test_two_hundred_mounts_and_a_thousand_readers_leave_nothing(node: Node) -> None:
    flists = []
    for number in range(MOUNTS):
        tree = node.tmp / f"tree{number}"
        await blocking.run("disk", plant, tree, number)
        flists.append(str(node.tmp / f"{number}.flist"))
        await pack(str(tree), flists[-1], LocalStore(str(node.tmp / "many")))
    await round_trip(node, flists)  # what is made once, pools and caches, is there from here on
    before, memory = await settled(), memory_kib()
    await node.mounts.drop()
    await round_trip(node, flists)
    after, memory_after = await settled(), memory_kib()
    print(f"before {before}, {memory} KiB; after {after}, {memory_after} KiB")
    assert after == before, sorted(thread.name for thread in threading.enumerate())
    assert memory_after <= memory * 1.1
