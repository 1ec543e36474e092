"""One shard of a vdisk (async): the primary server that has it and, perhaps, a slave that has it too.

A change goes to all members that are in step and is done when they all answered. When one of them cannot take
it, it is left behind: the ledger says so before the change counts as done. Reads come from the first member
in step that answers. A member that is being copied anew (`syncing`) gets the changes as well.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from g8node.errors import Unavailable
from g8node.runtime.resp import ReplyError
from g8node.vdisk.cluster.member import Command, Member

K = TypeVar("K", int, bytes)
_PART_BYTES: Final = 1 << 20
_PART_COUNT: Final = 1024
_MISSED_MAX: Final = 1 << 20

Touched = int | bytes
"""A field of the vdisk's hash by its number, or content by its hash."""


class Moved(Unavailable):
    """The shard was spread over the others meanwhile: ask for the place again."""


class Copy:
    """A member in its shard. `missed`: what it must still be given; None for everything."""

    def __init__(self, member: Member, number: int) -> None:
        self.member = member
        self.number = number
        self.in_step = True
        self.lost = False
        """What it holds is not what it held before."""
        self.repairing = False
        """The configuration says that it is to be copied anew."""
        self.flushes = 0
        """The last flush that it answered."""
        self.syncing = False
        self.excluded = False
        """The configuration says not to use it."""
        self.missed: set[Touched] | None = None
        self.dropped: set[int] = set()
        """Fields that were removed while it is `syncing`."""

    def leave(self) -> None:
        """It is behind from now on, and what it misses is noted."""
        if self.in_step:
            self.in_step = False
            self.missed = None if self.lost else set()

    def miss(self, touched: Iterable[Touched]) -> None:
        if self.missed is not None:
            self.missed.update(touched)
            if len(self.missed) > _MISSED_MAX:
                self.missed = None


class Shard:
    """`key` is the vdisk's hash. `left_behind` is awaited before a change without one of `copies` counts."""

    def __init__(
        self,
        number: int,
        key: str,
        copies: Sequence[Copy],
        *,
        flush_key: str,
        left_behind: Callable[[], Awaitable[None]],
    ) -> None:
        self.number = number
        self.copies = list(copies)
        self.also: Callable[[Touched], Shard] | None = None
        """While its fields are spread over the others: where a field is going."""
        self.dropped: set[int] = set()
        """Fields that were removed while they are spread."""
        self.spread_broken = False
        self.moved = False
        self.changed = False
        """Since the last flush."""
        self._flushes = time.time_ns()  # more than any of an earlier process
        self._key = key
        self._flush_key = flush_key
        self._left_behind = left_behind
        self._writers = 0
        self._calm = asyncio.Event()
        self._calm.set()
        self._open = asyncio.Event()
        self._open.set()
        self._quiet = asyncio.Lock()

    def in_step(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.in_step and not copy.excluded]

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """No change is under way, and none begins."""
        async with self._quiet:
            self._open.clear()
            try:
                await self._calm.wait()
                yield
            finally:
                self._open.set()

    async def flush(self) -> None:
        """All members in step know of it; one that does not know of it later has lost something."""
        if not self.changed:
            return
        self.changed = False
        self._flushes += 1
        number = self._flushes
        try:
            async with self._changing():
                await self._change_copies([("SET", self._flush_key, number)], ())
        except Moved:
            return  # what it had is on the others, which are flushed as well
        except BaseException:
            self.changed = True
            raise
        for copy in self.in_step():
            copy.flushes = number

    # Reading

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies; ReplyError in a reply is raised as Unavailable."""
        error: Unavailable | None = None
        for copy in self.in_step():
            try:
                replies = await copy.member.call(commands)
            except Unavailable as failure:
                error = error or failure
                continue
            refusal = _refusal(replies)
            if refusal is None:
                return replies
            error = error or Unavailable(f"{copy.member!r}: {refusal}")
        raise error or Unavailable(f"shard {self.number}: no server may be used", hint="see its state")

    def begin(self, words: tuple[Any, ...], count: int) -> "asyncio.Future[Any] | None":
        """A reading command on its way, if it can be sent at once; `ask` when it fails."""
        copy = self._first()
        return copy.member.begin(words) if copy is not None and count <= _PART_COUNT else None

    def _first(self) -> Copy | None:
        return next((copy for copy in self.copies if copy.in_step and not copy.excluded), None)

    @property
    def late(self) -> bool:
        """Whether it may take long to be read from."""
        copy = self._first()
        return copy is None or copy.member.late

    async def get(self, fields: Sequence[int]) -> list[bytes | None]:
        """The fields of the vdisk's hash."""
        commands: list[Command] = [
            ("HMGET", self._key, *fields[at : at + _PART_COUNT]) for at in range(0, len(fields), _PART_COUNT)
        ]
        return _joined(await self.ask(commands), len(fields))

    async def get_contents(self, hashes: Sequence[bytes]) -> list[bytes | None]:
        commands: list[Command] = [
            ("MGET", *hashes[at : at + _PART_COUNT]) for at in range(0, len(hashes), _PART_COUNT)
        ]
        return _joined(await self.ask(commands), len(hashes))

    async def present(self, fields: Sequence[int]) -> list[bool]:
        replies = await self.ask([("HEXISTS", self._key, field) for field in fields])
        return [bool(reply) for reply in replies]

    # Changing

    async def put(self, fields: Mapping[int, bytes | memoryview]) -> None:
        await self._change(_puts(self._key, fields), fields, Shard.put)

    async def drop(self, fields: Sequence[int]) -> None:
        commands: list[Command] = [
            ("HDEL", self._key, *fields[at : at + _PART_COUNT]) for at in range(0, len(fields), _PART_COUNT)
        ]
        items = dict.fromkeys(fields)
        await self._change(commands, items, lambda target, part: target.drop(list(part)), dropped=True)

    async def put_contents(self, contents: Mapping[bytes, bytes | memoryview]) -> None:
        await self._change(
            [("SET", one, data) for one, data in contents.items()], contents, Shard.put_contents
        )

    async def put_absent(self, fields: Mapping[int, bytes], dropped: Collection[int]) -> None:
        """Copies from another shard: they give way to what is there, or was `dropped` meanwhile."""
        async with self._changing():
            self.changed = True
            for copy in self.copies:
                if copy in self.in_step() or copy.syncing:
                    await copy.member.set_absent(self._key, fields, dropped)
                else:
                    copy.miss(fields)

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        while not self._open.is_set():
            await self._open.wait()
        if self.moved:
            raise Moved(f"shard {self.number} lies on the other servers now")
        self._writers += 1
        self._calm.clear()
        try:
            yield
        finally:
            self._writers -= 1
            if not self._writers:
                self._calm.set()

    async def _change(
        self,
        commands: Sequence[Command],
        items: Mapping[Any, Any],
        change: Callable[["Shard", Any], Awaitable[None]],
        *,
        dropped: bool = False,
    ) -> None:
        async with self._changing():
            touched = list(items)
            if dropped:
                self._note_dropped(touched)
            self.changed = True
            await self._change_copies(commands, touched)
            if self.also is not None:
                await self._spread(items, change)

    def _note_dropped(self, touched: Sequence[Touched]) -> None:
        fields = [field for field in touched if isinstance(field, int)]
        if self.also is not None:
            self.dropped.update(fields)
        for copy in self.copies:
            if copy.syncing:
                copy.dropped.update(fields)

    async def _change_copies(self, commands: Sequence[Command], touched: Sequence[Touched]) -> None:
        leaders = self.in_step()
        if not leaders:
            raise Unavailable(f"shard {self.number}: no server may be used", hint="see its state")
        followers = [copy for copy in self.copies if copy.syncing]
        for copy in self.copies:
            if copy not in leaders and copy not in followers:
                copy.leave()
                copy.miss(touched)
        everyone = (*leaders, *followers)
        if len(everyone) == 1:
            failures = [await _failure(leaders[0].member, commands)]
        else:
            failures = list(await asyncio.gather(*(_failure(copy.member, commands) for copy in everyone)))
        await self._judge(everyone, failures, touched)

    async def _judge(
        self, asked: Sequence[Copy], failures: Sequence[Unavailable | None], touched: Sequence[Touched]
    ) -> None:
        """Leave behind who could not take the change, or raise when nobody in step could."""
        results = list(zip(asked, failures, strict=True))
        for copy, failure in results:
            if failure is not None and not copy.in_step:
                copy.syncing = False
                copy.miss(touched)
        if not any(failure is None and copy.in_step for copy, failure in results):
            raise next((one for one in failures if one is not None), None) or Unavailable(
                f"shard {self.number}: its servers fell behind each other"
            )
        for copy, failure in results:
            if failure is not None:
                copy.leave()
                copy.miss(touched)
        if len(self.in_step()) < len(self.copies):
            await self._left_behind()

    async def _spread(
        self, items: Mapping[Any, Any], change: Callable[["Shard", Any], Awaitable[None]]
    ) -> None:
        """The same where the items are going; a failure there ends the spreading, not the change."""
        assert self.also is not None
        parts: dict[Shard, dict[Any, Any]] = {}
        for item, data in items.items():
            parts.setdefault(self.also(item), {})[item] = data
        for target, part in parts.items():
            try:
                await change(target, part)
            except Unavailable:
                self.spread_broken = True


def _puts(key: str, fields: Mapping[int, bytes | memoryview]) -> list[Command]:
    """HMSET rather than HSET with several fields, which older servers do not have."""
    commands: list[Command] = []
    words: list[Any] = ["HMSET", key]
    size = 0
    for field, data in fields.items():
        words += (field, data)
        size += len(data)
        if size >= _PART_BYTES or len(words) >= 2 * _PART_COUNT:
            commands.append(tuple(words))
            words, size = ["HMSET", key], 0
    if len(words) > 2:
        commands.append(tuple(words))
    return commands


async def _failure(member: Member, commands: Sequence[Command]) -> Unavailable | None:
    """Why a member did not take the commands."""
    try:
        refusal = _refusal(await member.call(commands))
    except Unavailable as error:
        return error
    return None if refusal is None else Unavailable(f"{member!r}: {refusal}")


def _refusal(replies: Sequence[Any]) -> ReplyError | None:
    return next((reply for reply in replies if isinstance(reply, ReplyError)), None)


def _joined(replies: Sequence[Any], count: int) -> list[bytes | None]:
    """Several lists of values as one; Unavailable when they are no such thing."""
    values = (
        [value for reply in replies for value in reply] if all(type(one) is list for one in replies) else []
    )
    if len(values) != count or not all(value is None or type(value) is bytes for value in values):
        raise Unavailable(f"expected {count} values of the server")
    return values


async def reply_of(future: "asyncio.Future[Any]") -> Any:
    """None for any failure."""
    try:
        return await future
    except (ReplyError, Unavailable):
        return None


def taken(answers: dict[K, Any], items: Sequence[K], reply: Any) -> bool:
    """Whether the reply is values for the items."""
    if type(reply) is not list or len(reply) != len(items):
        return False
    answers.update(zip(items, reply, strict=True))
    return True
