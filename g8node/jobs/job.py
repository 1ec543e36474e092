"""One job: its request, its log's tail and its end (async).

A job is listed from acceptance until it is finished. Only the manager changes `phase`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from g8node.errors import Conflict
from g8node.jobs.model import END, Command, Flag, Level, Message, Result

if TYPE_CHECKING:
    from g8node.jobs.outcome import Outcome

Phase = Literal["queued", "running", "waiting", "finished"]
BACKLOG = 10
BACKLOG_CHARS = 1 << 20
"""A message may have megabytes; then fewer are kept."""

_LONG = BACKLOG_CHARS // BACKLOG


class Run(Protocol):
    """A process that is being run for a job."""

    @property
    def pid(self) -> int: ...

    def signal(self, number: int) -> bool: ...


Listener = Callable[[Message], None]
Log = Callable[["Job", Message], None]
OnEnd = Callable[["Job", Result], None]
OnRun = Callable[["Job", "Outcome"], None]


class Job:
    """What the manager keeps of an accepted command."""

    __slots__ = (
        "_log",
        "_resting",
        "_result",
        "_waiters",
        "accepted_ms",
        "backlog",
        "begun_s",
        "container",
        "critical",
        "duration_ms",
        "early",
        "emitting",
        "follows",
        "internal",
        "listeners",
        "on_end",
        "on_run",
        "phase",
        "protected",
        "request",
        "run",
        "runs",
        "started_ms",
        "unscheduled",
    )

    def __init__(
        self,
        request: Command,
        log: Log,
        *,
        container: int = 0,
        protected: bool = False,
        internal: bool = False,
    ) -> None:
        self.request = request
        self.container = container
        self.protected = protected
        self.internal = internal
        self.phase: Phase = "queued"
        self.accepted_ms = time.time_ns() // 1_000_000
        self.started_ms = 0
        self.begun_s = 0.0  # as started_ms, of the clock that nobody sets
        self.duration_ms = 0
        self.runs = 0
        self.unscheduled = False
        self.critical = ""
        self.early: set[int] = set()
        self.run: Run | None = None
        self.backlog: deque[Message] = deque(maxlen=BACKLOG)
        self.listeners: list[Listener] = []
        self.on_end: list[OnEnd] = []
        self.on_run: list[OnRun] = []
        self.follows: Job | None = None
        self.emitting = False
        self._log = log
        self._resting: asyncio.Event | None = None
        self._result: Result | None = None
        self._waiters: list[asyncio.Future[Result]] = []

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def pid(self) -> int:
        """The process of the current run, 0 between runs and for builtins."""
        return self.run.pid if self.run is not None else 0

    def emit(self, level: int, text: str, flags: Flag | int = 0) -> None:
        """Add a message to the job's log: backlog, loggers, subscribers, and `stream:<id>` if it streams."""
        if level == Level.CRITICAL:
            self.critical = text
        if self.request.stream:
            flags |= Flag.STREAM
        message = Message(text, time.time_ns(), level << 16 | int(flags))
        self.backlog.append(message)
        if len(text) > _LONG:
            self._shorten()
        self._log(self, message)
        if self.listeners and not self.emitting:
            self.emitting = True  # two jobs that follow each other must not recurse
            try:
                for listener in tuple(self.listeners):
                    listener(message)
            finally:
                self.emitting = False

    def _shorten(self) -> None:
        size = sum(len(message.message) for message in self.backlog)
        while size > BACKLOG_CHARS and len(self.backlog) > 1:
            size -= len(self.backlog.popleft().message)

    def end(self, level: int, text: str, *, ok: bool) -> None:
        """The one message that closes a run."""
        self.emit(level, text, (Flag.SUCCESS if ok else Flag.ERROR) & END)

    def kill(self, number: int) -> None:
        """Send a signal to the process group of the current run; builtins ignore it.

        A process that is still being started gets it as soon as it is there.
        Between runs there is nothing to signal, and the next run must not be hit: Conflict.
        """
        if self.phase != "running":
            raise Conflict(f"job {self.id!r} is not running")
        if self.run is not None:
            self.run.signal(number)
        else:
            self.early.add(number)

    def attach(self, run: Run) -> None:
        """From here signals go to that run, the first ones being those that came before it was there."""
        self.run = run
        for number in self.early:
            run.signal(number)

    def unschedule(self) -> None:
        """No further run: ends a wait between runs, or prevents the next one. Not for protected jobs."""
        if not self.protected:
            self.unscheduled = True
            if self._resting is not None:
                self._resting.set()

    async def rest(self, seconds: float) -> None:
        """Wait between two runs; `unschedule` and `release` end it."""
        self._resting = asyncio.Event()
        try:
            await asyncio.wait_for(self._resting.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            self._resting = None

    def release(self) -> None:
        """Shutdown: neither protection nor recurrence brings the job back."""
        self.protected = False
        self.unschedule()

    async def result(self) -> Result:
        """The job's one result; waits for the end of its last run. Safe to cancel."""
        if self._result is not None:
            return self._result
        waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def finish(self, result: Result) -> None:
        """Called once, by the manager."""
        self.phase = "finished"
        self._result = result
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(result)
