"""One run of a process for a job: pipes, output levels, signals, exit code (async).

The rules are those of spec core0-protocol 2.4 and 3.2. What a process leaves running in the background with
its output elsewhere outlives the job, unless the job was killed or timed out.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec import UNSET

from g8node.errors import InvalidArgument, NodeError, NotFound
from g8node.jobs.job import Job
from g8node.jobs.model import RESULT_LEVELS, Level
from g8node.jobs.outcome import Outcome
from g8node.linux.launch import launch_argv
from g8node.linux.spawn import packed_env
from g8node.runtime import blocking
from g8node.runtime.process import Child, Reaper
from g8node.runtime.stdio import CHUNK_BYTES, Pipes, Process
from g8node.wire.levels import LevelParser, Text

STREAM_CHUNKS: Final = 100
STREAM_CHUNKS_LEAST: Final = 4
KEPT_BYTES: Final = 256 << 20
KILL_GRACE_S: Final = 1.0
"""How long what escaped the process group may keep a killed job's pipes open."""

KILLED_CODE: Final = 999
_ENDING = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


class Store:
    """How much output all running jobs keep together, in bytes."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self.most = most
        self.used = 0


class Tail:
    """The last STREAM_CHUNKS chunks of a stream, all but the newest full, however it arrived.

    When all streams together keep too much, those that go on keep STREAM_CHUNKS_LEAST.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._chunks: deque[str] = deque()
        self._pieces: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        start = 0
        while self._size + len(text) - start > CHUNK_BYTES:
            end = start + CHUNK_BYTES - self._size
            self._pieces.append(text[start:end])
            self._seal()
            start = end
        self._pieces.append(text[start:])
        self._size += len(text) - start

    def _seal(self) -> None:
        if not self._pieces:
            return
        chunk = "".join(self._pieces)
        self._pieces, self._size = [], 0
        self._chunks.append(chunk)
        self._store.used += sys.getsizeof(chunk)
        while len(self._chunks) > STREAM_CHUNKS or (
            self._store.used > self._store.most and len(self._chunks) > STREAM_CHUNKS_LEAST
        ):
            self._drop()

    def _drop(self) -> None:
        self._store.used -= sys.getsizeof(self._chunks.popleft())

    def text(self) -> str:
        self._seal()
        return "".join(self._chunks)

    def close(self) -> None:
        """Keep nothing any more."""
        self._pieces.clear()
        while self._chunks:
            self._drop()


class Pausable(Protocol):
    """What leaves output in its pipes when told so."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Valve:
    """Back-pressure: while shut, output of streaming jobs is left in their pipes."""

    def __init__(self) -> None:
        self.is_shut = False
        self._paused: list[Pausable] = []

    def shut(self) -> None:
        self.is_shut = True

    def open(self) -> None:
        self.is_shut = False
        paused, self._paused = self._paused, []
        for pipes in paused:
            pipes.resume()

    def hold(self, pipes: Pausable) -> None:
        pipes.pause()
        self._paused.append(pipes)


class Runner:
    """Starts processes with the node's environment."""

    def __init__(self, reaper: Reaper, environ: Mapping[str, str], valve: Valve) -> None:
        self._reaper = reaper
        self._environ = dict(environ)
        self._packed = packed_env(self._environ)
        self.valve = valve
        self.kept = Store()

    async def run(self, job: Job, process: Process) -> Outcome:
        """Run it to its end: exit and end of both outputs. Cancelling kills the process group."""
        return await ProcessRun(job, process, self).run()

    async def start(self, process: Process, pipes: Pipes) -> Child:
        """Raises OSError or NodeError when it cannot be started."""
        if process.start is not None:
            child = await process.start(*pipes.open_child_ends())
            pipes.release_child_ends()
            return child
        _check_text(process)
        path = self._environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        env = packed_env(self._environ | dict(process.env)) if process.env else self._packed
        if "/" not in process.argv[0] and process.cwd in ("", "/"):
            # A look-up in PATH stays on the root file system; any other path may be one that we serve.
            with contextlib.suppress(OSError):  # launch_argv knows more, or says it better
                return await self._spawn(process.argv, env, pipes, search=path)
        argv = await blocking.run("path", launch_argv, process.argv, process.cwd or "/", path)
        return await self._spawn(argv, env, pipes)

    async def _spawn(
        self, argv: Sequence[str], env: bytes, pipes: Pipes, *, search: str | None = None
    ) -> Child:
        given = stdin, stdout, stderr = pipes.give_child_ends()
        try:
            return await self._reaper.spawn(
                argv, env=env, stdin=stdin, stdout=stdout, stderr=stderr, search=search, give=True
            )
        except Exception:  # cancelled, it closes them itself
            pipes.child_fds = given
            raise


def _check_text(process: Process) -> None:
    if not process.argv or not process.argv[0]:
        raise InvalidArgument("name: expected the name of a program, got an empty string")
    for what, text in (("arguments", "".join(process.argv)), ("dir", process.cwd)):
        if "\0" in text:
            raise InvalidArgument(f"{what}: a NUL character cannot be passed to a process")
    for name, value in (process.env or {}).items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidArgument(f"env: {name[:80]!r} is no valid variable")


class ProcessRun:
    """One run; it is the job's `run` while the process lives."""

    def __init__(self, job: Job, process: Process, runner: Runner) -> None:
        self._job = job
        self._process = process
        self._runner = runner
        self._child: Child | None = None
        self._pipes: Pipes | None = None
        self._killed = False
        self._tails = {Level.STDOUT: Tail(runner.kept), Level.STDERR: Tail(runner.kept)}
        self._parsers: dict[Level, LevelParser] = {}  # of what has written anything
        self._data = ""
        self._data_level = 0

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    async def run(self) -> Outcome:
        try:
            return await self._run()
        finally:
            for tail in self._tails.values():
                tail.close()

    async def _run(self) -> Outcome:
        try:
            pipes = self._pipes = Pipes(
                self._process.stdin,
                lambda data: self._feed(Level.STDOUT, data),
                lambda data: self._feed(Level.STDERR, data),
            )
        except OSError as error:
            return self._not_started(error)
        try:
            code = await self._to_end(pipes)
        except (NodeError, OSError) as error:
            return self._not_started(error)
        except asyncio.CancelledError:
            self._killed = True
            raise
        finally:
            self._job.run = None
            if self._killed:
                self._signal_group(signal.SIGKILL)
            pipes.close()
        for level in sorted(self._parsers):
            self._emit(self._parsers[level].close())
        return self._ended(code)

    async def _to_end(self, pipes: Pipes) -> int | None:
        """The exit code; None after max_time."""
        limit_s = self._job.request.max_time
        try:
            async with asyncio.timeout(limit_s) if limit_s else contextlib.nullcontext():
                child = self._child = await self._runner.start(self._process, pipes)
                self._job.attach(self)
                code = await child.wait()
                self._cut_later()
                await pipes.drained()
                return code
        except TimeoutError:
            pass
        if self._child is None:
            return None
        self.signal(signal.SIGKILL)
        await self._child.wait()
        self._cut_later()
        await pipes.drained()
        return None

    def _cut_later(self) -> None:
        if self._killed and self._child is not None and not self._child.running:
            asyncio.get_running_loop().call_later(KILL_GRACE_S, self._cut)

    def _cut(self) -> None:
        """A killed job ends, whoever still holds its pipes."""
        if self._job.run is self and self._pipes is not None:
            self._signal_group(signal.SIGKILL)
            self._pipes.stdout.close()
            self._pipes.stderr.close()

    def signal(self, number: int) -> bool:
        """Signal the process group, also when its leader is gone and others keep the job alive."""
        if number in _ENDING:
            self._killed = True
            self._cut_later()
        return self._signal_group(number)

    def _signal_group(self, number: int) -> bool:
        child = self._child
        if child is None:
            return False
        if child.running:
            return child.signal(number)
        # The leader is reaped. Its number stays the group's as long as the group has members; a process that
        # has the number now is a stranger, and so may be the group.
        if os.path.exists(f"/proc/{child.group}"):
            return False
        try:
            os.killpg(child.group, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _feed(self, level: Level, data: bytes) -> None:
        parser = self._parsers.get(level)
        if parser is None:
            parser = self._parsers[level] = LevelParser(level)
        self._emit(parser.feed(data))
        if self._runner.valve.is_shut and self._job.request.stream and self._pipes is not None:
            self._runner.valve.hold(self._pipes)

    def _emit(self, messages: list[Text]) -> None:
        for level, text in messages:
            if level in self._tails:
                self._tails[Level(level)].add(text)
            elif level in RESULT_LEVELS:
                self._data, self._data_level = text, level
            self._job.emit(level, text)

    def _not_started(self, error: NodeError | OSError) -> Outcome:
        """Plain text, no streams (spec 2.4): 404 when the binary is not there."""
        if isinstance(error, NodeError):
            code = error.status
        else:
            code = NotFound.status if isinstance(error, FileNotFoundError) else 0
        text = str(error) if isinstance(error, NodeError) else _os_text(error)
        self._job.end(Level.STDERR, text, ok=False)
        return Outcome("ERROR", code, text)

    def _ended(self, code: int | None) -> Outcome:
        ok = code == 0
        self._job.end(Level.STDOUT if ok else Level.STDERR, "", ok=ok)
        streams = (self._tails[Level.STDOUT].text(), self._tails[Level.STDERR].text())
        if code is None:
            return Outcome("TIMEOUT", KILLED_CODE, self._data, self._data_level, streams, int(signal.SIGKILL))
        status = 0 if ok else KILLED_CODE if code < 0 else 1000 + code
        killer = -code if code < 0 else UNSET
        return Outcome("SUCCESS" if ok else "ERROR", status, self._data, self._data_level, streams, killer)


def _os_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
