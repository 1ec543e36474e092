"""The mount, and an overlay over it, answer as ext4 with the same tree does: see support/posix_probe.py."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from g8node.linux.mount import Mount, mount
from g8node.runtime import blocking
from tests.support.chunks import publish
from tests.support.mounted import TOP, Node, in_child
from tests.support.posix_probe import GROUP, OTHER, OWNER, make_tree

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.usefixtures("view")]

CASES_MIN = 150
USERS = [(0, 0), (OWNER, OTHER), (OTHER, GROUP), (OTHER, OTHER)]


def made_ext4(image: Path, place: Path) -> None:
    """A new ext4 with the tree, mounted for writing."""
    with open(image, "wb") as out:
        out.truncate(96 << 20)
    run = {"check": True, "capture_output": True}
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-N", "8000", str(image)], **run)  # type: ignore[call-overload]
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,nodev", str(image), str(place)], **run)  # type: ignore[call-overload]
    (place / "lost+found").rmdir()
    make_tree(str(place))


def ask(top: str, uid: int, gid: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.support.posix_probe", top, str(uid), str(gid)]
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


async def compare(ours: str, peer: str, uid: int, gid: int) -> None:
    expected = await blocking.run("path", ask, peer, uid, gid)
    got = await blocking.run("path", ask, ours, uid, gid)
    assert got.keys() == expected.keys()
    assert len(got) >= CASES_MIN
    differ = {
        name: f"uid {uid}: we {got[name]!r:.200}, ext4 {value!r:.200}"
        for name, value in expected.items()
        if got[name] != value
    }
    assert not differ, "\n".join(f"{name}: {text}" for name, text in differ.items())


async def both(node: Node) -> tuple[str, str]:
    """The tree on ext4, and its flist mounted."""
    peer = node.tmp / "ext4"
    await blocking.run("disk", made_ext4, node.tmp / "ext4.img", peer)
    folder = node.tmp / "published"
    folder.mkdir()
    flist = await publish(peer, folder)
    target = str(node.tmp / "mnt")
    await node.mounts.attach(str(flist), target, storage=f"dir://{folder}/chunks")
    return target, str(peer)


async def on_path(fn: Callable[..., None], *args: Any) -> None:
    await blocking.run("path", fn, *args)


@in_child(stalls=True, deadline_s=400)
async def test_mount_answers_as_ext4(node: Node) -> None:
    target, peer = await both(node)
    await on_path(mount, "none", peer, "", Mount.REMOUNT | Mount.RDONLY | Mount.NODEV)
    for uid, gid in USERS:
        await compare(target, peer, uid, gid)
    await on_path(_umount, peer)


@in_child(stalls=True, deadline_s=400)
async def test_overlay_over_the_mount_answers_as_ext4(node: Node) -> None:
    target, peer = await both(node)
    merged = node.tmp / "merged"
    scratch = node.tmp / "scratch"
    for place in (merged, scratch):
        place.mkdir()
    await on_path(mount, "tmpfs", str(scratch), "tmpfs", Mount.NODEV)
    for name in ("upper", "work"):
        (scratch / name).mkdir()
    options = f"lowerdir={target},upperdir={scratch}/upper,workdir={scratch}/work"
    await on_path(mount, "overlay", str(merged), "overlay", Mount.NODEV, options)
    for uid, gid in reversed(USERS):  # root last: what he changes stays changed
        await compare(str(merged), peer, uid, gid)
    for place in (str(merged), str(scratch), peer):
        await on_path(_umount, place)


def _umount(place: str) -> None:
    subprocess.run(["umount", place], check=True)
