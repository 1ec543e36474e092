"""Clients that wait for a list to get an element (async).

Every push to a job's keys goes through the outbox, which wakes the waiters of exactly those keys: thousands
of blocked clients share one connection to redis, and none of them holds up another. What others push (nothing
does, but nothing forbids it) is found by a look every RECHECK_S.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.jobs.link import RETRY_S, Arg, Link

RECHECK_S: Final = 5.0


class Waiters:
    """Blocking pops made of non-blocking ones."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._by_key: dict[str, set[asyncio.Event]] = {}

    def wake(self, keys: Sequence[str]) -> None:
        """Something was pushed to these keys."""
        if self._by_key:
            for key in keys:
                for event in self._by_key.get(key, ()):
                    event.set()

    async def first(self, attempts: dict[str, tuple[Arg, ...]], timeout_s: float) -> tuple[str, Any] | None:
        """The first attempt (by key) that redis answers with something; None when the time is up.

        0 waits for ever. While redis is away the wait goes on.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s if timeout_s > 0 else float("inf")
        with self._watch(attempts) as event:
            while True:
                event.clear()
                pause_s = RECHECK_S
                try:
                    for key, args in attempts.items():
                        if (reply := await self._link.call(*args)) is not None:
                            return key, reply
                except Unavailable:
                    pause_s = RETRY_S
                left_s = deadline - loop.time()
                if left_s <= 0:
                    return None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left_s, pause_s))

    @contextlib.contextmanager
    def _watch(self, keys: dict[str, tuple[Arg, ...]]) -> Iterator[asyncio.Event]:
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
