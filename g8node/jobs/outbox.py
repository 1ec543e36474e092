"""Everything the bus writes to redis, in order and exactly once, and the taking of commands (async).

Theory of operation. Flags, results and stream records are queued here and leave in batches, each by one Lua
script, which redis runs and logs as a whole; it also takes commands, after what was queued before, so that
this costs no trip of its own. A batch has a token that the script stores: when a connection breaks and nobody
can say whether the batch was applied, it is sent again, and the script writes nothing when it finds its
token. So an outage delays writes but neither loses nor doubles them. What piles up meanwhile is bounded: a
job's unsent stream records to what the list keeps anyway, results by bytes.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from g8node.errors import Unavailable
from g8node.jobs.link import REFUSED_S, RETRY_S, Arg, Link, ReplyError, Script
from g8node.jobs.runs import Valve
from g8node.runtime import logs

log = logs.get("bus")

RESULT_TTL_S: Final = 300
STREAM_TTL_S: Final = 60
STREAM_KEPT: Final = 1000
QUEUE: Final = "core:default"
PENDING: Final = "core:pending"

_BATCH_OPS = 512
_BATCH_BYTES = 4 << 20
_HIGH_BYTES = 16 << 20
_LOW_BYTES = 4 << 20
_RESULT_BYTES = 256 << 20

# ARGV[2], ARGV[3]: what is pending is topped up from the queue to so many entries or bytes. The id whose
# flag is looked for is only a guess.
_WRITE = f"""
local function take(most, bytes)
  local entries = redis.call('LRANGE', '{PENDING}', 0, most - 1)
  local size, ids, flags = 0, {{}}, {{}}
  for _, entry in ipairs(entries) do size = size + #entry end
  while #entries < most and size < bytes do
    local entry = redis.call('LMOVE', '{QUEUE}', '{PENDING}', 'LEFT', 'RIGHT')
    if not entry then break end
    entries[#entries + 1] = entry
    size = size + #entry
  end
  for i, entry in ipairs(entries) do
    ids[i] = string.match(entry, '"id"%s*:%s*"([^"]*)"') or ''
    flags[i] = redis.call('EXISTS', 'result:' .. ids[i] .. ':flag')
  end
  return {{entries, ids, flags}}
end
local i = 4
if redis.call('GET', 'core:outbox') == ARGV[1] then i = #ARGV + 1 end
if i <= #ARGV then redis.call('SET', 'core:outbox', ARGV[1]) end
while i <= #ARGV do
  local op, id = ARGV[i], ARGV[i + 1]
  if op == 'F' then
    local flag = 'result:' .. id .. ':flag'
    redis.call('DEL', flag)
    redis.call('RPUSH', flag, '')
    i = i + 2
  elseif op == 'R' then
    local key = 'result:' .. id
    redis.call('EXPIRE', key .. ':flag', {RESULT_TTL_S})
    redis.call('DEL', key)
    redis.call('RPUSH', key, ARGV[i + 2])
    redis.call('EXPIRE', key, {RESULT_TTL_S})
    i = i + 3
  elseif op == 'S' then
    local key, last = 'stream:' .. id, i + 2 + tonumber(ARGV[i + 2])
    if redis.call('TYPE', key).ok ~= 'list' then redis.call('DEL', key) end
    for n = i + 3, last do redis.call('RPUSH', key, ARGV[n]) end
    redis.call('LTRIM', key, -{STREAM_KEPT}, -1)
    redis.call('EXPIRE', key, {STREAM_TTL_S})
    i = last + 1
  else
    redis.call('LTRIM', '{PENDING}', id, -1)
    i = i + 2
  end
end
if ARGV[2] == '0' then return 0 end
local ok, taken = pcall(take, tonumber(ARGV[2]), tonumber(ARGV[3]))
if not ok then return taken.err or tostring(taken) end
return taken
"""


@dataclass(slots=True, eq=False)
class _Op:
    kind: str  # F: flag, R: result, S: stream records, T: trim of core:pending
    id: str
    data: deque[bytes] = field(default_factory=lambda: deque(maxlen=STREAM_KEPT))
    size: int = 0

    def args(self) -> list[Arg]:
        if self.kind == "S":
            return ["S", self.id, len(self.data), *self.data]
        return [self.kind, self.id, *self.data]

    def key(self) -> str:
        if self.kind == "S":
            return f"stream:{self.id}"
        return f"result:{self.id}:flag" if self.kind == "F" else f"result:{self.id}"


class Entry(NamedTuple):
    """A command as it was pushed, and whether the flag of `id`, which need not be its id, exists."""

    data: bytes
    id: bytes = b""
    has_flag: int = 0


@dataclass(slots=True, eq=False)
class _Take:
    most: int
    size: int
    entries: "asyncio.Future[list[Entry]]"

    def answer(self, reply: Any) -> None:
        if self.entries.done():
            return
        if isinstance(reply, list):
            self.entries.set_result([Entry(*row) for row in zip(*reply, strict=True)])
        else:  # the text of an error: what was written beside it stands
            self.entries.set_exception(ReplyError(reply.decode(errors="replace")))


class Outbox:
    """The queue of writes and the task that empties it. `on_pushed` hears the keys of each batch."""

    def __init__(self, link: Link, valve: Valve) -> None:
        self.on_pushed: Callable[[list[str]], None] | None = None
        self.dropped = 0
        self._link = link
        self._valve = valve
        self._write = Script(link, _WRITE)
        self._ops: deque[_Op] = deque()
        self._streams: dict[str, _Op] = {}
        self._size = 0
        self._work = asyncio.Event()
        self._epoch = uuid.uuid4().hex
        self._sequence = 0
        self._batch: list[_Op] = []
        self._take: _Take | None = None
        self._queued = 0
        self._written = 0
        self._watchers: deque[tuple[int, asyncio.Future[None]]] = deque()

    def flag(self, id: str) -> None:
        """The command is accepted."""
        self._add(_Op("F", id))

    def trim(self, count: int) -> None:
        """The first `count` entries of core:pending have been dealt with."""
        self._add(_Op("T", str(count)))

    def result(self, id: str, data: bytes) -> None:
        """The job is finished."""
        self._streams.pop(id, None)
        op = _Op("R", id, size=len(data))
        op.data.append(data)
        self._add(op)
        while self._size > _RESULT_BYTES and self._drop_oldest():
            pass

    def stream(self, id: str, record: bytes) -> None:
        """A record for `stream:<id>`; the oldest unsent ones give way, as in the list itself."""
        op = self._streams.get(id)
        if op is None:
            op = self._streams[id] = _Op("S", id)
            self._add(op)
        if len(op.data) == STREAM_KEPT:
            op.size -= len(op.data[0])
            self._size -= len(op.data[0])
        op.data.append(record)
        op.size += len(record)
        self._size += len(record)
        if self._size > _HIGH_BYTES and self._link.is_open:
            self._valve.shut()

    def _add(self, op: _Op) -> None:
        self._ops.append(op)
        self._queued += 1
        self._size += op.size
        self._work.set()

    def _drop_oldest(self) -> bool:
        """redis is away for long: give up the oldest result or stream."""
        for op in self._ops:
            if op.kind in "RS":
                self._streams.pop(op.id, None)
                self._size -= op.size
                op.kind, op.id, op.size = "T", "0", 0  # a trim of nothing keeps the count of writes
                op.data.clear()
                self.dropped += 1
                return True
        return False

    async def flushed(self) -> None:
        """Returns when everything queued so far is in redis."""
        if self._written >= self._queued:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append((self._queued, future))
        await future

    async def take(self, most: int, size: int) -> list[Entry]:
        """What is in core:pending, topped up from the queue to `most` entries or `size` bytes.

        It waits until everything queued before is in redis, also for as long as redis is away. ReplyError
        when redis does not let it be read. One caller at a time.
        """
        take = self._take = _Take(most, size, asyncio.get_running_loop().create_future())
        self._work.set()
        return await take.entries

    async def run(self) -> None:
        """Write batches for ever. Cancelling keeps what is unsent for the next `run`."""
        while True:
            if not self._batch:
                while not self._ops and self._wanted() is None:
                    self._work.clear()
                    await self._work.wait()
                self._batch = self._next_batch()
                self._sequence += 1
            await self._apply(self._batch)
            batch, self._batch = self._batch, []
            self._size -= sum(op.size for op in batch)
            self._written += len(batch)
            self._settle(batch)

    def _next_batch(self) -> list[_Op]:
        batch: list[_Op] = []
        size = 0
        while (
            self._ops and len(batch) < _BATCH_OPS and (not batch or size + self._ops[0].size <= _BATCH_BYTES)
        ):
            op = self._ops.popleft()
            if op.kind == "S" and self._streams.get(op.id) is op:
                del self._streams[op.id]
            size += op.size
            batch.append(op)
        return batch

    async def _apply(self, batch: list[_Op]) -> None:
        args: list[Arg] = []
        for op in batch:
            args += op.args()
        complained = False
        while True:
            take = self._wanted()
            limits = (0, 0) if take is None else (take.most, take.size)
            try:
                reply = await self._write(f"{self._epoch}:{self._sequence}", *limits, *args)
            except Unavailable:
                self._valve.open()
                await asyncio.sleep(RETRY_S)
            except ReplyError as error:  # out of memory, its disk is full: later
                if not complained:
                    log.error("redis refuses a write, which is kept and repeated", error=str(error))
                complained = True
                await asyncio.sleep(REFUSED_S)
            else:
                if take is not None:
                    take.answer(reply)
                return

    def _wanted(self) -> _Take | None:
        """The take to send with a batch: nothing that was queued before it may still be here."""
        take = self._take
        return None if take is None or take.entries.done() or self._ops else take

    def _settle(self, batch: list[_Op]) -> None:
        if self._valve.is_shut and self._size < _LOW_BYTES:
            self._valve.open()
        while self._watchers and self._watchers[0][0] <= self._written:
            _, future = self._watchers.popleft()
            if not future.done():
                future.set_result(None)
        if self.on_pushed is not None:
            self.on_pushed([op.key() for op in batch if op.kind != "T"])
