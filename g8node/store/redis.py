"""Chunks in servers that speak RESP: Redis, ARDB, 0-db, a Redis Cluster (async).

    plain   MGET id…         SET id bytes NX     EXISTS id    keys are the ids
    hash    HMGET name id…   HSETNX name id …    HEXISTS …    one hash, the ids are its fields
    zdb     GET id           SET id bytes        EXISTS id    0-db in user mode, pipelined

A 0-db namespace is chosen when connecting.

`STRLEN`, `HSTRLEN` and `LENGTH` are asked only when an answer was too large to be chunks: then the oversized
one is named and its neighbours are still served.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from g8node.errors import NotFound, PermissionDenied, Unavailable
from g8node.ids import ChunkId
from g8node.runtime.resp import Arg, ReplyError, ReplyTooLarge
from g8node.store.base import STORED_SIZE_MAX, StoreError
from g8node.store.servers import Command, Servers

_PARTS_AT_ONCE: Final = 4
_PART_COUNT: Final = 32
_PUT_BYTES: Final = 4 << 20
_DENIED: Final = ("NOPERM", "NOAUTH", "READONLY")


class Dialect(Protocol):
    """The words of a kind of server."""

    batches: bool
    """Whether `get` may be given several ids; its reply then is a list."""

    def get(self, ids: Sequence[ChunkId]) -> tuple[Arg, ...]: ...

    def put(self, id: ChunkId, stored: bytes) -> tuple[Arg, ...]:
        """Keeps what is there; any reply but an error means that the chunk is stored."""

    def exists(self, id: ChunkId) -> tuple[Arg, ...]: ...

    def size(self, id: ChunkId) -> tuple[Arg, ...]: ...


class Plain:
    """Redis and ARDB. A cluster refuses MGET over several slots, so there `batches` is false."""

    def __init__(self, *, batches: bool = True) -> None:
        self.batches = batches

    def get(self, ids: Sequence[ChunkId]) -> tuple[Arg, ...]:
        return ("MGET", *ids) if self.batches else ("GET", ids[0])

    def put(self, id: ChunkId, stored: bytes) -> tuple[Arg, ...]:
        return ("SET", id, stored, "NX")

    def exists(self, id: ChunkId) -> tuple[Arg, ...]:
        return ("EXISTS", id)

    def size(self, id: ChunkId) -> tuple[Arg, ...]:
        return ("STRLEN", id)


class Hash:
    """All chunks in one hash of Redis or ARDB."""

    batches = True

    def __init__(self, name: str) -> None:
        self._name = name

    def get(self, ids: Sequence[ChunkId]) -> tuple[Arg, ...]:
        return ("HMGET", self._name, *ids)

    def put(self, id: ChunkId, stored: bytes) -> tuple[Arg, ...]:
        return ("HSETNX", self._name, id, stored)

    def exists(self, id: ChunkId) -> tuple[Arg, ...]:
        return ("HEXISTS", self._name, id)

    def size(self, id: ChunkId) -> tuple[Arg, ...]:
        return ("HSTRLEN", self._name, id)


class Zdb:
    """0-db: SET of bytes that are there already answers nil, which is success."""

    batches = False

    def get(self, ids: Sequence[ChunkId]) -> tuple[Arg, ...]:
        return ("GET", ids[0])

    def put(self, id: ChunkId, stored: bytes) -> tuple[Arg, ...]:
        return ("SET", id, stored)

    def exists(self, id: ChunkId) -> tuple[Arg, ...]:
        return ("EXISTS", id)

    def size(self, id: ChunkId) -> tuple[Arg, ...]:
        return ("LENGTH", id)


class RedisStore:
    """`name` is the store in messages. `batch`: ids of one MGET."""

    def __init__(self, name: str, servers: Servers, dialect: Dialect, *, batch: int = _PART_COUNT) -> None:
        self._name = name
        self._servers = servers
        self._dialect = dialect
        self._batch = batch

    async def get_many(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        wanted = list(dict.fromkeys(ids))
        parts = [wanted[at : at + self._batch] for at in range(0, len(wanted), self._batch)]
        answers: dict[ChunkId, bytes | StoreError] = {}
        for got in await _bounded(self._get_part, parts):
            answers |= got
        return answers

    async def _get_part(self, ids: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        values = await self._values(ids)
        if any(isinstance(value, ReplyTooLarge) for value in values.values()):
            values = await self._values_of_sizes(ids)
        return {id: self._judged(id, value) for id, value in values.items()}

    async def _values(self, ids: Sequence[ChunkId]) -> dict[ChunkId, Any]:
        if not ids:
            return {}
        if not self._dialect.batches:
            commands = [Command(id, self._dialect.get([id])) for id in ids]
            return dict(zip(ids, await self._servers.call_many(commands), strict=True))
        (reply,) = await self._servers.call_many([Command(ids[0], self._dialect.get(ids))])
        if isinstance(reply, list) and len(reply) == len(ids):
            return dict(zip(ids, reply, strict=True))
        return dict.fromkeys(ids, reply)

    async def _values_of_sizes(self, ids: Sequence[ChunkId]) -> dict[ChunkId, Any]:
        """Only those that have the size of a chunk are asked for again, one by one."""
        sizes = await self._servers.call_many([Command(id, self._dialect.size(id)) for id in ids])
        values: dict[ChunkId, Any] = {}
        for id, size in zip(ids, sizes, strict=True):
            if isinstance(size, int) and size > STORED_SIZE_MAX:
                values[id] = Unavailable(f"chunk {id.hex()}: {size} bytes in {self._name} are no chunk")
            elif isinstance(size, Exception):
                values[id] = size
            else:
                (reply,) = await self._servers.call_many([Command(id, self._dialect.get([id]))])
                values[id] = reply[0] if isinstance(reply, list) and reply else reply
        return values

    def _judged(self, id: ChunkId, value: Any) -> bytes | StoreError:
        if value is None:
            return NotFound(f"chunk {id.hex()} is not in {self._name}")
        if isinstance(value, bytes) and len(value) <= STORED_SIZE_MAX:
            return value
        if isinstance(value, Unavailable):
            return value
        said = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:200]
        return Unavailable(f"chunk {id.hex()}: {self._name} answered {said}")

    async def put_many(self, chunks: Mapping[ChunkId, bytes]) -> None:
        """Raises PermissionDenied when the server allows no writing, Unavailable otherwise."""
        batch: list[Command] = []
        held = 0
        for id, stored in chunks.items():
            batch.append(Command(id, self._dialect.put(id, stored)))
            held += len(stored)
            if held >= _PUT_BYTES or len(batch) >= 1024:
                await self._put(batch)
                batch, held = [], 0
        await self._put(batch)

    async def _put(self, batch: Sequence[Command]) -> None:
        for command, reply in zip(batch, await self._servers.call_many(batch), strict=True):
            if isinstance(reply, Exception):
                self._refused(f"chunk {command.key.hex()} is not stored", reply)

    async def missing(self, ids: Sequence[ChunkId]) -> set[ChunkId]:
        wanted = list(dict.fromkeys(ids))
        replies = await self._servers.call_many([Command(id, self._dialect.exists(id)) for id in wanted])
        for reply in replies:
            if not isinstance(reply, int):
                self._refused("cannot say what it holds", reply)
        return {id for id, reply in zip(wanted, replies, strict=True) if not reply}

    def _refused(self, what: str, reply: Any) -> None:
        """Raise what the reply means."""
        message = f"{self._name}: {what}: {str(reply)[:200]}"
        if isinstance(reply, ReplyError) and reply.kind in _DENIED:
            raise PermissionDenied(message, hint="check user and password of the store")
        raise Unavailable(message)

    async def close(self) -> None:
        await self._servers.close()


async def _bounded(
    ask: Callable[[Sequence[ChunkId]], Awaitable[dict[ChunkId, bytes | StoreError]]],
    parts: Sequence[Sequence[ChunkId]],
) -> list[dict[ChunkId, bytes | StoreError]]:
    """A few parts at once: the next is on its way while the last one is read."""
    if len(parts) <= 1:
        return [await ask(part) for part in parts]
    slots = asyncio.Semaphore(_PARTS_AT_ONCE)

    async def one(part: Sequence[ChunkId]) -> dict[ChunkId, bytes | StoreError]:
        async with slots:
            return await ask(part)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(part)) for part in parts]
    return [task.result() for task in tasks]
