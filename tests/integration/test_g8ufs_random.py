"""Trees that hypothesis makes, packed, mounted and compared with their source."""

import os
import random
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from g8node.flist.pack import pack
from g8node.runtime import blocking
from g8node.store.local import LocalStore
from tests.support.mounted import Node, in_child
from tests.support.trees import look

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.usefixtures("view")]

NAMES = (
    st.binary(min_size=1, max_size=255)
    .map(lambda raw: raw.translate(_FORBIDDEN))
    .filter(lambda name: name not in (b".", b".."))
)
_FORBIDDEN = bytes(ord("_") if byte in b"/\0" else byte for byte in range(256))
TIMES = st.integers(min_value=-(10**9), max_value=5 * 10**9)
SIZES = st.one_of(
    st.integers(0, 70),
    st.sampled_from([4095, 4096, 4097, 524_287, 524_288, 524_289, 1_100_000]),
)


@dataclass
class Thing:
    """One entry: `kind` is file, hole, link, hard, fifo, device or folder."""

    kind: str
    mode: int
    owner: int
    time: int
    nanoseconds: int
    size: int = 0
    seed: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, "Thing"] = field(default_factory=dict)


def things(kinds: list[str], children: st.SearchStrategy[dict[bytes, Thing]]) -> st.SearchStrategy[Thing]:
    return st.builds(
        Thing,
        kind=st.sampled_from(kinds),
        mode=st.integers(0, 0o7777),
        owner=st.integers(0, 2**32 - 2),
        time=TIMES,
        nanoseconds=st.integers(0, 999_999_999),
        size=SIZES,
        seed=st.integers(0, 255),
        target=st.binary(min_size=1, max_size=200).map(lambda raw: raw.replace(b"\0", b"_")),
        xattrs=st.dictionaries(
            st.sampled_from([b"user.a", b"user.b", b"trusted.c", b"security.d"]),
            st.binary(max_size=300),
            max_size=2,
        ),
        children=children,
    )


LEAVES = things(["file", "file", "hole", "link", "hard", "fifo", "device"], st.just({}))
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=8),
    lambda inner: st.dictionaries(NAMES, LEAVES | things(["folder"], inner), max_size=6),
    max_leaves=30,
)


def trees(count: int, number: int) -> list[dict[bytes, Thing]]:
    """As many trees, the same ones for every run with this number."""
    made: list[dict[bytes, Thing]] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(TREES)
    def keep(tree: dict[bytes, Thing]) -> None:
        made.append(tree)

    keep()
    return made


def plant(folder: bytes, tree: dict[bytes, Thing], files: list[bytes]) -> None:
    """Make the entries below folder; `files` are those made so far, for hard links."""
    for name, thing in tree.items():
        path = folder + b"/" + name
        if thing.kind == "hard" and files:
            os.link(files[thing.seed % len(files)], path)
            continue
        _make(path, thing, files)
        os.lchown(path, thing.owner, thing.owner // 3)
        if thing.kind != "link":
            os.chmod(path, thing.mode)
            if thing.kind in ("file", "hole", "hard", "folder"):
                for key, value in thing.xattrs.items():
                    os.setxattr(path, key, value)
        moment = thing.time * 10**9 + thing.nanoseconds
        os.utime(path, ns=(moment, moment), follow_symlinks=False)


def _make(path: bytes, thing: Thing, files: list[bytes]) -> None:
    if thing.kind == "folder":
        os.mkdir(path)
        plant(path, thing.children, files)
    elif thing.kind == "link":
        os.symlink(thing.target, path)
    elif thing.kind == "fifo":
        os.mkfifo(path)
    elif thing.kind == "device":
        kind = stat.S_IFCHR if thing.seed % 2 else stat.S_IFBLK
        os.mknod(path, kind, os.makedev(thing.seed, thing.size % (1 << 20)))
    else:
        with open(path, "wb") as out:
            if thing.kind == "hole":
                out.truncate(thing.size)
            else:
                noise = random.Random(thing.nanoseconds).randbytes(thing.size - thing.size // 2)
                out.write(bytes([thing.seed]) * (thing.size // 2) + noise)
        files.append(path)


async def compare(node: Node, number: int, tree: dict[bytes, Thing], **options: Any) -> None:
    source = node.tmp / f"source{number}"
    source.mkdir()
    await blocking.run("disk", plant, os.fsencode(source), tree, [])
    flist = node.tmp / f"{number}.flist"
    await pack(str(source), str(flist), LocalStore(str(node.tmp / "random")), **options)
    target = str(node.tmp / f"mnt{number}")
    await node.mounts.attach(str(flist), target, storage=f"dir://{node.tmp}/random")
    try:
        expected = await blocking.run("disk", look, source)
        assert await blocking.run("path", look, Path(target)) == expected, tree
    finally:
        await node.mounts.detach(target)
        await blocking.run("disk", shutil.rmtree, source)


@in_child(stalls=True, deadline_s=180)
async def test_random_trees_are_mounted_as_they_were(node: Node) -> None:
    for number, tree in enumerate(trees(40, 1)):
        await compare(node, number, tree)


@pytest.mark.soak
@in_child(stalls=True, deadline_s=1800)
async def test_five_hundred_random_trees_are_mounted_as_they_were(node: Node) -> None:
    number = int(os.environ.get("G8NODE_TREES", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"G8NODE_TREES={number} makes these trees again", flush=True)
    made = trees(500, number)
    assert len(made) == 500
    for place, tree in enumerate(made):
        await compare(node, place, tree)
