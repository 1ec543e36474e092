"""A Redis Cluster as one vdisk uses it (async): a command goes to the master of its key's slot.

The map of slots comes from whichever server answers first, but never from one that knows an older epoch of
the cluster than was seen: it may have been replaced. MOVED, a server that is silent and one whose replicas do
not follow have the map asked for again; ASK is followed for this once. So commands wait while a replica takes
over, and fail when nobody took over for `total_s + take_over_s`; then at once, until it works again.

A change is answered when `replicas` replicas have it too (WAIT), or all that the cluster says the master has,
without those that failed. WAIT must go over the connection of the change; so that is sent once, and after any
failure all of it again. Reads have a connection of their own.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from g8node.errors import Unavailable
from g8node.runtime.resp import ReplyError
from g8node.store.cluster import SLOTS, Place, map_of, slot_of
from g8node.vdisk.cluster.events import Event, Role, Tell
from g8node.vdisk.cluster.member import Command, Member, Patience, Refused
from g8node.vdisk.cluster.settings import Server, StorageCluster

_PAUSE_S: Final = 0.02
_PAUSE_MAX_S: Final = 0.5
_REFRESH_S: Final = 0.1
"""The map is not asked for more often."""
_RECOUNT_S: Final = 1.0
"""While a master has too few replicas, it is looked at again so often."""
_SERVERS_MAX: Final = 1024
_AWAY: Final = ("CLUSTERDOWN", "MASTERDOWN", "READONLY", "TRYAGAIN", "NOREPLICAS")
"""Refusals that pass when another server has taken over."""

Keyed = tuple[bytes, Command]
"""A key, whose slot says which server, and the command."""


class SlotServers:
    """`open` before anything else; `close` at the end."""

    def __init__(
        self, cluster: StorageCluster, *, vdisk: str, role: Role, patience: Patience, tell: Tell
    ) -> None:
        self._seeds = tuple(server.place() for server in cluster.servers)
        self._model = cluster.servers[0]
        self._replicas = cluster.replicas
        self._vdisk = vdisk
        self._role: Role = role
        self._limit_s = patience.total_s + patience.take_over_s
        self._patience = replace(patience, total_s=patience.attempt_s)
        self._tell = tell
        self._told: dict[str, int] = {}
        self._members: dict[tuple[Place, bool], Member] = {}
        self._masters: list[Place | None] = [None] * SLOTS
        self._followers: dict[Place, int] = {}
        """How many replicas each master has."""
        self._epoch = -1
        self._failing: dict[tuple[Place | None, bool], tuple[float, str]] = {}
        """Since when, and why."""
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed = float("-inf")

    async def open(self) -> None:
        """Unavailable when no server tells the map; Refused, at once, when one is in no cluster."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limit_s
        pause_s = _PAUSE_S
        while True:
            try:
                return await self._look()
            except Unavailable as error:
                if isinstance(error, Refused) or loop.time() + pause_s >= end:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    @property
    def late(self) -> bool:
        """Whether answers of a master may take long."""
        return any(
            member.late for (place, changes), member in self._members.items() if self._used(place, changes)
        )

    def _used(self, place: Place, changes: bool) -> bool:
        return not changes and place in self._masters

    def master(self, key: bytes) -> Place | None:
        return self._masters[slot_of(key)]

    def masters(self) -> list[Place]:
        """Those with slots."""
        return sorted({place for place in self._masters if place is not None})

    async def call(self, commands: Sequence[Keyed], *, changes: bool = False) -> list[Any]:
        """For each the reply, or the ReplyError or Unavailable instead of it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limit_s
        if changes and loop.time() - self._refreshed > _RECOUNT_S and self._short():
            self._begin_look()
        replies: list[Any] = [None] * len(commands)
        todo: dict[int, Place | None] = dict.fromkeys(range(len(commands)))
        pause_s = _PAUSE_S
        while True:
            todo = await self._round(commands, todo, replies, changes, end)
            if not todo:
                return replies
            if not any(todo.values()):  # those of ASK need not wait
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    def _short(self) -> bool:
        return any(count < self._replicas for count in self._followers.values())

    async def _round(
        self,
        commands: Sequence[Keyed],
        todo: Mapping[int, Place | None],
        replies: list[Any],
        changes: bool,
        end: float,
    ) -> dict[int, Place | None]:
        """Ask once; what is to be asked again and, after ASK, of whom."""
        groups: dict[tuple[Place | None, bool], list[int]] = {}
        for at, asked in todo.items():
            place = asked or self._masters[slot_of(commands[at][0])]
            groups.setdefault((place, asked is not None), []).append(at)
        calls = [
            self._ask(place, [commands[at] for at in indexes], asking, changes)
            for (place, asking), indexes in groups.items()
        ]
        again: dict[int, Place | None] = {}
        for ((place, asking), indexes), got in zip(groups.items(), await asyncio.gather(*calls), strict=True):
            why = ""
            for at, reply in zip(indexes, got, strict=True):
                replies[at] = reply
                if (named := _asked(reply)) is not None:
                    again[at] = named
                elif isinstance(reply, Unavailable):
                    why = reply.message
                    again[at] = None
            if self._patient((place, changes), why, end):
                continue
            for at in [at for at in indexes if at in again]:
                if asking or again[at] is None:  # whom ASK names is asked in any case: the error is its
                    del again[at]
        if None in again.values():
            await self._refresh()
        return again

    def _patient(self, key: tuple[Place | None, bool], why: str, end: float) -> bool:
        """Whether a server that failed for a reason is tried again."""
        now = asyncio.get_running_loop().time()
        if not why:
            self._failing.pop(key, None)
            return now < end
        since, _ = self._failing.setdefault(key, (now, why))
        place, changes = key
        if place is not None and now - since >= self._patience.attempt_s:
            member = self._members.get((place, changes))
            if member is not None and not member.connected:
                member.give_up(why)
        return now < min(end, since + self._limit_s)

    async def _ask(
        self, place: Place | None, keyed: Sequence[Keyed], asking: bool, changes: bool
    ) -> list[Any]:
        """A reply each; Unavailable for what may be asked again."""
        if place is None:
            return [Unavailable("no server of the cluster has this slot")] * len(keyed)
        commands = [command for _, command in keyed]
        if not asking:
            return await self._send(place, commands, changes)
        pairs: list[Command] = [word for one in commands for word in (("ASKING",), one)]
        replies = (await self._send(place, pairs, changes))[1::2]
        return [self._moving(place, key, reply) for (key, _), reply in zip(keyed, replies, strict=True)]

    def _moving(self, place: Place, key: bytes, reply: Any) -> Any:
        """The reply of whom ASK named. ASK once more means that the map of now is an older one."""
        if isinstance(reply, Unavailable) or _asked(reply) is not None:
            why = reply.message if isinstance(reply, Unavailable) else str(reply)
            where = self.server(place).address
            slot = slot_of(key)
            return Unavailable(f"slot {slot} is being moved to {where}, which does not take it: {why}")
        return reply

    async def _send(self, place: Place, commands: Sequence[Command], changes: bool) -> list[Any]:
        words = list(commands)
        try:
            wanted = min(self._replicas, await self._count(place)) if changes else 0
            if wanted:
                words.append(("WAIT", wanted, int(self._patience.attempt_s * 500)))
            replies = await self._member(place, changes).together(words)
        except Unavailable as error:
            return [error] * len(commands)
        followed = replies.pop() if wanted else 0
        replies = [_passing(reply) for reply in replies]
        if not isinstance(followed, int) or followed < wanted:
            said = f"{followed} replicas of {place[0]}:{place[1]} have it, expected {wanted}"
            return [reply if isinstance(reply, Exception) else Unavailable(said) for reply in replies]
        return replies

    async def _count(self, place: Place) -> int:
        """How many replicas a master has. One that gets its first slot is not in the map: it is asked."""
        if place not in self._followers:
            (nodes,) = await self._member(place, True).together([("CLUSTER", "NODES")])
            self._followers[place] = _followers_of_myself(nodes)
        return self._followers[place]

    def _member(self, place: Place, changes: bool) -> Member:
        member = self._members.get((place, changes))
        if member is None:
            if len(self._members) >= 2 * _SERVERS_MAX:
                raise Unavailable(f"the cluster names more than {_SERVERS_MAX} servers")
            member = self._members[place, changes] = Member(
                self.server(place),
                0,
                role=self._role,
                vdisk=self._vdisk,
                patience=self._patience,
                tell=self._tell_once,
            )
        return member

    def server(self, place: Place) -> Server:
        """What the configuration says of the first server holds for all."""
        host, port = place
        return msgspec.structs.replace(
            self._model, address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        )

    def _tell_once(self, event: Event) -> None:
        """Of the two connections to a server, the first one to see it."""
        if self._told.get(event.data.address) != event.status:
            self._told[event.data.address] = event.status
            self._tell(event)

    # The map

    async def _refresh(self) -> None:
        """Concurrent callers share one look at the map; what cannot be had now is had in a later round."""
        if self._refreshing is None and asyncio.get_running_loop().time() - self._refreshed < _REFRESH_S:
            return
        try:
            await asyncio.shield(self._begin_look())
        except Unavailable:
            return

    def _begin_look(self) -> "asyncio.Task[None]":
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._look())
            self._refreshing.add_done_callback(self._looked)
        return self._refreshing

    def _looked(self, task: "asyncio.Task[None]") -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # every caller may be gone

    async def _look(self) -> None:
        """Ask all known servers at once and take the first good answer: one may hang."""
        places = dict.fromkeys((*(place for place, _ in self._members), *self._seeds))
        asked = [asyncio.ensure_future(self._map_of(place)) for place in places]
        failures: list[Unavailable] = []
        try:
            for next_done in asyncio.as_completed(asked):
                try:
                    epoch, masters, followers = await next_done
                except Unavailable as error:
                    failures.append(error)
                    continue
                if masters != self._masters:
                    self._replaced(masters)
                self._epoch, self._masters, self._followers = epoch, masters, followers
                return
            raise next((one for one in failures if isinstance(one, Refused)), failures[-1])
        finally:
            self._refreshed = asyncio.get_running_loop().time()
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def _replaced(self, masters: Sequence[Place | None]) -> None:
        """Whoever took over has its own time; whom it took over from is given up, and looked for."""
        failing, self._failing = self._failing, {}
        left = set(masters)
        for (place, changes), (_, why) in failing.items():
            if place is None or place in left:
                continue
            if (member := self._members.get((place, changes))) is not None:
                member.give_up(why)

    async def _map_of(self, place: Place) -> tuple[int, list[Place | None], dict[Place, int]]:
        """The epoch, the map and the counts of replicas that a server knows. Unavailable, also if too old."""
        member = self._member(place, False)
        info, rows = await member.together([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
        facts = dict(line.partition(b":")[::2] for line in info.split()) if isinstance(info, bytes) else {}
        masters = map_of(rows, place[0])
        if facts.get(b"cluster_state") != b"ok" or not any(masters):
            if isinstance(info, ReplyError):
                raise Refused(f"{member!r}: {info}")
            raise Unavailable(f"{member!r}: its cluster is not whole")
        epoch = int(facts.get(b"cluster_current_epoch", b"0"))
        if epoch < self._epoch:
            raise Unavailable(f"{member!r} knows an old map of the cluster")
        return epoch, masters, _followers(rows, place[0])

    async def steady(self) -> tuple[Any, ...]:
        """The map of now, to be compared. Unavailable while slots are moved."""
        await self._look()
        for place in self.masters():
            (nodes,) = await self._member(place, False).together([("CLUSTER", "NODES")])
            if not isinstance(nodes, bytes):
                raise Unavailable(f"{place[0]}:{place[1]}: {str(nodes)[:200]}")
            mine = [row for row in nodes.splitlines() if b"myself" in row]
            if len(mine) != 1 or b" [" in mine[0]:
                raise Unavailable(
                    f"{place[0]}:{place[1]} is moving slots", hint="try again when that is done"
                )
        return tuple(self._masters)

    def states(self) -> list[dict[str, Any]]:
        """Every master."""
        rows = []
        for place in self.masters():
            pair = [one for changes in (False, True) if (one := self._members.get((place, changes)))]
            why = next((one.why for one in pair if one.why), "")
            rows.append(
                {
                    "server": f"{place[0]}:{place[1]}@0",
                    "type": self._role,
                    "state": "offline" if why else "online",
                    "in_step": True,
                    "retries": 0,
                    "reason": why,
                }
            )
        return rows

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*(member.close() for member in self._members.values()))


def _asked(reply: Any) -> Place | None:
    """Where ASK says that the key may be."""
    words = str(reply).split() if isinstance(reply, ReplyError) else []
    if len(words) == 3 and words[0] == "ASK":
        host, _, port = words[2].rpartition(":")
        if host and port.isdigit():
            return host, int(port)
    return None


def _passing(reply: Any) -> Any:
    """A refusal that another look at the map may end, as Unavailable."""
    if isinstance(reply, ReplyError) and (reply.kind in _AWAY or reply.kind == "MOVED"):
        return Unavailable(str(reply))
    return reply


def _followers_of_myself(nodes: Any) -> int:
    """CLUSTER NODES has rows of id, place, flags, the master's id, and more. Unavailable."""
    rows = [row.split() for row in nodes.splitlines()] if isinstance(nodes, bytes) else []
    myself = [row[0] for row in rows if len(row) > 3 and b"myself" in row[2].split(b",")]
    if not myself:
        raise Unavailable(f"CLUSTER NODES: {str(nodes)[:200]}")
    replicas = [row for row in rows if len(row) > 3 and row[3] == myself[0]]
    return sum(b"fail" not in row[2].split(b",") for row in replicas)


def _followers(rows: Any, asked: str) -> dict[Place, int]:
    """CLUSTER SLOTS has replicas behind the master: those that did not fail, and have some of its data."""
    counts: dict[Place, int] = {}
    for entry in rows if isinstance(rows, list) else ():
        match entry:
            case [int(), int(), [host, int(port), *_], *replicas]:
                name = host.decode("ascii", "replace") if isinstance(host, bytes) and host else asked
                counts[name, port] = min(len(replicas), counts.get((name, port), len(replicas)))
    return counts
