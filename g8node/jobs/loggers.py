"""Log records for subscribers: `logger:<name>` lists in redis (async); spec core0-protocol 5.1.

Theory of operation. Every message of every job is kept in a ring of the last BACKLOG records. A subscription
begins with what the ring has and gets what its levels want, the end messages always. What waits for redis is
bounded for each subscription by number and bytes; when it is too much, other records give way to the end
messages, which only give way to newer ones. In redis a list is trimmed to `logging.ledis.size` records and to
its part of LISTS_BYTES. A list without a subscription stays for LEFT_S.
"""

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from g8node.errors import Exhausted, InvalidArgument, Unavailable
from g8node.jobs.job import Job
from g8node.jobs.link import Link, ReplyError
from g8node.jobs.model import Message, Record, Result
from g8node.jobs.once import OnceWriter

BACKLOG: Final = 1000
RING_BYTES: Final = 16 << 20
WAITING: Final = 10_000
WAITING_BYTES: Final = 16 << 20
LIST_BYTES: Final = 64 << 20
LISTS_BYTES: Final = 256 << 20
LEFT_S: Final = 3600
PATIENCE_S: Final = 5.0
MAX_SUBSCRIPTIONS: Final = 64
_OVERHEAD: Final = 160  # of a record beside its text
_BATCH: Final = 512
_BATCH_BYTES: Final = 1 << 20

_PUSH = """
local key, size, bytes = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('TYPE', key).ok ~= 'list' then redis.call('DEL', key) end
redis.call('PERSIST', key)
for n = 5, #ARGV do redis.call('RPUSH', key, ARGV[n]) end
redis.call('LTRIM', key, -size, -1)
if redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 8) > bytes then
  redis.call('LTRIM', key, -math.max(1, math.floor(redis.call('LLEN', key) / 2)), -1)
end
"""

_encode = msgspec.json.Encoder().encode


def _cost(record: Record) -> int:
    return len(record.message.message) + _OVERHEAD


@dataclass(slots=True, eq=False)
class Subscription:
    """A list, the levels it wants (none: all), and what it has not got yet."""

    key: str
    levels: frozenset[int]
    waiting: deque[Record] = field(default_factory=deque)
    size: int = 0
    dropped: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, record: Record) -> None:
        """Add the record if it is wanted."""
        if self.levels and record.message.level not in self.levels and not record.message.ended:
            return
        self.waiting.append(record)
        self.size += _cost(record)
        if len(self.waiting) > WAITING or self.size > WAITING_BYTES:
            self._shrink()

    def _shrink(self) -> None:
        """Halve it: the oldest records go first, and end messages after all others."""
        count = len(self.waiting)
        for ends in (False, True):
            kept: deque[Record] = deque()
            for record in self.waiting:
                too_much = count > WAITING // 2 or self.size > WAITING_BYTES // 2
                if too_much and record.message.ended == ends:
                    count -= 1
                    self.size -= _cost(record)
                    self.dropped += 1
                else:
                    kept.append(record)
            self.waiting = kept
            if count <= WAITING * 3 // 4 and self.size <= WAITING_BYTES * 3 // 4:
                break

    def take(self) -> list[Record]:
        """The next batch."""
        batch: list[Record] = []
        size = 0
        while self.waiting and len(batch) < _BATCH and size < _BATCH_BYTES:
            record = self.waiting.popleft()
            size += _cost(record)
            batch.append(record)
        self.size -= size
        return batch


class Loggers:
    """A sink of the manager. `run` writes; `on_pushed` hears the keys that got records."""

    def __init__(self, socket: str, *, size: int) -> None:
        """`size`: records kept in each list."""
        self.on_pushed: Callable[[list[str]], None] | None = None
        self._link = Link(socket)
        self._push = OnceWriter(self._link, "core:loggers", _PUSH)
        self._size = size
        self._ring: deque[Record] = deque()
        self._ring_size = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._left: list[Subscription] = []  # ended, and what they still wait for is not in redis yet
        self._work = asyncio.Event()
        self._dropped = 0

    # What the manager produces

    def accepted(self, job: Job) -> None:
        """Sink of the manager."""

    def finished(self, job: Job, result: Result) -> None:
        """Sink of the manager."""

    def record(self, job: Job, message: Message) -> None:
        """Sink of the manager: every message."""
        record = Record(job.container, job.id, message)
        self._ring.append(record)
        self._ring_size += _cost(record)
        while len(self._ring) > BACKLOG or self._ring_size > RING_BYTES:
            self._ring_size -= _cost(self._ring.popleft())
        if self._subscriptions:
            for subscription in self._subscriptions.values():
                subscription.offer(record)
            self._work.set()

    # Subscriptions

    def subscribe(self, queue: str, levels: Iterable[int]) -> str:
        """The list's key. A live subscription of that name stays as it is; an empty name gets a fresh one."""
        if len(queue) > 128 or not queue.isprintable():
            raise InvalidArgument("queue: expected at most 128 printable characters")
        key = f"logger:{queue or uuid.uuid4()}"
        if key in self._subscriptions:
            return key
        if len(self._subscriptions) + sum(bool(each.waiting) for each in self._left) >= MAX_SUBSCRIPTIONS:
            raise Exhausted(f"{MAX_SUBSCRIPTIONS} subscriptions exist", hint="logger.unsubscribe")
        subscription = self._subscriptions[key] = Subscription(key, frozenset(levels))
        for record in self._ring:
            subscription.offer(record)
        self._work.set()
        return key

    def unsubscribe(self, key: str) -> None:
        """No records of what is said from now on; the list stays. Unknown keys are none's."""
        if not key:
            raise InvalidArgument("queue is required")
        if (subscription := self._subscriptions.pop(key, None)) is not None:
            self._left.append(subscription)
            self._work.set()

    async def unsubscribed(self, key: str) -> None:
        """`unsubscribe`, and its list is whole on return, unless redis is away for PATIENCE_S."""
        self.unsubscribe(key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                for left in [each for each in self._left if each.key == key]:
                    await left.over.wait()

    def state(self) -> dict[str, Any]:
        """Counters for `core.state`."""
        live = [*self._subscriptions.values(), *self._left]
        return {
            "backlog": len(self._ring),
            "subscriptions": len(self._subscriptions),
            "waiting": sum(len(subscription.waiting) for subscription in live),
            "dropped": self._dropped + sum(subscription.dropped for subscription in live),
        }

    # Writing

    async def run(self) -> None:
        """Write what waits, for ever, a batch of each list in turn."""
        while True:
            await self._work.wait()
            self._work.clear()
            await self._let_go()
            while busy := [each for each in self._subscriptions.values() if each.waiting]:
                for subscription in busy:
                    await self._write(subscription)
                await self._let_go()

    async def _let_go(self) -> None:
        """The rest of the lists whose subscription has ended; nobody trims them any more."""
        while self._left:
            subscription = self._left[0]
            while subscription.waiting:
                await self._write(subscription)
            self._left.remove(subscription)
            subscription.over.set()
            self._dropped += subscription.dropped
            if subscription.key not in self._subscriptions:
                with contextlib.suppress(Unavailable, ReplyError):
                    await self._link.call("EXPIRE", subscription.key, LEFT_S)

    async def _write(self, subscription: Subscription) -> None:
        if not (batch := subscription.take()):
            return
        most = min(LIST_BYTES, LISTS_BYTES // max(len(self._subscriptions), 1))
        if not await self._push(subscription.key, self._size, most, *map(_encode, batch)):
            subscription.dropped += len(batch)
        elif self.on_pushed is not None:
            self.on_pushed([subscription.key])

    async def close(self) -> None:
        """Break the connection for good."""
        await self._link.close()
