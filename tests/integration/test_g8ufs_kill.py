"""An agent killed with -9 while it fetches: what its cache holds afterwards is right, whatever it is."""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from g8node.errors import Unavailable
from g8node.flist.image import prepare
from g8node.flist.plan import ChunkRef
from g8node.g8ufs.segments import Key, SegmentLog
from g8node.linux import fusectl
from tests.support.acceptance import until
from tests.support.daemon import Daemon, daemon
from tests.support.hub import RunningHub, hub
from tests.support.images import busybox_tree, publish

pytestmark = [pytest.mark.root, pytest.mark.fuse]

# All of it dies with the first process: the agent, its redis, the containers.
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@" & wait', "sh"]
READ = "find /data /small -type f | sort | xargs md5sum"
SMALL = 400
BUDGET = 1 << 30


class Inner(Daemon):
    """The agent itself is below `unshare` and the shell."""

    @property
    def pid(self) -> int:
        pid = self.process.pid
        for _ in ("shell", "agent"):
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return pid


class Killed:
    """A Hub with an image of many chunks, and one agent folder that survives its agents."""

    def __init__(self, folder: Path, running: RunningHub) -> None:
        self.tree = busybox_tree(folder / "tree")
        (self.tree / "small").mkdir()
        for number in range(SMALL):
            content = random.Random(1000 + number).randbytes(200 + 97 * number)
            (self.tree / f"small/{number}").write_bytes(content)
        self.url = publish(running, self.tree, "killed")
        self.folder = folder / "agent"
        plan = prepare(str(folder / "killed.flist"), str(folder / "prepared")).plan
        self.refs: list[ChunkRef] = [plan.chunk(slot) for slot in range(plan.chunk_count)]

    @contextmanager
    def agent(self) -> Iterator[Daemon]:
        # One megabyte in flight at once: there is time to be killed in.
        with daemon(self.folder, "[g8ufs]\nfetch_bytes = 1048576\n", prefix=ALONE, kind=Inner) as node:
            minor = node.session_minor()
            try:
                yield node
            finally:
                node.process.kill()
                node.process.wait()
                # A thread that waits for a page that its own process serves does not die of a signal.
                fusectl.abort(minor)

    def kill_while_fetching(self, share: float) -> None:
        """Start, read all in a container, and kill once so much of what was missing has come."""
        with self.agent() as node:
            if node.direct("g8ufs.stats")["cache"]["chunks"] > len(self.refs) // 2:
                node.direct("g8ufs.drop")
            held = node.direct("g8ufs.stats")["cache"]["chunks"]
            enough = held + int(share * (len(self.refs) - held))
            node.push("corex.create", {"root": self.url, "nics": [], "command": ["sh", "-c", READ]})
            until(lambda: node.direct("g8ufs.stats")["fetches"]["chunks"] + held > enough, "chunks")

    def check(self) -> int:
        """The chunks that the cache has; each must be what it should be."""
        self._wait_for_the_lock()
        log = SegmentLog(str(self.folder / "root/var/cache/g8node/chunks"), BUDGET)
        try:
            found = log.read_many([Key(ref.id, ref.key) for ref in self.refs])
        finally:
            log.close()
        for ref, plain in zip(self.refs, found, strict=True):
            if plain is not None:
                assert hashlib.blake2b(plain, digest_size=32).digest() == ref.key, ref.file_name
        return sum(plain is not None for plain in found)

    def _wait_for_the_lock(self) -> None:
        """The kernel may still be ending the agent, which is not our child."""

        def free() -> bool:
            try:
                SegmentLog(str(self.folder / "root/var/cache/g8node/chunks"), BUDGET).close()
            except Unavailable:
                return False
            return True

        until(free, "the end of the killed agent")

    def read_all(self) -> None:
        """Once more, from what is there and the Hub: every file as in the tree."""
        with self.agent() as node:
            create = {"root": self.url, "nics": []}
            container = int(json.loads(node.job("corex.create", create)["data"]))
            said = node.run_in(container, READ)["streams"][0].splitlines()
            node.direct("corex.terminate", container=container)
        files = [path for name in ("data", "small") for path in (self.tree / name).iterdir()]
        expected = {f"/{path.relative_to(self.tree)}": path.read_bytes() for path in files}
        assert dict(reversed(line.split("  ")) for line in said) == {
            name: hashlib.md5(content).hexdigest() for name, content in expected.items()
        }


def killed(folder: Path, times: int) -> None:
    rng = random.Random(times)
    with hub(folder) as running:
        killed = Killed(folder, running)
        held = []
        for _ in range(times):
            killed.kill_while_fetching(rng.uniform(0, 0.9))
            held.append(killed.check())
        assert any(0 < count < len(killed.refs) for count in held), held
        killed.read_all()
        assert killed.check() > len(killed.refs) // 2
    shutil.rmtree(folder, ignore_errors=True)


def test_cache_of_an_agent_killed_three_times_is_right(tmp_path: Path) -> None:
    killed(tmp_path, 3)


@pytest.mark.soak
def test_cache_of_an_agent_killed_twenty_times_is_right(tmp_path: Path) -> None:
    killed(tmp_path, 20)
