"""The job manager: every job's life from acceptance to its one result (async); spec core0-protocol 3.

queued → run → (wait → run)* → finished. Commands of one `queue` run strictly one after another. A builtin
that is a plain function runs inside `submit`, without a task; everything else has one task per job. A signal
that arrives between two runs is refused (Conflict), so it never hits the next run.
"""

import asyncio
import contextlib
import inspect
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec import UNSET

from g8node.errors import AlreadyExists, Exhausted, InvalidArgument, NodeError, Unavailable
from g8node.jobs import outcome as outcomes
from g8node.jobs.access import check_role
from g8node.jobs.containerlogs import Logs
from g8node.jobs.job import Job, OnEnd, OnRun
from g8node.jobs.model import LOCAL, Command, Level, Message, Result
from g8node.jobs.outcome import Outcome
from g8node.jobs.registry import Context, Registry
from g8node.jobs.runs import KILLED_CODE, Runner, Valve
from g8node.runtime import logs
from g8node.runtime.stdio import Process
from g8node.runtime.supervise import Backoff

if TYPE_CHECKING:
    from g8node.jobs.loggers import Loggers
    from g8node.node.node import Node

log = logs.get("jobs")

RESTART_S: Final = 1.0

Body = Callable[[Context], Any]
"""What a job does instead of a registered command: returns what a handler may return."""


class Sink(Protocol):
    """Where records and results go. Called on the loop, must not block, must not raise."""

    def accepted(self, job: Job) -> None: ...

    def record(self, job: Job, message: Message) -> None: ...

    def finished(self, job: Job, result: Result) -> None: ...


class Manager:
    """The job table. One per node."""

    def __init__(self, node: "Node", registry: Registry, *, environ: Mapping[str, str]) -> None:
        self.node = node
        self.registry = registry
        self.valve = Valve()
        self.sinks: list[Sink] = []
        self.counters: dict[str, Callable[[], dict[str, Any]]] = {}  # by subsystem, for core.state
        self.loggers: Loggers | None = None  # main makes it when the gate already answers
        self.container_logs = Logs()
        self.own_pid = os.getpid()
        self._max_jobs: int = node.config.main.max_jobs
        self._file_levels = frozenset(node.config.logging.file.levels)
        self._runner = Runner(node.reaper, environ, self.valve)
        self._jobs: dict[str, Job] = {}
        self._voices: dict[str, Job] = {}
        self._queues: dict[str, deque[Job]] = {}
        self._bodies: dict[Job, Body] = {}
        self._backoffs: dict[Job, Backoff] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._ending = False
        self._closed = False

    # What is there

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Every job from acceptance until it is finished, by id."""
        return self._jobs

    def find(self, id: str) -> Job | None:
        """The live job of that id, or the voice."""
        return self._jobs.get(id) or self._voices.get(id)

    def voice(self, id: str, name: str) -> Job:
        """What a subsystem speaks through: `emit` reaches every sink, nothing runs, the id is taken."""
        voice = self._voices[id] = Job(Command.make(id, name), self._log, internal=True)
        return voice

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    @property
    def room(self) -> int:
        """How many more jobs may be accepted (`main.max_jobs`)."""
        return max(self._max_jobs - len(self._jobs), 0)

    async def wait_for_room(self) -> None:
        """Back-pressure: returns when another job may be accepted."""
        while not self.room:
            self._room.clear()
            await self._room.wait()

    # Accepting

    def submit(
        self,
        command: Command,
        *,
        container: int = 0,
        runner: Body | None = None,
        protected: bool = False,
        internal: bool = True,
        on_end: OnEnd | None = None,
        on_run: OnRun | None = None,
    ) -> Job:
        """Accept a command and start it, or queue it. An empty id gets a fresh one.

        `runner` replaces the registered command, `container` is shown in result and records, `protected` jobs
        are always rerun, `internal` ones were not sent by a client. `on_end` is called once, with the result,
        `on_run` at the end of every run.
        Raises AlreadyExists for an id that is live and Exhausted at `main.max_jobs`.
        """
        if not command.id:
            command = msgspec.structs.replace(command, id=str(uuid.uuid4()))
        if self._closed:
            raise Unavailable("the node is shutting down")
        if self.find(command.id) is not None:
            raise AlreadyExists(f"job {command.id!r} exists")
        if not self.room:
            raise Exhausted(f"{self._max_jobs} jobs are running", hint="main.max_jobs")
        job = Job(command, self._log, container=container, protected=protected, internal=internal)
        job.on_end += [on_end] if on_end is not None else []
        job.on_run += [on_run] if on_run is not None else []
        if runner is not None:
            self._bodies[job] = runner
        self._jobs[command.id] = job
        for sink in self.sinks:
            sink.accepted(job)
        if command.queue:
            waiting = self._queues.setdefault(command.queue, deque())
            waiting.append(job)
            if len(waiting) > 1:
                return job
        self._start(job)
        return job

    def _start(self, job: Job) -> None:
        if job not in self._bodies and self.registry.find(job.request.command) is None:
            self._finish(job, Outcome("UNKNOWN_CMD"))
            return
        begun = self._begin(job)
        delay_s: float | None = None
        if isinstance(begun, Outcome):
            delay_s = self._settle(job, begun)
            if delay_s is None:
                self._finish(job, begun)
                return
        task = asyncio.create_task(self._drive(job, begun, delay_s), name=f"job {job.id}")
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._driven(task, job, begun))

    def _driven(self, task: "asyncio.Task[None]", job: Job, begun: Any) -> None:
        self._tasks.discard(task)
        if job.phase != "finished":  # cancelled before its first step
            if inspect.iscoroutine(begun):
                begun.close()
            self._finish(job, Outcome("ERROR", KILLED_CODE))

    # Running

    def _begin(self, job: Job) -> Any:
        """Call the handler: an Outcome when it is done, else a Process or an awaitable."""
        job.phase = "running"
        job.runs += 1
        job.critical = ""
        job.early.clear()
        job.started_ms = time.time_ns() // 1_000_000
        job.begun_s = time.monotonic()
        ctx = Context(self.node, job, self)
        try:
            if (body := self._bodies.get(job)) is not None:
                value = body(ctx)
            else:
                spec = self.registry.get(job.request.command)
                check_role(job.request.caller or LOCAL, spec.role, spec.name)
                value = spec.call(ctx, job.request.arguments)
            if isinstance(value, Process) or inspect.isawaitable(value):
                return value
            return value if isinstance(value, Outcome) else outcomes.success(value)
        except Exception as error:  # noqa: BLE001 - the border of the job: a bug in a builtin fails its job only
            return self._failed(job, error)

    def _failed(self, job: Job, error: BaseException) -> Outcome:
        if not isinstance(error, NodeError):
            log.error("bug in a command", job=job.id, command=job.request.command, exc_info=error)
        return outcomes.failure(error)

    async def _drive(self, job: Job, begun: Any, delay_s: float | None) -> None:
        """Everything after the first call; `delay_s` is given when that call was a whole run."""
        end = begun if isinstance(begun, Outcome) else Outcome("ERROR", KILLED_CODE)
        try:
            while True:
                if not isinstance(begun, Outcome):
                    end = await self._complete(job, begun)
                    delay_s = self._settle(job, end)
                if delay_s is None:
                    break
                job.phase = "waiting"
                await job.rest(delay_s)
                if job.unscheduled and not job.protected:
                    break
                begun = self._begin(job)
                if isinstance(begun, Outcome):
                    end, delay_s = begun, self._settle(job, begun)
        except asyncio.CancelledError:
            if job.phase == "running":  # who follows it must not wait for the end of a run that was cut off
                job.end(Level.STDERR, "", ok=False)
            raise
        finally:
            self._finish(job, end)

    async def _complete(self, job: Job, begun: Any) -> Outcome:
        if isinstance(begun, Process):
            return await self._process(job, begun)
        try:
            async with asyncio.timeout(job.request.max_time or None) as limit:
                value = await begun
            if isinstance(value, Outcome):
                return value
            if not isinstance(value, Process):
                return outcomes.success(value)
        except TimeoutError as error:
            return outcomes.timeout(job.request.max_time) if limit.expired() else self._failed(job, error)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            return self._failed(job, error)
        except Exception as error:  # noqa: BLE001 - as in _begin
            return self._failed(job, error)
        return await self._process(job, value)

    async def _process(self, job: Job, process: Process) -> Outcome:
        try:
            return await self._runner.run(job, process)
        except Exception as error:  # noqa: BLE001 - as in _begin
            return self._failed(job, error)

    def _settle(self, job: Job, end: Outcome) -> float | None:
        """A run has ended: its end message, and the delay until the next one.

        The end message of a builtin is its result; processes have sent theirs.
        """
        job.duration_ms = int((time.monotonic() - job.begun_s) * 1000)
        if end.streams is UNSET and end.level:
            job.end(end.level, end.data, ok=end.ok)
        for on_run in job.on_run:
            on_run(job, end)
        return self._delay(job, end)

    def _delay(self, job: Job, end: Outcome) -> float | None:
        """Seconds until the next run, None for no further run (spec 3.3, in its order)."""
        request = job.request
        if job.protected:
            backoff = self._backoffs.setdefault(job, Backoff())
            return float(int(backoff.next(time.monotonic())))
        if job.unscheduled:
            return None
        if request.recurring_period:
            return float(request.recurring_period)
        if not end.ok and job.runs < request.max_restart:
            return RESTART_S
        return None

    # Ending

    def _finish(self, job: Job, end: Outcome) -> None:
        request = job.request
        result = Result(
            request.id,
            request.command,
            end.state,
            end.code,
            end.data,
            end.level,
            job.started_ms or job.accepted_ms,
            job.duration_ms,
            request.tags,
            job.container,
            end.streams,
            job.critical or UNSET,
            end.signal,
        )
        del self._jobs[request.id]
        self._bodies.pop(job, None)
        self._backoffs.pop(job, None)
        job.finish(result)
        for sink in self.sinks:
            sink.finished(job, result)
        for on_end in job.on_end:
            on_end(job, result)
        self._room.set()
        if request.queue:
            self._next_in(request.queue)

    def _next_in(self, name: str) -> None:
        waiting = self._queues[name]
        waiting.popleft()
        if waiting and not self._closed:
            # Not from here: a queue of a thousand plain builtins would nest as deep.
            asyncio.get_running_loop().call_soon(self._start_next, waiting[0])
        elif not waiting:
            del self._queues[name]

    def _start_next(self, job: Job) -> None:
        if self._ending:
            self._finish(job, Outcome("ERROR", KILLED_CODE))
        else:
            self._start(job)

    def _log(self, job: Job, message: Message) -> None:
        if message.message and message.level in self._file_levels:
            log.debug(f"[{job.container}]{job.id} {message.level}|{message.message}")
        for sink in self.sinks:
            sink.record(job, message)

    # Control

    def kill(self, id: str, number: int = 15) -> bool:
        """Signal a job's process group; False when there is no such job. Conflict while it is not running."""
        if not 0 < number <= 64:
            raise InvalidArgument(f"signal: expected 1..64, not {number}")
        if (job := self.find(id)) is None:
            return False
        job.kill(number)
        return True

    def unschedule(self, id: str) -> bool:
        """No further run of that job; False when there is none."""
        if (job := self.find(id)) is None:
            return False
        job.unschedule()
        return True

    def kill_all(self, number: int = 15, *, keep: Callable[[Job], bool] | None = None) -> list[Job]:
        """Signal every running job that is not protected (nor kept); returns those signalled."""
        hit = []
        for job in self:
            if job.protected or (keep is not None and keep(job)):
                continue
            with contextlib.suppress(NodeError):
                job.kill(number)
                hit.append(job)
        return hit

    async def shutdown(self, *, keep: Callable[[Job], bool], grace_s: float) -> None:
        """Spec 3.4: TERM to every process (protection and recurrence cleared), wait, then KILL the rest.

        What waits in a queue is not begun any more.
        """
        self._ending = True
        for job in self:
            if not keep(job):
                job.release()
        ending = [job for job in self.kill_all(15, keep=keep) if job.pid]
        await _ended(ending, grace_s)
        for job in ending:
            with contextlib.suppress(NodeError):
                job.kill(9)
        await _ended(ending, min(grace_s, 5.0))

    async def close(self) -> None:
        """Cancel what is left; processes are killed with their groups."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for job in self:  # what still waited in a queue
            self._finish(job, Outcome("ERROR", KILLED_CODE))


async def _ended(jobs: list[Job], limit_s: float) -> None:
    live = [asyncio.ensure_future(job.result()) for job in jobs if job.phase != "finished"]
    if live:
        _, late = await asyncio.wait(live, timeout=limit_s)
        for waiter in late:
            waiter.cancel()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
