"""A writer whose batches redis applies exactly once, or drops after a while (async).

The way of outbox.py for what is not worth keeping through a long outage: each batch has a token that the
script stores, so repeating one whose confirmation was lost does nothing.
"""

import asyncio
import uuid
from typing import Final

from g8node.errors import Unavailable
from g8node.jobs.link import RETRY_S, Arg, Link, ReplyError, Script

_REFUSED_S: Final = 10.0
_REFUSED_PAUSE_S: Final = 0.2


class OnceWriter:
    """Call it with a batch's arguments; `body` sees them as ARGV from 2 on."""

    def __init__(self, link: Link, name: str, body: str) -> None:
        """`name` is the key that the token of the last batch is kept in."""
        head = f"if redis.call('GET', '{name}') == ARGV[1] then return 0 end\n"
        self._script = Script(link, f"{head}redis.call('SET', '{name}', ARGV[1])\n{body}\nreturn 1")
        self._epoch = uuid.uuid4().hex
        self._sequence = 0

    async def __call__(self, *args: Arg) -> bool:
        """Waits while redis is away; False when it has refused the batch for _REFUSED_S (out of memory)."""
        self._sequence += 1
        token = f"{self._epoch}:{self._sequence}"
        loop = asyncio.get_running_loop()
        deadline = float("inf")
        while True:
            try:
                await self._script(token, *args)
            except Unavailable:
                deadline = float("inf")
                await asyncio.sleep(RETRY_S)
            except ReplyError:
                deadline = min(deadline, loop.time() + _REFUSED_S)
                if loop.time() >= deadline:
                    return False
                await asyncio.sleep(_REFUSED_PAUSE_S)
            else:
                return True
