"""The bus between redis and the job manager (async); spec core0-protocol 2.

Theory of operation. Commands are moved from `core:default` to `core:pending` by redis itself, checked against
the flags, submitted, and trimmed from `core:pending` in the same write that pushes their flags and takes the
next commands (outbox.py). Whatever breaks in between, a popped command is in `core:pending` or in the
manager, never in neither: after a break the outbox first repeats its last write, and then what is left in
`core:pending` is what nobody has seen yet. A duplicate (its flag exists, or the job is known here) is
dropped: its one result answers both.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import msgspec

from g8node.errors import AlreadyExists, Exhausted, InvalidArgument, NotFound, Unavailable
from g8node.jobs.job import Job
from g8node.jobs.known import FINGERPRINT_BYTES, Known
from g8node.jobs.link import REFUSED_S, RETRY_S, Link, ReplyError, Script
from g8node.jobs.manager import Manager
from g8node.jobs.model import LOCAL, Caller, Command, Flag, Message, Record, Result, decode_command
from g8node.jobs.outbox import PENDING, QUEUE, RESULT_TTL_S, Entry, Outbox
from g8node.runtime import logs

log = logs.get("bus")

_BATCH: Final = 256
_BATCH_BYTES: Final = 32 << 20
_BLOCK_S: Final = 10
_PATIENCE_S: Final = 5.0
_KNOWN_MAX: Final = 20_000
_SORTED_BYTES: Final = 64 << 10

_SEEN = """
local seen = {}
for i, id in ipairs(ARGV) do seen[i] = redis.call('EXISTS', 'result:' .. id .. ':flag') end
return seen
"""


_encode = msgspec.json.Encoder().encode


class Bus:
    """Pops commands, publishes what the manager produces. Counters are for `core.state`."""

    def __init__(self, manager: Manager, socket: str) -> None:
        self.socket = socket
        self.link = Link(socket)
        self.outbox = Outbox(self.link, manager.valve)
        self.undecodable = 0
        self.duplicates = 0
        self._manager = manager
        self._closing = False
        self._blocking = Link(socket)
        self._seen = Script(self.link, _SEEN)
        self._known = Known(_KNOWN_MAX, RESULT_TTL_S)
        self._claims: OrderedDict[str, Caller] = OrderedDict()
        manager.sinks.append(self)
        manager.counters["bus"] = self.state

    # What the manager produces

    def accepted(self, job: Job) -> None:
        """Sink of the manager: what a client sent gets its flag, through a container as well."""
        if not job.internal:
            self._claims.pop(job.id, None)
            self.outbox.flag(job.id)

    def record(self, job: Job, message: Message) -> None:
        """Sink of the manager: a streaming job's records go to `stream:<id>`."""
        if message.meta & Flag.STREAM:
            self.outbox.stream(job.id, _encode(Record(job.container, job.id, message)))

    def finished(self, job: Job, result: Result) -> None:
        """Sink of the manager: every job's result is published."""
        if not job.internal:
            request = job.request
            self._known.add(request.id, fingerprint(request), _owner(request), time.monotonic())
        self.outbox.result(result.id, _encode(result))

    def _is_known(self, id: str) -> bool:
        if self._manager.find(id) is not None:
            return True
        return self._known.owner(id, time.monotonic()) is not None

    def claim(self, id: str, caller: Caller) -> None:
        """A command of that id is about to be pushed; the first claim of an unknown id stands."""
        if self.owner(id) is None:
            self._claims[id] = caller
            if len(self._claims) > _KNOWN_MAX:
                self._claims.popitem(last=False)

    def owner(self, id: str) -> Caller | None:
        """Who sent that job, queued, live or finished; None when nobody knows."""
        if (job := self._manager.find(id)) is not None:
            return _owner(job.request)
        return self._known.owner(id, time.monotonic()) or self._claims.get(id)

    # What clients send

    async def run(self) -> None:
        """Both directions, for ever; redis may come and go."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.outbox.run())
            group.create_task(self._pop())

    async def close(self) -> None:
        """Take no more commands, write what is still unsent, then break the connections.

        Waits for as long as redis is away: the caller has a time limit. `run` must be going.
        """
        self._closing = True
        await self._blocking.close()
        try:
            await self.outbox.flushed()
        finally:
            await self.link.close()

    async def _pop(self) -> None:
        complained = False
        while not self._closing:
            try:
                await self._pop_batch()
                complained = False
            except (Unavailable, Exhausted):  # what is in core:pending is taken again
                await asyncio.sleep(RETRY_S)
            except ReplyError as error:  # e.g. core:default is no list
                if not complained:
                    log.error("commands cannot be read", error=str(error))
                complained = True
                await asyncio.sleep(REFUSED_S)

    async def _pop_batch(self) -> None:
        await self._manager.wait_for_room()
        entries = await self.outbox.take(min(_BATCH, self._manager.room), _BATCH_BYTES)
        if not entries:  # nothing is pending, so that what comes next is all there is
            data = await self._blocking.call("BLMOVE", QUEUE, PENDING, "LEFT", "RIGHT", _BLOCK_S)
            entries = [] if data is None else [Entry(data)]
        if entries:
            await self._accept(entries)

    async def _accept(self, entries: list[Entry]) -> None:
        """Submit the commands of a batch. Nothing awaits between the first submission and the trim."""
        decoded = ((entry, self._decoded(entry.data)) for entry in entries)
        commands = [(entry, command) for entry, command in decoded if command is not None]
        unsure = [command.id for entry, command in commands if command.id.encode() != entry.id]
        flagged = dict(zip(unsure, await self._seen(*unsure), strict=True)) if unsure else {}
        for entry, command in commands:
            if flagged.get(command.id, entry.has_flag) or self._is_known(command.id):
                self._duplicate(command)
            else:
                self.submit(command)
        self.outbox.trim(len(entries))

    def _decoded(self, entry: bytes) -> Command | None:
        try:
            return decode_command(entry)
        except InvalidArgument as error:
            self.undecodable += 1
            log.error("command dropped", level=8, error=str(error), entry=entry[:200])
            return None

    def _duplicate(self, command: Command) -> None:
        self.duplicates += 1
        live = self._manager.find(command.id)
        if live is not None and live.internal:
            log.error("command dropped: a job of the node has its id", level=8, job=command.id)

    def submit(self, command: Command) -> Job:
        """Accept a client's command: its flag, then the job. The id must be new; errors as Manager.submit."""
        if self._manager.find(command.id) is not None:
            raise AlreadyExists(f"job {command.id!r} exists")
        if not self._manager.room:
            raise Exhausted("too many jobs are running", hint="main.max_jobs")
        return self._manager.submit(command, internal=False)

    async def call(self, command: Command) -> Result:
        """Run a direct command to its result, as `take`."""
        taken = await self.take(command, self.submit)
        return taken if isinstance(taken, Result) else await taken.result()

    async def take(self, command: Command, submit: Callable[[Command], Job]) -> Job | Result:
        """Accept a direct command by way of `submit`; an empty id gets a fresh one.

        A known id answers with the job or the one result there is, or AlreadyExists when it was used with
        another command or other arguments.
        """
        if not command.id:
            return submit(msgspec.structs.replace(command, id=str(uuid.uuid4())))
        while (job := self._manager.find(command.id)) is None:
            was_known = self._is_known(command.id)
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    earlier = await self._earlier(command, was_known=was_known)
            except TimeoutError as error:
                raise Unavailable("redis does not answer") from error
            if earlier is not None:
                return earlier
            # Others ran while redis was asked: who sent the same may have his job by now, or his result.
            if self._manager.find(command.id) is None and (was_known or not self._is_known(command.id)):
                return submit(command)
        if fingerprint(job.request) != fingerprint(command):
            raise AlreadyExists(f"job {command.id!r} is another command")
        return job

    async def _earlier(self, command: Command, *, was_known: bool) -> Result | None:
        """The published result of that id, if redis has it; None, too, if it is known only now."""
        await self.outbox.flushed()
        flag = f"result:{command.id}:flag"
        if not await self.link.call_patiently("EXISTS", flag, limit_s=_PATIENCE_S):
            return None
        data = await self.link.call_patiently("LINDEX", f"result:{command.id}", 0, limit_s=_PATIENCE_S)
        if data is None:
            if self._manager.find(command.id) is not None or (self._is_known(command.id) and not was_known):
                return None
            raise NotFound(f"the result of job {command.id!r} was taken")
        result = msgspec.json.decode(data, type=Result)
        known = self._known.fingerprint(command.id, time.monotonic())
        if result.command != command.command or known not in (None, fingerprint(command)):
            raise AlreadyExists(f"job {command.id!r} was another command")
        return result

    def state(self) -> dict[str, Any]:
        """Counters for `core.state`."""
        return {
            "undecodable": self.undecodable,
            "duplicates": self.duplicates,
            "dropped": self.outbox.dropped,
            "connected": self.link.is_open,
        }


def _owner(command: Command) -> Caller:
    return command.caller or LOCAL


def fingerprint(command: Command) -> bytes:
    """Same for the same command with the same arguments, in any layout of the JSON (if that is not large)."""
    arguments = bytes(command.arguments)
    if len(arguments) <= _SORTED_BYTES:  # sorting a million keys would hold up the loop
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            arguments = msgspec.json.encode(msgspec.json.decode(arguments), order="deterministic")
    return hashlib.blake2b(
        command.command.encode() + b"\0" + arguments, digest_size=FINGERPRINT_BYTES
    ).digest()
