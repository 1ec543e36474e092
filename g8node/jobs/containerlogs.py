"""The output of containers, kept while they live and a while after (async): what `corex.logs` shows.

A job keeps a few messages only. Here the last quarter of a megabyte of each container's process 1 is kept,
over its restarts, and of the last few that have ended. When all together keep too much, those that go on
keep less.
"""

from collections import OrderedDict, deque
from typing import Final

from g8node.jobs.job import Job
from g8node.jobs.model import LOCAL, Caller, Message, Result

KEPT_CHARS: Final = 256 << 10
KEPT_CHARS_LEAST: Final = 8 << 10
TOTAL_CHARS: Final = 64 << 20
ENDED_KEPT: Final = 32
_OVERHEAD: Final = 100


class Log:
    """One container's last messages; `owner` is whose it is."""

    def __init__(self, owner: Caller, logs: "Logs") -> None:
        self.owner = owner
        self.messages: deque[Message] = deque()
        self._size = 0
        self._logs = logs

    def add(self, message: Message) -> None:
        if message.ended and not message.message:
            return
        self.messages.append(message)
        self._grow(len(message.message) + _OVERHEAD)
        most = KEPT_CHARS if self._logs.used <= TOTAL_CHARS else KEPT_CHARS_LEAST
        while self._size > most and len(self.messages) > 1:
            self._grow(-len(self.messages.popleft().message) - _OVERHEAD)

    def _grow(self, by: int) -> None:
        self._size += by
        self._logs.used += by

    def close(self) -> None:
        """Keep nothing any more."""
        self.messages.clear()
        self._grow(-self._size)


class Logs:
    """By container id; an id that is used again begins anew."""

    def __init__(self) -> None:
        self.used = 0
        self._live: dict[int, Log] = {}
        self._ended: OrderedDict[int, Log] = OrderedDict()

    def keep(self, job: Job) -> None:
        """Keep what this job, a container's process 1, says; called before it says anything."""
        log = self._live[job.container] = Log(job.request.caller or LOCAL, self)
        if (old := self._ended.pop(job.container, None)) is not None:
            old.close()
        job.listeners.append(log.add)
        job.on_end.append(self._end)

    def find(self, container: int) -> Log | None:
        return self._live.get(container) or self._ended.get(container)

    def _end(self, job: Job, result: Result) -> None:
        self._ended[job.container] = self._live.pop(job.container)
        while len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)[1].close()
