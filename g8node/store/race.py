"""One question to a chain of stores that may all have the answer (async).

The first is asked for everything. What it does not have, or cannot say, the next one is asked for; and
when it takes too long, the next one is asked as well (the first itself, on another connection, when there
is no other). The first good answer counts. NotFound is the answer only when every store said so.
"""

import asyncio
from collections.abc import Callable, Sequence

from g8node.errors import Unavailable
from g8node.ids import ChunkId
from g8node.store.base import Store, StoreError

Patience = Callable[[int, int], float]
"""(Place in the chain, ids) → seconds to wait before the next store is asked too; 0: for ever."""


async def race(
    chain: Sequence[Store], ids: Sequence[ChunkId], patience: Patience
) -> dict[ChunkId, bytes | StoreError]:
    """One answer per distinct id."""
    wanted = list(dict.fromkeys(ids))
    answers: dict[ChunkId, bytes | StoreError] = {}
    running: set[asyncio.Task[dict[ChunkId, bytes | StoreError]]] = set()
    asked = 0
    is_spare = len(chain) == 1  # one store may be asked twice
    running.add(asyncio.ensure_future(chain[0].get_many(wanted)))
    try:
        while running:
            is_last = asked == len(chain) - 1
            limit_s = 0.0 if is_last and not is_spare else patience(asked, len(wanted))
            done, running = await asyncio.wait(
                running, timeout=limit_s or None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                _merge(answers, task.result())
            wanted = [id for id in wanted if not isinstance(answers.get(id), bytes)]
            if not wanted:
                break
            if is_last and (done or not is_spare):
                continue  # whoever is still at it may have the rest
            is_spare = False
            asked += not is_last
            running.add(asyncio.ensure_future(chain[asked].get_many(wanted)))
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
    return answers


def _merge(answers: dict[ChunkId, bytes | StoreError], more: dict[ChunkId, bytes | StoreError]) -> None:
    """Bytes stay; a store that could not say may have the chunk, so its Unavailable stays before NotFound."""
    for id, got in more.items():
        known = answers.get(id)
        if isinstance(known, bytes) or (isinstance(known, Unavailable) and not isinstance(got, bytes)):
            continue
        answers[id] = got
