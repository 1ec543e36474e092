"""A Redis Cluster as one `Servers` (async).

The key's slot (CRC16 of the key, or of what stands between its first braces, modulo 16384) says which master
has it; CLUSTER SLOTS, asked of whichever known server answers first, says where the masters are. A command
is followed through MOVED (noted in the map) and ASK (this once); TRYAGAIN waits a little. When a master does
not answer, the map is asked for again, and if it names another server, a replica that took over, that one is
asked.
"""

import asyncio
import binascii
from collections.abc import Sequence
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.runtime.resp import ReplyError
from g8node.store.servers import Access, Command, Server

SLOTS: Final = 16384
_ROUNDS: Final = 6
_TRY_AGAIN_S: Final = 0.05
_REFRESH_S: Final = 0.2
"""Failures within this time of the last look at the map do not ask for it again."""
_SERVERS_MAX: Final = 1024

Place = tuple[str, int]


def slot_of(key: bytes) -> int:
    """https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ ("hash tags")."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


class Cluster:
    """`seeds`: some of its servers."""

    def __init__(self, seeds: Sequence[Place], access: Access) -> None:
        self._seeds = tuple(seeds)
        self._access = access
        self._servers: dict[Place, Server] = {}
        self._masters: list[Place | None] = []
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed = float("-inf")

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = [Unavailable("the cluster gave no answer")] * len(commands)
        todo: dict[int, Place | None] = dict.fromkeys(range(len(commands)))
        for attempt in range(_ROUNDS):
            if not self._masters:
                try:
                    await self._refresh()
                except Unavailable as error:
                    return [error if at in todo else reply for at, reply in enumerate(replies)]
            todo = await self._round(commands, todo, replies)
            if not todo:
                break
            if attempt:
                await asyncio.sleep(_TRY_AGAIN_S * attempt)
        return replies

    async def _round(
        self, commands: Sequence[Command], todo: dict[int, Place | None], replies: list[Any]
    ) -> dict[int, Place | None]:
        """Ask once; what has to be asked again and, after ASK, of whom. `replies` holds the rest."""
        groups: dict[tuple[Place, bool], list[int]] = {}
        failed: dict[int, Place | None] = {}
        for at, asked in todo.items():
            place = asked or self._masters[slot_of(commands[at].key)]
            if place is None:
                replies[at] = Unavailable("no server of the cluster has this slot")
                failed[at] = None
            else:
                groups.setdefault((place, asked is not None), []).append(at)
        again: dict[int, Place | None] = {}
        calls = [self._ask(place, asking, commands, indexes) for (place, asking), indexes in groups.items()]
        for ((place, _), indexes), got in zip(groups.items(), await asyncio.gather(*calls), strict=True):
            for at, reply in zip(indexes, got, strict=True):
                replies[at] = reply
                if isinstance(reply, Unavailable):
                    failed[at] = place
                elif isinstance(reply, ReplyError):
                    self._follow(at, slot_of(commands[at].key), reply, again)
        if failed:
            await self._try_refresh()
            for at, place_before in failed.items():
                if self._masters[slot_of(commands[at].key)] not in (None, place_before):
                    again[at] = None
        return again

    def _follow(self, at: int, slot: int, error: ReplyError, again: dict[int, Place | None]) -> None:
        """Note what the cluster said about a command that the server does not take."""
        words = str(error).split()
        if error.kind == "TRYAGAIN":
            again[at] = None
        elif error.kind in ("MOVED", "ASK") and len(words) == 3:
            host, _, port = words[2].rpartition(":")
            if host and port.isdigit():
                again[at] = (host, int(port)) if error.kind == "ASK" else None
                if error.kind == "MOVED":
                    self._masters[slot] = (host, int(port))

    async def _ask(
        self, place: Place, asking: bool, commands: Sequence[Command], indexes: Sequence[int]
    ) -> list[Any]:
        server = self._server(place)
        if not asking:
            return await server.exchange([commands[at].args for at in indexes])
        pairs = [args for at in indexes for args in (("ASKING",), commands[at].args)]
        return (await server.exchange(pairs))[1::2]

    def _server(self, place: Place) -> Server:
        server = self._servers.get(place)
        if server is None:
            if len(self._servers) >= _SERVERS_MAX:
                raise Unavailable(f"the cluster names more than {_SERVERS_MAX} servers")
            server = self._servers[place] = Server(place, self._access)
        return server

    async def _try_refresh(self) -> None:
        """A map that cannot be had now is had in a later round."""
        if asyncio.get_running_loop().time() - self._refreshed < _REFRESH_S:
            return
        try:
            await self._refresh()
        except Unavailable:
            return

    async def _refresh(self) -> None:
        """Concurrent callers share one look at the map."""
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._look())
            self._refreshing.add_done_callback(self._looked)
        await asyncio.shield(self._refreshing)

    def _looked(self, task: "asyncio.Task[None]") -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # every caller may be gone

    async def _look(self) -> None:
        """Ask all known servers at once and take the first good answer: one may hang."""
        places = dict.fromkeys((*self._servers, *self._seeds))
        asked = [asyncio.ensure_future(self._slots(place)) for place in places]
        failure = Unavailable("no server of the cluster is known")
        try:
            for next_done in asyncio.as_completed(asked):
                try:
                    masters = await next_done
                except Unavailable as error:
                    failure = error
                    continue
                self._masters = masters
                self._refreshed = asyncio.get_running_loop().time()
                return
            raise failure
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _slots(self, place: Place) -> list[Place | None]:
        (reply,) = await self._server(place).exchange([("CLUSTER", "SLOTS")])
        if isinstance(reply, Unavailable):
            raise reply
        masters = map_of(reply, place[0])
        if not any(masters):
            raise Unavailable(f"{place[0]}:{place[1]} knows no slots: {str(reply)[:200]}")
        return masters

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
        for server in self._servers.values():
            await server.close()


def map_of(reply: Any, asked: str) -> list[Place | None]:
    """CLUSTER SLOTS: [[first, last, [host, port, …] of the master, …], …]. What is malformed is skipped."""
    masters: list[Place | None] = [None] * SLOTS
    for entry in reply if isinstance(reply, list) else ():
        match entry:
            case [int(first), int(last), [host, int(port), *_], *_] if 0 <= first <= last < SLOTS:
                name = host.decode("ascii", "replace") if isinstance(host, bytes) and host else asked
                masters[first : last + 1] = [(name, port)] * (last - first + 1)
    return masters
