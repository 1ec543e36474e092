"""Runs the boot services (async): slice after slice, those of a slice at once; spec core0-protocol 1.5.

Each service is the job of its id. It waits for those it comes after in its own slice; all others count as
there. Its first outcome is final: ready (its delay passed, its output matched, or it exited well) or failed
(it exited badly before that, could not start, or was not ready by its deadline). Who comes after a failed
service is skipped; the others go on, so nothing blocks a boot.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from g8node.boot.services import DELAY_S, SLICES, Plan, Service, Slice
from g8node.errors import Conflict, DeadlineExceeded, NodeError, NotFound, Unavailable
from g8node.jobs.job import Job
from g8node.jobs.manager import Manager
from g8node.jobs.model import Command, Level, Message, Result
from g8node.jobs.outcome import Outcome
from g8node.node.services import ServiceRow, State
from g8node.runtime import logs

log = logs.get("services")

_REASON_MAX = 300
_MATCHED_MAX = 32 << 10
_LINE_MAX = 4096
_STOP_GRACE_S = 10.0
_KILL_GRACE_S = 5.0


@dataclass(slots=True)
class _Unit:
    """A service and how it does. `settled` is set at its first outcome."""

    service: Service
    state: State = "waiting"
    reason: str = ""
    restarts: int = 0
    ready_s: float | None = None
    job: Job | None = None
    outcome: "asyncio.Future[str] | None" = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_ready(self) -> bool:
        return self.state in ("running", "done")

    @property
    def shown(self) -> State:
        """A protected service that failed first and stays up now is running."""
        job = self.job
        if self.state == "failed" and job is not None and job.protected and job.phase == "running":
            age_s = time.monotonic() - job.begun_s
            return "running" if age_s > (self.service.delay_s or DELAY_S) else "failed"
        return self.state

    @property
    def is_stopped(self) -> bool:
        return self.state == "stopped"

    @property
    def is_live(self) -> bool:
        return self.job is not None and self.job.phase != "finished"

    def row(self) -> ServiceRow:
        startup = self.service.startup
        return ServiceRow(
            id=self.service.id,
            slice=self.service.slice,
            state=self.shown,
            reason=self.reason,
            command=startup.name,
            after=list(startup.after),
            protected=startup.protected,
            pid=self.job.pid if self.job is not None else 0,
            restarts=self.restarts,
            ready_s=self.ready_s,
        )


class Sequencer:
    """Owner of the boot services, and what `service.*` works on."""

    def __init__(
        self,
        jobs: Manager,
        plan: Plan,
        *,
        online: Callable[[], Awaitable[None]],
        submit: Callable[..., Job] | None = None,
    ) -> None:
        """`online` returns when the network is up, or not worth waiting for any more.

        `submit` takes the place of the manager's, for services that are not the node's own.
        """
        self._submit_job = submit or jobs.submit
        self._plan = plan
        self._online = online
        self._units = {id: _Unit(service) for id, service in plan.services.items()}
        self._stage = "waiting"
        for problem in plan.problems:
            log.error(problem)
        if submit is None:
            jobs.counters["services"] = self.state

    async def run(self) -> None:
        """All slices in their order. Safe to call again after it was cancelled: what has begun stays."""
        for name in SLICES:
            if name == "net":
                await self._online()
            self._stage = name
            await self.run_slice(name)
        self._stage = "done"

    async def run_slice(self, name: Slice) -> None:
        """Returns when every service of the slice has an outcome."""
        units = [unit for unit in self._units.values() if unit.service.slice == name]
        if not units:
            return
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for unit in units:
                group.create_task(self._in_turn(unit), name=f"service {unit.service.id}")
        ready = sum(unit.is_ready for unit in units)
        failed = [unit.service.id for unit in units if unit.state == "failed"]
        log.info(
            f"slice {name}: {ready} of {len(units)} services ready, {time.monotonic() - began:.1f}s",
            **({"failed": ", ".join(failed)} if failed else {}),
        )

    async def _in_turn(self, unit: _Unit) -> None:
        for id in unit.service.after:
            earlier = self._units[id]
            await earlier.settled.wait()
            if not earlier.is_ready and unit.state == "waiting":
                self._skip(unit, f"{id} is {earlier.state}")
                return
        async with unit.lock:
            if unit.state != "waiting":  # an operator was faster
                return
            if not unit.service.wanted:
                self._skip(unit, f"condition is false: {unit.service.startup.condition}")
                return
            await self._launch(unit)

    def _skip(self, unit: _Unit, reason: str) -> None:
        unit.state, unit.reason = "skipped", reason
        unit.settled.set()
        if unit.service.wanted:
            log.warning(f"service {unit.service.id}: skipped", reason=reason)

    # One service

    async def _launch(self, unit: _Unit) -> None:
        """Submit the job and wait for its outcome. Does not raise NodeErrors: the outcome says it."""
        unit.state, unit.reason, unit.restarts, unit.ready_s = "starting", "", 0, None
        unit.outcome = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        try:
            failure = await self._outcome(unit)
        except NodeError as error:
            failure = str(error)
        finally:  # whoever waits for it goes on, also when we are cancelled
            unit.settled.set()
            if unit.state == "starting":
                unit.state = "running" if unit.is_live else "done"
        if unit.is_stopped:
            unit.reason = "stopped while it was starting"
        elif failure:
            self._failed(unit, failure)
        else:
            unit.ready_s = round(time.monotonic() - began, 3)

    async def _outcome(self, unit: _Unit) -> str:
        """The reason of a failure, "" when it is ready."""
        service, outcome = unit.service, unit.outcome
        assert outcome is not None
        job = unit.job = self._submit(unit)
        for message in tuple(job.backlog):
            self._look(unit, message)
        limit_s = service.startup.deadline if service.delay_s is None else service.delay_s

        def listener(message: Message) -> None:
            self._look(unit, message)

        job.listeners.append(listener)
        try:
            return await asyncio.wait_for(asyncio.shield(outcome), limit_s)
        except TimeoutError:
            if outcome.done():  # in the turn of the loop in which the time was over
                return outcome.result()
            return "" if service.delay_s is not None else f"not ready within {limit_s:g} s"
        finally:
            job.listeners.remove(listener)

    def _submit(self, unit: _Unit) -> Job:
        startup = unit.service.startup
        return self._submit_job(
            Command.make(
                unit.service.id,
                startup.name,
                unit.service.args,
                recurring_period=startup.recurring_period,
                max_restart=startup.max_restart,
                tags=startup.tags,
            ),
            protected=startup.protected,
            on_run=lambda job, end: self._ran(unit, job, end),
            on_end=lambda job, result: self._ended(unit, job, result),
        )

    def _look(self, unit: _Unit, message: Message) -> None:
        pattern = unit.service.match
        if pattern is None or message.ended:
            return
        # Lines that were written at once are one message, and how they arrive is chance.
        lines = message.message[:_MATCHED_MAX].splitlines(keepends=True)
        if any(pattern.search(line[:_LINE_MAX]) for line in lines):
            self._settle(unit, "")

    def _settle(self, unit: _Unit, failure: str) -> None:
        if unit.outcome is not None and not unit.outcome.done():
            unit.outcome.set_result(failure)

    def _ran(self, unit: _Unit, job: Job, end: Outcome) -> None:
        """A run has ended: the outcome, if it is the first; a job that is not rerun is told by `_ended`."""
        again = job.protected or bool(job.request.recurring_period)
        if end.ok:
            self._settle(unit, "")
        elif again:
            self._settle(unit, _reason(end))
        if job.protected:
            unit.restarts += 1
            unit.reason = _reason(end)
            if unit.settled.is_set():
                log.warning(f"service {unit.service.id}: ended, is started again", reason=unit.reason)

    def _ended(self, unit: _Unit, job: Job, result: Result) -> None:
        """The job is over for good."""
        was_settled = unit.settled.is_set()
        self._settle(unit, "" if result.ok else _reason(result))
        if unit.state in ("starting", "running") and result.ok:
            unit.state = "done"
        elif unit.state == "running" and job.unscheduled:  # shutdown, or an operator's job.unschedule
            unit.state = "stopped"
        elif unit.state == "running" and was_settled:
            self._failed(unit, _reason(result))

    def _failed(self, unit: _Unit, reason: str) -> None:
        unit.state, unit.reason = "failed", reason
        log.error(f"service {unit.service.id}: failed", reason=reason)

    # What commands ask for

    def rows(self) -> list[ServiceRow]:
        """All services; what was dropped has nothing but its reason."""
        dropped = [
            ServiceRow(id, "", "dropped", reason, "", [], False, 0, 0, None)
            for id, reason in self._plan.dropped.items()
            if id not in self._units
        ]
        return [unit.row() for unit in self._units.values()] + dropped

    def state(self) -> dict[str, Any]:
        """For core.state: how far the boot is, and every service that is not well with its reason."""
        rows = self.rows()
        unwell = {row.id: row.reason for row in rows if row.state in ("failed", "dropped")}
        return {
            "stage": self._stage,
            "ready": sum(row.state in ("running", "done") for row in rows),
            "count": len(rows),
            "failed": unwell,
        }

    def _get(self, id: str) -> _Unit:
        if (unit := self._units.get(id)) is None:
            if id in self._plan.dropped:
                raise Conflict(f"service {id!r} was dropped: {self._plan.dropped[id]}")
            raise NotFound(f"service {id!r} does not exist")
        return unit

    async def start(self, id: str) -> ServiceRow:
        """As `node.services.Services` has it."""
        unit = self._get(id)
        async with unit.lock:
            if unit.is_live:
                raise Conflict(f"service {id!r} is {unit.state}")
            return await self._started(unit)

    async def stop(self, id: str) -> ServiceRow:
        """As `node.services.Services` has it."""
        unit = self._get(id)
        if not unit.is_live:
            raise Conflict(f"service {id!r} does not run")
        await self._end(unit)
        return unit.row()

    async def restart(self, id: str) -> ServiceRow:
        """As `node.services.Services` has it."""
        unit = self._get(id)
        if unit.is_live:
            await self._end(unit)
        async with unit.lock:
            if unit.is_live:
                raise Conflict(f"service {id!r} is {unit.state}")
            return await self._started(unit)

    async def _started(self, unit: _Unit) -> ServiceRow:
        await self._launch(unit)
        if not unit.is_ready:
            raise Unavailable(f"service {unit.service.id!r}: {unit.reason}")
        return unit.row()

    async def _end(self, unit: _Unit) -> None:
        """TERM, then KILL; DeadlineExceeded for a job that hears neither (a builtin)."""
        job = unit.job
        assert job is not None
        unit.state, unit.reason = "stopped", ""
        job.release()
        for number, grace_s in ((15, _STOP_GRACE_S), (9, _KILL_GRACE_S)):
            with contextlib.suppress(Conflict):  # between two runs: `release` has ended it
                job.kill(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.result(), grace_s)
                break
        if unit.is_live:
            raise DeadlineExceeded(
                f"service {unit.service.id!r} does not end", hint="it is a builtin command"
            )
        unit.state, unit.reason = "stopped", ""
        log.info(f"service {unit.service.id}: stopped")


def _reason(end: Outcome | Result) -> str:
    """Why a run ended: state, exit code, and the last line that it printed."""
    if end.state == "UNKNOWN_CMD":
        return "unknown command"
    if end.ok:
        return "it exited"
    what = {999: "killed by a signal"}.get(end.code, f"code {end.code}")
    if end.code > 1000:
        what = f"exit code {end.code - 1000}"
    if end.state == "TIMEOUT":
        what = "max_time is over"
    stdout, stderr = end.streams if isinstance(end.streams, tuple) else ("", "")
    line = next((text.strip().splitlines()[-1] for text in (stderr, stdout, _text(end)) if text.strip()), "")
    return f"{what}: {line[:_REASON_MAX]}" if line else what


def _text(end: Outcome | Result) -> str:
    """The message of a builtin's error, which is a JSON string; a spawn error is plain text."""
    if end.level != Level.RESULT_JSON:
        return end.data
    try:
        return str(msgspec.json.decode(end.data))
    except msgspec.MsgspecError:
        return end.data
