"""Each row of the hazard table (style.md section 2) that must be avoided is caught by a guard."""

import asyncio
import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from g8node.errors import Conflict, Unavailable
from g8node.g8ufs.session import Session
from g8node.linux import fusectl
from g8node.linux import mount as linux_mount
from g8node.runtime import blocking
from g8node.runtime.watchdog import Watchdog
from tests.support.agent import until
from tests.support.chunks import digests
from tests.support.mounted import Node, descriptors, drop_caches, in_child

TOP = Path(__file__).resolve().parent.parent.parent
RUFF = Path(sys.executable).parent / "ruff"


@pytest.mark.parametrize(
    "line",
    [
        "import os\n\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os\n\nos.fork()",
        "import os\n\nos.system('true')",
        "import os\n\nos.sync()",
        "import mmap\n\nmmap.mmap(0, 1)",
        "import multiprocessing\n\nmultiprocessing.Process()",
        "import asyncio\n\nasyncio.create_subprocess_exec('true')",
        "import asyncio\n\nasyncio.create_subprocess_shell('true')",
        "from pyroute2 import netns\n\nnetns.create('x')",
    ],
)
def test_lint_refuses_what_would_deadlock(line: str) -> None:
    argv = [str(RUFF), "check", "--stdin-filename", "g8node/node/snippet.py", "-"]
    done = subprocess.run(argv, cwd=TOP, input=line + "\n", capture_output=True, text=True)
    assert "TID251" in done.stdout, done.stdout + done.stderr


async def test_mount_calls_refuse_the_loop_thread() -> None:
    with pytest.raises(AssertionError, match="blocks"):
        linux_mount.mount("none", "/nowhere", "tmpfs")
    with pytest.raises(AssertionError, match="blocks"):
        linux_mount.unmount("/nowhere")


def test_session_refuses_stock_asyncio(tmp_path: Path) -> None:
    start = Session(str(tmp_path)).start()
    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
        pytest.raises(Unavailable, match="uvloop"),
    ):
        runner.run(start)


@pytest.mark.root
@pytest.mark.fuse
@in_child
async def test_second_session_is_refused(node: Node) -> None:
    with pytest.raises(Conflict, match="one per process"):
        await Session(str(node.tmp / "second")).start()
    await node.attach()


@pytest.mark.root
@pytest.mark.fuse
@in_child
async def test_handler_bug_is_an_error_and_the_mount_lives(node: Node) -> None:
    target = await node.attach()
    operations = node.mounts._session._operations
    entry = next(iter(operations.by_inode.values()))
    sound = entry.file.read

    async def bug(offset: int, length: int) -> bytes:
        raise ZeroDivisionError("a bug")

    entry.file.read = bug  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Input/output"):
        await node.read(f"{target}/size4097")
    entry.file.read = sound  # type: ignore[method-assign]
    assert len(await node.read(f"{target}/size4097")) == 4097


def errno_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.root
@pytest.mark.fuse
@in_child
async def test_every_handler_of_a_read_only_folder_answers(node: Node) -> None:
    await node.attach()
    place = node.mounts._session.mountpoint
    assert len(await blocking.run("path", os.listdir, place)) == 1
    name = (await blocking.run("path", os.listdir, place))[0]
    assert (await blocking.run("path", os.statvfs, place)).f_namemax == 255
    for attempt, expected in (
        (lambda: os.stat(f"{place}/absent"), errno.ENOENT),
        (lambda: os.open(f"{place}/{name}", os.O_RDWR), errno.EROFS),
        (lambda: os.mkdir(f"{place}/new"), errno.EROFS),
        (lambda: os.unlink(f"{place}/{name}"), errno.EROFS),
        (lambda: os.readlink(f"{place}/{name}"), errno.EINVAL),
        (lambda: os.getxattr(f"{place}/{name}", "user.x"), errno.ENODATA),
        (lambda: os.listdir(f"{place}/{name}"), errno.ENOTDIR),
    ):
        assert await blocking.run("path", errno_of, attempt) == expected


@pytest.mark.root
@pytest.mark.fuse
@in_child
async def test_process_holds_no_descriptor_of_its_own_session(node: Node) -> None:
    """A child of vfork closes what it inherited while Python 3.11.2 holds the GIL: our loop never answers."""
    target = await node.attach()
    await blocking.run("path", digests, target)
    await blocking.run("disk", drop_caches)
    await blocking.run("path", digests, target)
    place = node.mounts._session.mountpoint
    assert not [path for path in descriptors().values() if path.startswith((place, target))]


@pytest.mark.root
@pytest.mark.fuse
@in_child(stalls=True)
async def test_aborted_session_says_so_and_a_new_one_starts(node: Node) -> None:
    target = await node.attach()
    session = node.mounts._session
    await blocking.run("path", linux_mount.unmount, target)
    _, minor = await blocking.run("path", fusectl.device_of, session.mountpoint)
    await blocking.run("path", fusectl.abort, minor)
    await until(lambda: not session.running)
    assert session.failure
    with pytest.raises(Unavailable, match="does not run"):
        await node.attach("other")
    await node.restart()
    target = await node.attach("third")
    assert await blocking.run("path", digests, target) == await blocking.run("path", digests, str(node.tree))


@pytest.mark.root
@pytest.mark.fuse
@in_child(stalls=True)
async def test_block_in_a_fuse_handler_is_caught_by_the_watchdog(node: Node) -> None:
    target = await node.attach()
    entry = next(iter(node.mounts._session._operations.by_inode.values()))
    sound = entry.file.read

    async def blocks(offset: int, length: int) -> bytes:
        time.sleep(0.5)  # noqa: ASYNC251 - the slip that the watchdog is there for
        return bytes(await sound(offset, length))

    watchdog = Watchdog(interval_s=0.005, hang_s=0)
    watchdog.start()
    entry.file.read = blocks  # type: ignore[method-assign]
    while not any("blocks" in stall.stack for stall in watchdog.stalls):
        # On a busy machine its thread may look too late, or have seen another stall begin.
        await blocking.run("disk", drop_caches)
        await node.read(f"{target}/size4097")
    watchdog.stop()


async def storm(node: Node, seconds: float) -> None:
    """Readers killed at random moments, so long and 20 at least, while the page cache is dropped."""
    target = await node.attach()
    expected = await blocking.run("path", digests, target)
    files = [f"{target}/{name}" for name in expected] * 50
    choice = random.Random(1)
    killed = 0
    readers: list[subprocess.Popen[bytes]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or killed < 20:
        while len(readers) < 6:
            readers.append(await blocking.run("path", start_reader, files))
        if killed % 10 == 0:
            await blocking.run("disk", drop_caches)
        await asyncio.sleep(choice.uniform(0.0, 0.01))
        victim = readers.pop(choice.randrange(len(readers)))
        await blocking.run("path", kill, victim)
        killed += 1
    for reader in readers:
        await blocking.run("path", kill, reader)
    await blocking.run("disk", drop_caches)
    assert await blocking.run("path", digests, target) == expected
    assert node.mounts._session.running


def start_reader(files: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["/bin/cat", *files], cwd="/", stdout=subprocess.DEVNULL)


def kill(reader: "subprocess.Popen[bytes]") -> None:
    reader.kill()
    reader.wait()


@pytest.mark.root
@pytest.mark.fuse
@in_child(stalls=True)
async def test_killed_readers_leave_the_mount_working(node: Node) -> None:
    await storm(node, 5)


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.slow
@in_child(stalls=True, deadline_s=300)
async def test_killed_readers_for_a_minute_leave_the_mount_working(node: Node) -> None:
    await storm(node, 60)
