"""A vdisk's fields in a Redis Cluster (async).

The hash of the original becomes 1,024 hashes, its parts (`layout.part_key`), so that a vdisk lies on all
masters. Content is under its hash, as ever. Which master has what, and who takes over for whom, is the
cluster's own business (`slots`).

Each part has one field more, the mark, from before the first write on; the ledger of the vdisk says that all
have it. A part without its mark has lost its data (a master that came back empty), and is an error, never
zeros. A replica that takes over with less than its master had cannot be told; see `StorageCluster.replicas`.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from g8node.errors import Unavailable
from g8node.runtime.resp import ReplyError
from g8node.vdisk.cluster import scan
from g8node.vdisk.cluster.events import Role, Tell
from g8node.vdisk.cluster.layout import MARK, PARTS, part_key, plain_key, sectors_key
from g8node.vdisk.cluster.ledger import key_of
from g8node.vdisk.cluster.member import Command, Patience
from g8node.vdisk.cluster.settings import StorageCluster
from g8node.vdisk.cluster.slots import Keyed, SlotServers

K = TypeVar("K", int, bytes)
_BEGUN: Final = b"begun"
_MARKED: Final = b"marked"
_FIELDS: Final = 1024


class SlotMirror:
    """A `Fields`, to be opened before use; not opened, a `Template`. `key`: the original's hash."""

    def __init__(
        self, cluster: StorageCluster, *, vdisk: str, key: str, role: Role, patience: Patience, tell: Tell
    ) -> None:
        self.servers = SlotServers(cluster, vdisk=vdisk, role=role, patience=patience, tell=tell)
        self._key = key
        self._ledger = key_of(vdisk).encode()
        self._marked = True

    async def open(self, *, read_only: bool) -> None:
        """Unavailable. A vdisk that is only read is not marked: what has no ledger and no mark is empty."""
        try:
            await self.servers.open()
            await self._open(read_only)
        except BaseException:
            await self.close()
            raise

    async def _open(self, read_only: bool) -> None:
        (state,) = await self._ask([(self._ledger, ("GET", self._ledger))])
        keys = [part_key(self._key, part) for part in range(PARTS)]
        if state is None:
            marks = await self._ask([(key, ("HEXISTS", key, MARK)) for key in keys])
            self._marked = any(marks)  # then the ledger is what is lost
        else:
            self._marked = state == _MARKED
        if self._marked or read_only:
            return
        for ledger, marks_ in ((_BEGUN, keys), (_MARKED, [])):
            await self._do([(self._ledger, ("SET", self._ledger, ledger))])
            await self._do([(key, ("HSET", key, MARK, b"1")) for key in marks_])
        self._marked = True

    async def _ask(self, commands: Sequence[Keyed]) -> list[Any]:
        return _all(await self.servers.call(commands))

    async def _do(self, commands: Sequence[Keyed]) -> list[Any]:
        return _all(await self.servers.call(commands, changes=True))

    @property
    def late(self) -> bool:
        return self.servers.late

    def lane(self, index: int) -> int:
        """By master. Content is anywhere."""
        return hash(self.servers.master(part_key(self._key, index)))

    # Reading

    async def get(self, fields: Sequence[int]) -> dict[int, bytes | Unavailable | None]:
        return await self._read(fields, lambda key, part: [("HMGET", key, MARK, *part)], _values)

    async def present(self, fields: Sequence[int]) -> dict[int, bool | Unavailable]:
        def asking(key: bytes, part: Sequence[int]) -> list[Command]:
            return [("HEXISTS", key, MARK), *(("HEXISTS", key, one) for one in part)]

        return await self._read(fields, asking, _flags)

    async def _read(
        self,
        fields: Sequence[int],
        asking: Callable[[bytes, Sequence[int]], Sequence[Command]],
        taking: Callable[[Sequence[Any], int], Sequence[Any]],
    ) -> dict[int, Any]:
        """`taking` makes of the replies to `asking` the answers, the mark's before those of the fields."""
        commands: list[Keyed] = []
        parts: list[tuple[list[int], slice]] = []
        for key, part in self._parts(fields).items():
            made = asking(key, part)
            parts.append((part, slice(len(commands), len(commands) + len(made))))
            commands += [(key, command) for command in made]
        replies = await self.servers.call(commands)
        answers: dict[int, Any] = {}
        for part, where in parts:
            try:
                mark, *values = taking(_all(replies[where]), 1 + len(part))
                if self._marked and not mark:
                    raise Unavailable(f"part {part[0] % PARTS} of the vdisk: its server has lost its data")
                answers.update(zip(part, values, strict=True))
            except Unavailable as error:
                answers.update(dict.fromkeys(part, error))
        return answers

    def _parts(self, fields: Iterable[int]) -> dict[bytes, list[int]]:
        parts: dict[bytes, list[int]] = {}
        for field in fields:
            parts.setdefault(part_key(self._key, field), []).append(field)
        return parts

    async def get_contents(self, hashes: Sequence[bytes]) -> dict[bytes, bytes | Unavailable | None]:
        replies = await self.servers.call([(one, ("GET", one)) for one in hashes])
        return {
            one: Unavailable(str(reply)) if isinstance(reply, ReplyError) else reply
            for one, reply in zip(hashes, replies, strict=True)
        }

    async def fields(self) -> AsyncIterator[dict[int, bytes]]:
        for number in range(PARTS):
            key = part_key(self._key, number)
            cursor = b"0"
            marked = not self._marked
            while True:
                (reply,) = await self._ask([(key, ("HSCAN", key, cursor, "COUNT", scan.BATCH))])
                cursor, flat = scan.as_list(reply)
                found = dict(zip(flat[::2], flat[1::2], strict=True))
                marked |= found.pop(MARK, None) is not None
                if found:
                    yield {int(field): data for field, data in found.items()}
                if cursor == b"0":
                    break
            if not marked:
                raise Unavailable(f"part {number} of the vdisk: its server has lost its data")

    # Changing

    async def put(self, fields: Mapping[int, bytes | memoryview]) -> dict[int, Unavailable]:
        def change(key: bytes, part: Sequence[int]) -> Command:
            return ("HSET", key, *(word for field in part for word in (field, fields[field])))

        return await self._change(fields, change)

    async def drop(self, fields: Iterable[int]) -> dict[int, Unavailable]:
        return await self._change(fields, lambda key, part: ("HDEL", key, *part))

    async def _change(
        self, fields: Iterable[int], change: Callable[[bytes, Sequence[int]], Command]
    ) -> dict[int, Unavailable]:
        commands: list[Keyed] = []
        parts: list[list[int]] = []
        for key, whole in self._parts(fields).items():
            for at in range(0, len(whole), _FIELDS):
                parts.append(whole[at : at + _FIELDS])
                commands.append((key, change(key, parts[-1])))
        replies = await self.servers.call(commands, changes=True)
        return {
            field: Unavailable(str(reply))
            for part, reply in zip(parts, replies, strict=True)
            if isinstance(reply, Exception)
            for field in part
        }

    async def put_contents(self, contents: Mapping[bytes, bytes | memoryview]) -> dict[bytes, Unavailable]:
        commands: list[Keyed] = [(one, ("SET", one, data)) for one, data in contents.items()]
        replies = await self.servers.call(commands, changes=True)
        return {
            one: Unavailable(str(reply))
            for one, reply in zip(contents, replies, strict=True)
            if isinstance(reply, Exception)
        }

    async def flush(self) -> None:
        """Nothing: what was answered is where it belongs."""

    def states(self) -> list[dict[str, Any]]:
        return self.servers.states()

    async def close(self) -> None:
        await self.servers.close()

    # The whole of it

    async def has_fields(self) -> bool:
        """More than marks."""
        keys = [part_key(self._key, part) for part in range(PARTS)]
        lengths = await self._ask([(key, ("HLEN", key)) for key in keys])
        marks = await self._ask([(key, ("HEXISTS", key, MARK)) for key in keys])
        return any(length > mark for length, mark in zip(lengths, marks, strict=True))


async def remove(cluster: StorageCluster, *, vdisk: str, patience: Patience, tell: Tell) -> None:
    """Take a vdisk's parts, then its ledger, off a Redis Cluster. Unavailable; then it may be done again."""
    servers = SlotServers(cluster, vdisk=vdisk, role="primary", patience=patience, tell=tell)
    try:
        await servers.open()
        hashes = plain_key(vdisk), sectors_key(vdisk)
        parts = [part_key(key, part) for key in hashes for part in range(PARTS)]
        for keys in (parts, [key_of(vdisk).encode()]):
            _all(await servers.call([(key, ("UNLINK", key)) for key in keys], changes=True))
    finally:
        await servers.close()


def _all(replies: Sequence[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply if isinstance(reply, Unavailable) else Unavailable(str(reply))
    return list(replies)


def _values(replies: Sequence[Any], count: int) -> Sequence[Any]:
    values = scan.as_list(replies[0])
    if len(values) != count:
        raise Unavailable(f"expected {count} values of the server")
    return values


def _flags(replies: Sequence[Any], count: int) -> Sequence[Any]:
    return [bool(reply) for reply in replies]
