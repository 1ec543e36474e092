"""The audit log (async-safe): who did what, from where, when, with what result.

A record is a JSON object of the fields of `Entry`. Each goes to the loggers as a level-6 message of the
pseudo-job `audit`, so that it is kept, streamed and shipped as any other log; and, without arguments and at
most LINES_PER_S a second, to the runtime log as component `audit`, so that a flood of refusals cannot hold up
a serial console.

What is recorded: every AUTH, every connection with a client certificate, every refusal, and begin and end of
each command that needs more than the role reader. What readers may do changes nothing and is not recorded.
Refusals are recorded at most REFUSALS_PER_S a second, so that nobody can flush the log with them;
`core.state` counts what was left out.
"""

import time
from typing import Any, Final

import msgspec
from msgspec import Struct

from g8node.jobs import discreet
from g8node.jobs.job import Job
from g8node.jobs.manager import Manager
from g8node.jobs.model import Caller, Level, Message, Result, Role
from g8node.runtime import logs

log = logs.get("audit")

LINES_PER_S: Final = 20
REFUSALS_PER_S: Final = 50
_SHOWN: Final = 256


class Entry(Struct, frozen=True, omit_defaults=True):
    """`when` in ms since the epoch; `what` is auth, connect, call, begin or end."""

    when: int
    who: str
    role: str
    what: str
    result: str
    address: str = ""
    command: str = ""
    id: str = ""
    arguments: str = ""
    reason: str = ""
    took_ms: int = 0


class _PerSecond:
    """So many a second, no more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._taken = 0

    def take(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self._most


class Audit:
    """A sink of the manager; the gate tells it what happens at the door."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._source = manager.voice("audit", "gate.audit")
        self._lines = _PerSecond(LINES_PER_S)
        self._refusals = _PerSecond(REFUSALS_PER_S)
        self.records = 0
        self.suppressed = 0
        manager.sinks.append(self)
        manager.counters["audit"] = self.state

    def state(self) -> dict[str, Any]:
        return {"records": self.records, "suppressed": self.suppressed}

    # What the gate tells

    def auth(self, address: str, caller: Caller | None, *, way: str, reason: str = "") -> None:
        """Somebody said who he is; `way` is password, token or certificate."""
        result = "accepted" if caller is not None else "refused"
        self._add(caller, what="auth", address=address, command=way, result=result, reason=reason)

    def refused(self, address: str, caller: Caller | None, word: str, reason: str) -> None:
        """A request that the caller may not make."""
        self._add(
            caller,
            what="call",
            address=address,
            command=word[:_SHOWN],
            result="refused",
            reason=reason[:_SHOWN],
        )

    # What the manager tells

    def accepted(self, job: Job) -> None:
        """Sink of the manager."""
        if self._concerns(job):
            shown = bytes(discreet.arguments(job.request.arguments))[:_SHOWN].decode("utf-8", "replace")
            self._add(
                job.request.caller,
                what="begin",
                command=job.request.command,
                id=job.id[:_SHOWN],
                arguments=shown,
                result="accepted",
            )

    def record(self, job: Job, message: Message) -> None:
        """Sink of the manager; what jobs say is no concern of ours."""

    def finished(self, job: Job, result: Result) -> None:
        """Sink of the manager."""
        if self._concerns(job):
            self._add(
                job.request.caller,
                what="end",
                command=result.command,
                id=job.id[:_SHOWN],
                result=result.state,
                reason=str(result.code) if result.code else "",
                took_ms=result.time,
            )

    def _concerns(self, job: Job) -> bool:
        """Commands of callers that are more than questions; unknown ones too."""
        if job.internal or job.request.caller is None:
            return False
        spec = self._manager.registry.find(job.request.command)
        return spec is None or spec.role > Role.READER

    # Records

    def _add(self, caller: Caller | None, **fields: Any) -> None:
        if fields["result"] == "refused" and not self._refusals.take():
            self.suppressed += 1
            return
        who, role = (caller.name, caller.role) if caller is not None else ("nobody", "")
        entry = Entry(when=time.time_ns() // 1_000_000, who=who, role=role, **fields)
        self.records += 1
        self._source.emit(Level.STRUCTURED, msgspec.json.encode(entry).decode())
        if entry.what != "begin":
            self._print(entry)

    def _print(self, entry: Entry) -> None:
        if not self._lines.take():
            self.suppressed += 1
            return
        fields = {name: value for name, value in msgspec.structs.asdict(entry).items() if value}
        say = log.warning if entry.result == "refused" else log.info
        say(fields.pop("what"), **fields)
