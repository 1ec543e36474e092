"""Tests that need an agent's mount namespace and sub-reaper run in a child of pytest.

    @in_agent
    async def test_container_prints(agent: Agent) -> None: ...

The function runs in a fresh interpreter, on uvloop, with a real `Containers` over a busybox root; pytest sees
a plain test that fails with the child's traceback.
"""

import asyncio
import contextlib
import functools
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from g8node.linux.namespace import prepare_agent_namespace
from g8node.node.container import Container
from g8node.node.containers import Containers
from g8node.node.crun import Streams
from g8node.node.specs import Spec
from g8node.runtime import blocking
from g8node.runtime.process import Child, Reaper
from tests.support.rootfs import FolderMounts, make_rootfs

TOP = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 180


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Running:
    """A started process whose output goes to memory."""

    child: Child
    stdout: int
    stderr: int

    def output(self) -> str:
        return os.pread(self.stdout, 1 << 20, 0).decode()

    async def ended(self) -> Ended:
        code = await self.child.wait()
        out, err = (os.pread(fd, 1 << 20, 0).decode() for fd in (self.stdout, self.stderr))
        os.close(self.stdout)
        os.close(self.stderr)
        return Ended(code, out, err)


class Agent:
    """What a test gets."""

    def __init__(self, tmp: Path, root: Path, reaper: Reaper, starts: int) -> None:
        self.tmp = tmp
        self.root = root
        self.reaper = reaper
        self.mounts = FolderMounts()
        self.containers = Containers(
            reaper, self.mounts, folder=f"{tmp}/run/containers", state=f"{tmp}/run/crun", starts=starts
        )

    def spec(self, **fields: Any) -> Spec:
        return msgspec.convert({"root": str(self.root), **fields}, Spec)

    async def start(self, command: str | list[str] | None = None, **fields: Any) -> tuple[Container, Running]:
        container = await self.containers.prepare(self.spec(command=command, **fields))
        with _streams() as (streams, out, err):
            child = await self.containers.start(container, streams)
        try:
            await came_to_exec(child.pid)
        except asyncio.CancelledError:
            self.containers.abandon(container)
            raise
        return container, Running(child, out, err)

    async def run(self, command: str | list[str], **fields: Any) -> Ended:
        """A container from start to nothing left."""
        container, running = await self.start(command, **fields)
        ended = await running.ended()
        await container.gone.wait()
        return ended

    async def exec(self, container: Container, *argv: str, stdin: bytes = b"", **options: Any) -> Running:
        with _streams(stdin) as (streams, out, err):
            child = await self.containers.exec(container.id, argv, streams, **options)
        return Running(child, out, err)

    async def output(self, container: Container, *argv: str, **options: Any) -> Ended:
        return await (await self.exec(container, *argv, **options)).ended()

    def traces(self) -> dict[str, Any]:
        """Everything that a container could leave behind (a namespace lives by a process or a mount)."""
        return {
            "mounts": sorted(mounts_now()),
            "children": sorted(children()),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "folders": sorted(folder for folder, _, _ in os.walk(self.tmp / "run")),
            "attached": sorted(self.mounts.attached),
        }

    async def leaves(self, before: dict[str, Any]) -> None:
        """There is nothing more than there was: children are collected, and pipes closed, a moment later."""

        def nothing_more() -> bool:
            now = self.traces()
            return now["descriptors"] <= before["descriptors"] and all(
                Counter(now[what]) <= Counter(before[what]) for what in now.keys() - {"descriptors"}
            )

        try:
            await until(nothing_more)
        except TimeoutError:
            assert self.traces() == before


@contextlib.contextmanager
def _streams(stdin: bytes = b"") -> Iterator[tuple[Streams, int, int]]:
    out, err = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("out", "err"))
    source = os.memfd_create("in", os.MFD_CLOEXEC) if stdin else os.open("/dev/null", os.O_RDONLY)
    os.write(source, stdin) if stdin else None
    os.lseek(source, 0, os.SEEK_SET) if stdin else None
    try:
        yield Streams(source, out, err), out, err
    except BaseException:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(source)


def children() -> list[int]:
    """Pids of our children, zombies included."""
    return [
        int(pid)
        for task in os.listdir("/proc/self/task")
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split()
    ]


async def came_to_exec(pid: int) -> None:
    """The process runs what it is to be: the runtime ends a moment before."""

    def is_runtime() -> bool:
        try:
            return "crun" in os.readlink(f"/proc/{pid}/exe")
        except OSError:  # it has ended
            return False

    await until(lambda: not is_runtime())


async def until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it is about the kernel's state, no task of ours changes it
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that anybody may pass, as that of pytest may not: each run of it closes those of all again."""
    with tempfile.TemporaryDirectory(prefix="g8-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def in_agent(
    test: Callable[[Agent], Awaitable[None]] | None = None, *, starts: int = 8, public: bool = False
) -> Callable[..., Any]:
    """Run the test in an agent of its own; see the module. `public`: in a `public_folder`."""
    if test is None:
        return functools.partial(in_agent, starts=starts, public=public)

    def run(tmp_path: Path) -> None:
        with public_folder() if public else contextlib.nullcontext(tmp_path) as folder:
            run_in(folder)

    def run_in(folder: Path) -> None:
        code = inspect.unwrap(test).__code__
        argv = [sys.executable, "-W", "error", "-m", "tests.support.agent"]
        argv += [code.co_filename, test.__name__, str(folder)]
        try:
            done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, timeout=DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"no end within {DEADLINE_S} s\n{_text(error.stderr)}") from None
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.scenario = test  # type: ignore[attr-defined]  # found by the child
    run.starts = starts  # type: ignore[attr-defined]
    return run


def _text(data: Any) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else str(data)


@contextlib.asynccontextmanager
async def opened(tmp: Path, starts: int) -> AsyncIterator[Agent]:
    """An agent's parts; nothing of a container may be left at the end."""
    reaper = Reaper(orphans=True)
    reaper.install()
    root = await blocking.run("path", make_rootfs, tmp / "tree")
    agent = Agent(tmp, root, reaper, starts)
    await agent.containers.open()
    try:
        yield agent
    finally:
        await agent.containers.close()
        with contextlib.suppress(TimeoutError):  # an orphan is collected when its signal has come
            await until(lambda: not children())
        reaper.uninstall()
    assert not [m for m in mounts_now() if m.startswith(str(tmp))]
    assert not children()


def mounts_now() -> list[str]:
    """Targets of the mounts that are here alone: those of the host come and go with it."""
    tables = []
    for pid in ("self", os.getppid()):
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as table:
            tables.append(Counter(line.split(" ")[4] for line in table))
    return list((tables[0] - tables[1]).elements())


def main(file: str, name: str, tmp: str) -> None:
    prepare_agent_namespace()
    spec = importlib.util.spec_from_file_location("scenario", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    test = getattr(module, name)

    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_S - 5), opened(Path(tmp), test.starts) as agent:
            await test.scenario(agent)

    uvloop.run(whole())
    blocking.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
