"""Clients that wait for a list to get an element (async).

Every push to a job's keys goes through the outbox, which wakes the waiters of exactly those keys: thousands
of blocked clients share one connection to redis, and none of them holds up another. What others push (nothing
does, but nothing forbids it) is found by a look every RECHECK_S.

A pop whose answer is lost with the connection must not lose the element: the script keeps what it popped
under a token of the wait, and answers with that when it is asked again.
"""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.jobs.link import RETRY_S, Link, Script

RECHECK_S: Final = 5.0
_KEPT_S: Final = 60

# An element that does not fit twice (out of memory) is answered all the same.
_POP = f"""
local mine = 'core:popped:' .. ARGV[1]
local kept = redis.call('LRANGE', mine, 0, 1)
if #kept == 2 then return kept end
for n = 2, #ARGV do
  local found = redis.call('LPOP', ARGV[n])
  if found then
    local pushed = redis.pcall('RPUSH', mine, ARGV[n], found)
    if type(pushed) == 'number' then redis.call('EXPIRE', mine, {_KEPT_S}) end
    return {{ARGV[n], found}}
  end
end
return false
"""


class _Nobody:
    """Waits for no answer."""

    def done(self) -> bool:
        return True

    def set_result(self, reply: Any) -> None: ...

    def set_exception(self, error: BaseException) -> None: ...


class Waiters:
    """Blocking pops made of non-blocking ones."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._by_key: dict[str, set[asyncio.Event]] = {}
        self._pop = Script(link, _POP)
        self._epoch = uuid.uuid4().hex
        self._tokens = itertools.count(1)

    def wake(self, keys: Sequence[str]) -> None:
        """Something was pushed to these keys."""
        if self._by_key:
            for key in keys:
                for event in self._by_key.get(key, ()):
                    event.set()

    async def pop(self, keys: Sequence[str], raw: Sequence[bytes], timeout_s: float) -> list[bytes] | None:
        """BLPOP: `[key, element]` of the first of the lists that has one; None when the time is up.

        `raw` are the keys as redis has them. 0 waits for ever. While redis is away the wait goes on.
        """
        token = f"{self._epoch}:{next(self._tokens)}"
        found: list[bytes] | None = await self._until(keys, lambda: self._pop(token, *raw), timeout_s)
        if found is not None:
            self._link.send_for(_Nobody(), ("DEL", f"core:popped:{token}"))
        return found

    async def rotate(self, key: str, raw: bytes, timeout_s: float) -> bytes | None:
        """BRPOPLPUSH of a list onto itself."""
        found: bytes | None = await self._until(
            [key], lambda: self._link.call("RPOPLPUSH", raw, raw), timeout_s
        )
        return found

    async def _until(
        self, keys: Sequence[str], attempt: Callable[[], Awaitable[Any]], timeout_s: float
    ) -> Any:
        """The first answer that is something; attempts are made when one of the keys got an element."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s if timeout_s > 0 else float("inf")
        with self._watch(keys) as event:
            while True:
                event.clear()
                pause_s = RECHECK_S
                try:
                    if (found := await attempt()) is not None:
                        return found
                except Unavailable:
                    pause_s = RETRY_S
                left_s = deadline - loop.time()
                if left_s <= 0:
                    return None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left_s, pause_s))

    @contextlib.contextmanager
    def _watch(self, keys: Sequence[str]) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        for key in keys:
            self._by_key.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            for key in keys:
                events = self._by_key[key]
                events.discard(event)
                if not events:
                    del self._by_key[key]
