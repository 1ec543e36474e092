"""A mounted flist: content, sharing, caching, and nothing left behind."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from g8node.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from g8node.flist.container import read_flist, write_flist
from g8node.flist.tree import Flist
from g8node.flist.tree import Node as Inode
from g8node.g8ufs.treefile import TreeFile
from g8node.linux import mount as linux_mount
from g8node.linux.mount import mounts
from g8node.runtime import blocking
from tests.support.agent import until
from tests.support.chunks import digests
from tests.support.mounted import Node, drop_caches, in_child, open_mounts

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.usefixtures("view")]


async def tree_of(path: str) -> dict[str, str]:
    return await blocking.run("path", digests, path)


@in_child
async def test_mount_shows_the_tree(node: Node) -> None:
    target = await node.attach()
    assert await tree_of(target) == await tree_of(str(node.tree))
    await node.mounts.detach(target)
    assert os.listdir(node.tmp / "mnt") == []


@in_child
async def test_cached_chunks_survive_a_restart_of_the_daemon(node: Node) -> None:
    expected = await tree_of(await node.attach())
    await node.settled()  # a reader has its bytes before the cache has them
    await node.restart()
    await blocking.run("disk", node.server.down)
    assert await tree_of(await node.attach("again")) == expected
    node.server.up()


@in_child
async def test_cold_small_files_come_with_their_neighbours(node: Node) -> None:
    target = await node.attach()
    expected = await tree_of(target)
    await blocking.run("disk", drop_caches)
    assert await tree_of(target) == expected


@in_child
async def test_warm_reads_do_not_reach_python(node: Node) -> None:
    target = await node.attach()
    expected = await tree_of(target)
    entry = next(iter(node.mounts._session._operations.by_inode.values()))

    async def no_read(*_: object) -> bytes:
        raise AssertionError("a warm read reached Python")

    entry.file.read = no_read  # type: ignore[method-assign]
    if isinstance(entry.file, TreeFile):
        entry.file.read_inode = no_read  # type: ignore[method-assign]
    assert await tree_of(target) == expected


@in_child
async def test_targets_of_one_flist_share_an_image(node: Node) -> None:
    targets = [await node.attach(f"mnt{number}") for number in range(3)]
    trees = [await tree_of(target) for target in targets]
    assert trees[0] == trees[1] == trees[2]
    assert len(node.mounts._images) == 1
    for target in targets[:2]:
        await node.mounts.detach(target)
    assert await tree_of(targets[2]) == trees[0]
    await node.mounts.detach(targets[2])
    assert not node.mounts._images
    # The kernel releases a file when it gets round to it.
    await until(lambda: not node.mounts._session._operations.by_inode)


@in_child
async def test_fifty_concurrent_attaches_end(node: Node) -> None:
    targets = await asyncio.gather(*(node.attach(f"mnt{number}") for number in range(50)))
    assert len(await node.mounts.list()) == 50
    expected = await tree_of(str(node.tree))
    for tree in await asyncio.gather(*map(tree_of, targets)):
        assert tree == expected
    await asyncio.gather(*map(node.mounts.detach, targets))
    assert await node.mounts.list() == []


@in_child
async def test_cancelled_attach_leaves_nothing(node: Node) -> None:
    for turns in range(0, 60, 3):
        task = asyncio.create_task(node.attach(f"mnt{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await node.mounts.detach(task.result())
    left = [m.target for m in await blocking.run("disk", mounts) if "/mnt" in m.target.rpartition("tmp")[2]]
    assert not [target for target in left if target.startswith(str(node.tmp))]
    assert not node.mounts._images
    assert not node.mounts._targets


@in_child(stalls=True)
async def test_directory_of_30000_entries(node: Node) -> None:
    flist = await blocking.run("cpu", read_flist, node.flist)
    names = [f"entry {number:05d}" for number in range(30_000)]
    (flist.root.children or {})[b"crowd"] = Inode(
        stat.S_IFDIR | 0o755, children={name.encode(): Inode(stat.S_IFREG | 0o644) for name in names}
    )
    await blocking.run("cpu", write_flist, Flist(flist.root, {}), node.flist)
    target = await node.attach()
    assert sorted(await blocking.run("path", os.listdir, f"{target}/crowd")) == names
    await blocking.run("disk", drop_caches)
    for name in (names[0], names[12_345], names[-1]):
        assert await node.read(f"{target}/crowd/{name}") == b""
    for name in ("entry 30000", "entry", "entry 000000"):
        with pytest.raises(FileNotFoundError):
            await node.read(f"{target}/crowd/{name}")
    assert await node.read(f"{target}/size4097") == await node.read(f"{node.tree}/size4097")


@in_child
async def test_second_mounter_of_a_cache_is_refused_and_the_first_goes_on(node: Node) -> None:
    """Many mounts share a cache by sharing the process; another one says why it does not start."""
    target = await node.attach()
    second = open_mounts(node.tmp)
    with pytest.raises(Unavailable, match="cache/chunks is used by another process"):
        await second.start()
    await second.close()
    assert await tree_of(target) == await tree_of(str(node.tree))
    await node.restart()
    assert await tree_of(await node.attach("again")) == await tree_of(str(node.tree))


@in_child
async def test_popen_while_mounted_does_not_hang(node: Node) -> None:
    target = await node.attach()
    done = await blocking.run("path", subprocess.run, ["/bin/cat", f"{target}/size4097"], capture_output=True)
    assert len(done.stdout) == 4097


@in_child
async def test_busy_target_is_detached_lazily(node: Node) -> None:
    target = await node.attach()
    reader = await blocking.run("path", os.open, f"{target}/size4097", os.O_RDONLY)
    await node.mounts.detach(target)
    assert len(await blocking.run("path", os.pread, reader, 8192, 0)) == 4097
    await blocking.run("path", os.close, reader)


@in_child
async def test_attach_twice_at_one_target_is_refused(node: Node) -> None:
    target = await node.attach()
    with pytest.raises(AlreadyExists, match="attached"):
        await node.attach()
    await node.mounts.detach(target)
    with pytest.raises(NotFound, match="no flist"):
        await node.mounts.detach(target)


@in_child
async def test_attach_names_what_is_wrong(node: Node) -> None:
    target = str(node.tmp / "mnt")
    bad = node.tmp / "bad.flist"
    bad.write_bytes(b"no flist at all")
    for flist, error in (
        (str(node.tmp / "absent.flist"), NotFound),
        (str(bad), InvalidArgument),
        ("ftp://host/x.flist", InvalidArgument),
        ("x.flist", InvalidArgument),
        ("http:///x.flist", InvalidArgument),
        ("http://[::1/x.flist", InvalidArgument),
        (f"{node.server.url}/absent.flist", NotFound),
        ("http://127.0.0.1:1/x.flist", Unavailable),
        (node.flist, InvalidArgument),  # a local flist without a store
    ):
        with pytest.raises(error):
            await node.mounts.attach(flist, target)
    assert not node.mounts._targets


@in_child
async def test_flist_of_a_hub_needs_no_storage(node: Node) -> None:
    node.server.files["/repo/tree.flist"] = await node.read(node.flist)
    mounted = await node.mounts.attach(f"{node.server.url}/repo/tree.flist", str(node.tmp / "mnt"))
    assert mounted.storage == node.server.url
    assert await tree_of(mounted.target) == await tree_of(str(node.tree))


@in_child
async def test_flist_is_downloaded_once_and_kept(node: Node) -> None:
    node.server.files["/repo/tree.flist"] = await node.read(node.flist)
    url = f"{node.server.url}/repo/tree.flist"
    await asyncio.gather(*(node.mounts.attach(url, str(node.tmp / f"mnt{n}")) for n in range(10)))
    assert node.server.requests.count("/repo/tree.flist") == 1
    await blocking.run("disk", node.server.down)
    await node.mounts.attach(url, str(node.tmp / "later"))
    node.server.up()


@in_child
async def test_download_that_nobody_waits_for_any_more_is_not_what_the_next_one_gets(node: Node) -> None:
    node.server.files["/repo/tree.flist"] = await node.read(node.flist)
    url = f"{node.server.url}/repo/tree.flist"
    node.server.fault = "hang"
    attaching = asyncio.create_task(node.mounts.attach(url, str(node.tmp / "gone")))
    while "/repo/tree.flist" not in node.server.requests:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.005)
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    (download,) = node.mounts._flights.values()
    node.server.fault = "error"
    node.server.lifted.set()
    with pytest.raises(Unavailable):
        await download
    node.server.fault = ""
    mounted = await node.mounts.attach(url, str(node.tmp / "mnt"))
    assert await tree_of(mounted.target) == await tree_of(str(node.tree))


@in_child
async def test_targets_cannot_be_written_and_hold_no_devices(node: Node) -> None:
    target = await node.attach()
    with pytest.raises(OSError, match="Read-only"):
        await blocking.run("path", (Path(target) / "new").write_bytes, b"")
    options = [m.options for m in await blocking.run("disk", mounts) if m.target == target]
    assert "ro" in options[0]
    assert "nodev" in options[0]


@in_child
async def test_dead_predecessor_is_swept_away(node: Node) -> None:
    """What a killed daemon leaves: a dead FUSE mount and images on it."""
    await node.attach()
    program = (
        "import asyncio, os, uvloop\n"
        "from pathlib import Path\n"
        "from tests.support.mounted import open_mounts\n"
        "async def main():\n"
        f"    mounts = open_mounts(Path({str(node.tmp / 'other')!r}))\n"
        "    await mounts.start()\n"
        f"    await mounts.attach({node.flist!r}, {str(node.tmp / 'other/mnt')!r}, storage='dir:///x')\n"
        "    os._exit(7)\n"
        "uvloop.run(main())\n"
    )
    argv = [sys.executable, "-c", program]
    killed = await blocking.run("path", subprocess.run, argv, capture_output=True)
    assert killed.returncode == 7, killed.stderr
    await node.mounts.close()
    other = node.tmp / "other"
    node.mounts = open_mounts(other)
    await node.mounts.start()
    assert await tree_of(await node.attach("fresh")) == await tree_of(str(node.tree))
    await blocking.run("path", subprocess.run, ["/bin/umount", "-l", str(other / "mnt")])


@in_child
async def test_kernel_without_file_backed_mounts_gets_a_loop_device(node: Node) -> None:
    if node.view == "tree":
        return  # it has no image
    plain = linux_mount.mount

    def old_kernel(source: str, target: str, fstype: str, *rest: object) -> None:
        if fstype == "erofs" and not source.startswith("/dev/"):
            raise OSError(errno.ENOTBLK, "Block device required", source)
        plain(source, target, fstype, *rest)  # type: ignore[arg-type]  # as given

    linux_mount.mount = old_kernel  # type: ignore[assignment]  # *rest stands for the two others
    try:
        target = await node.attach()
    finally:
        linux_mount.mount = plain
    sources = [m.source for m in await blocking.run("disk", mounts) if m.target == target]
    assert sources[0].startswith("/dev/loop")
    assert await tree_of(target) == await tree_of(str(node.tree))
    await node.mounts.detach(target)
    backing = Path(f"/sys/block/{sources[0].removeprefix('/dev/')}/loop/backing_file")
    await until(lambda: not (backing.exists() and str(node.tmp) in backing.read_text()))
