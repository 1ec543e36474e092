"""Flists of small real trees, published on a test's Hub."""

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

from g8node.flist.pack import pack
from g8node.store.locate import open_store
from tests.support.hub import RunningHub
from tests.support.rootfs import make_rootfs


def publish(hub: RunningHub, tree: Path, name: str) -> str:
    """Pack the tree and push it with the CLI, as a user would; the flist's URL."""
    out, chunks = hub.data.parent / f"{name}.flist", hub.data.parent / f"{name}-chunks"

    async def packed() -> None:
        store = open_store(f"dir://{chunks}")
        await pack(str(tree), str(out), store)
        await store.close()

    asyncio.run(packed())
    argv = [
        sys.executable, "-m", "g8tools.g8", "hub", "push", str(out), "--chunks", str(chunks),
        "--hub", hub.url, "--repo", "test", "--name", name, "--token-file", str(hub.token_file), "--json",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    return f"{hub.url}/test/{name}.flist"


def busybox_tree(folder: Path) -> Path:
    """The busybox root with `/data/0` to `/data/7`, each beginning AAA, BBB, …

    They are larger than the kernel's read-ahead, so reading one leaves the next ones unread.
    """
    tree = make_rootfs(folder)
    (tree / "data").mkdir()
    for number in range(8):
        content = bytes([65 + number]) * 3 + random.Random(number).randbytes(2 << 20)
        (tree / f"data/{number}").write_bytes(content)
    return tree
