"""All servers of one vdisk (async): which shard has what, the ledger, and the copying that heals.

States of a primary server in the configuration (block-storage 3.4, 3.5):

    online     used
    offline    not used: its slave serves the shard, or I/O on it fails
    repair     its slave serves the shard, and it is copied anew from there
    respread   its shard is spread over the others, then it is gone
    rip        gone: the formula passes it over

A server that fails by itself is taken for offline until it answers again (see `member`).
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from g8node.errors import NodeError, Unavailable
from g8node.runtime import logs
from g8node.vdisk.cluster import events, heal, layout, ledger, scan
from g8node.vdisk.cluster.events import Role, Tell
from g8node.vdisk.cluster.ledger import Ledger
from g8node.vdisk.cluster.member import Member, Patience, Refused
from g8node.vdisk.cluster.settings import Server, StorageCluster
from g8node.vdisk.cluster.shard import Copy, Moved, Shard, reply_of, taken

log = logs.get("vdisk")

K = TypeVar("K", int, bytes)
_RETRY_S: Final = 0.5
_RETRY_MAX_S: Final = 30.0


class Mirror:
    """`key` is the hash of the vdisk. `open` before anything else; `close` at the end."""

    def __init__(self, vdisk: str, key: str, *, patience: Patience, tell: Tell, read_only: bool) -> None:
        self.key = key
        self.shards: list[Shard] = []
        self._vdisk = vdisk
        self._patience = patience
        self._tell = tell
        self._read_only = read_only
        self._ledger = Ledger.new()
        self._heard: dict[str, Ledger | None] = {}
        self._copies: dict[str, Copy] = {}
        self._unsettled = False
        self._settling = asyncio.Lock()
        self._healing: dict[str, asyncio.Task[None]] = {}
        self._spreading = asyncio.Lock()
        self._joined = False
        self._closed = False

    # Opening

    async def open(self, primary: StorageCluster, slave: StorageCluster | None) -> None:
        """Unavailable when it cannot be told whose blocks count."""
        try:
            await self._open(primary, slave)
        except BaseException:
            await self.close()
            raise

    async def _open(self, primary: StorageCluster, slave: StorageCluster | None) -> None:
        for number, server in enumerate(primary.servers):
            self._add(number, server, slave.servers[number] if slave is not None else None)
        await asyncio.gather(*(self._hear(copy) for copy in self._copies.values() if not copy.excluded))
        found = ledger.newest(one for one in self._heard.values() if one is not None)
        self._ledger.members = set(self._copies)
        heard = {name: name in self._heard for name in self._copies}
        if found is not None:
            self._ledger = found
            for shard in self.shards:
                self._doubt(shard, heard)
        for number, server in enumerate(primary.servers):
            if server.state == "rip":
                self._unsettled |= number not in self._ledger.gone
                self._ledger.gone.add(number)
        if self._ledger.gone >= set(range(len(self.shards))):
            raise Unavailable("all servers of the cluster are gone")
        await self._join(primary)

    def _add(self, number: int, server: Server, slave: Server | None) -> None:
        copies = []
        roles: tuple[tuple[Role, Server | None], ...] = (("primary", server), ("slave", slave))
        for role, one in roles:
            if one is None or one.state == "rip" or not one.address:
                continue
            member = Member(
                one,
                number,
                role=role,
                vdisk=self._vdisk,
                patience=self._patience,
                tell=self._tell,
                record_key=ledger.key_of(self._vdisk),
                accept=self._accept,
            )
            member.returned = self._returned
            copy = self._copies[member.name] = Copy(member, number)
            copy.excluded = one.state == "offline" or (role == "slave" and one.state != "online")
            copies.append(copy)
        flush_key = f"{ledger.key_of(self._vdisk)}:flush"
        self.shards.append(Shard(number, self.key, copies, flush_key=flush_key, left_behind=self.settle))

    async def _hear(self, copy: Copy) -> None:
        """Have `accept` see the member's ledger; a member that does not answer is down from now on."""
        try:
            await copy.member.call([("PING",)])
        except Unavailable:
            if copy.member.up:  # refused without having been given up
                raise

    def _accept(self, member: Member, record: bytes | None, flushes: int) -> None:
        found = self._heard[member.name] = ledger.decode(record)
        copy = self._copies[member.name]
        if not self._joined or not copy.in_step:
            return
        if found is not None and found.id != self._ledger.id:
            raise Refused("holds blocks of another life of this vdisk")
        copy.lost = self._is_empty(member.name, found) or flushes < copy.flushes
        if copy.lost:
            raise Refused("has lost its data, or never had any")

    def _is_empty(self, name: str, found: Ledger | None) -> bool:
        """Without a ledger, and no new one; or with an old ledger, and no known one."""
        if found is not None:
            return name not in self._ledger.members | self._ledger.marked and found.seq < self._ledger.seq
        return name in self._ledger.marked or name not in self._ledger.members

    def _doubt(self, shard: Shard, heard: Mapping[str, bool]) -> None:
        names = [copy.member.name for copy in shard.copies if not copy.excluded]
        if name := ledger.doubtful(self._ledger, names, heard):
            member = self._copies[name].member
            raise Unavailable(
                f"{member!r} may have newer blocks than the servers that answer: {member.why}",
                hint="bring it back, or set its state to offline",
            )

    async def _join(self, primary: StorageCluster) -> None:
        """Who is behind, who lost its data, who is new; then write it down and begin to heal."""
        self._joined = True
        for name, copy in self._copies.items():
            if name in self._ledger.behind:
                copy.lost = True
                copy.leave()
        for name, found in self._heard.items():
            if self._is_empty(name, found) and name not in self._ledger.behind:
                self._lost(self._copies[name])
        for number, server in enumerate(primary.servers):
            self._take_state(number, server)
        if not self._read_only:
            await self._mark()
            await self.settle()
            self._begin_healing(primary)

    def _lost(self, copy: Copy) -> None:
        """A copy that is empty where it should not be: healed from the other one, or not used."""
        copy.lost = True
        others = [other for other in self._shard_of(copy).in_step() if other is not copy and other.member.up]
        if any(not other.lost for other in others):
            copy.leave()
            self._unsettled = True
        else:
            copy.member.give_up("has lost its data, or never had any")

    def _take_state(self, number: int, server: Server) -> None:
        copy = next((one for one in self.shards[number].copies if one.member.role == "primary"), None)
        if copy is None:
            return
        name = copy.member.name
        others = [other for other in self.shards[number].in_step() if other is not copy]
        if server.state != "repair":
            self._unsettled |= name in self._ledger.repaired
            self._ledger.repaired.discard(name)
        elif name not in self._ledger.repaired:
            if others:
                copy.lost = copy.repairing = True
                copy.leave()
                self._unsettled = True
            else:
                copy.excluded = True
        if server.state == "respread" and others:
            copy.excluded = True

    def _shard_of(self, copy: Copy) -> Shard:
        return self.shards[copy.number]

    async def _mark(self) -> None:
        """Give a ledger to those that have none: first theirs, then the one that says that they have it."""
        fresh = [
            name
            for name, found in self._heard.items()
            if found is None and name not in self._ledger.marked and self._copies[name].member.up
        ]
        if fresh:
            text = self._ledger.encode()
            for name in fresh:
                await self._copies[name].member.call([("SET", ledger.key_of(self._vdisk), text)])
            self._ledger.marked.update(fresh)
            self._unsettled = True

    # The ledger

    async def settle(self) -> None:
        """What changed of who is in step is on at least half of the servers when this returns."""
        if not self._unsettled and self._behind() == self._ledger.behind:
            return
        async with self._settling:
            behind = self._behind()
            if self._unsettled or behind != self._ledger.behind:
                await self._write_down(behind)

    def _behind(self) -> set[str]:
        """Those out of step, and those that the configuration does not have any more."""
        former = (self._ledger.marked | self._ledger.members) - self._copies.keys()
        return former | {name for name, copy in self._copies.items() if not copy.in_step}

    async def _write_down(self, behind: set[str]) -> None:
        self._unsettled = True
        self._ledger.behind = behind
        self._ledger.seq += 1
        text = self._ledger.encode()
        members = [copy.member for copy in self._copies.values() if copy.member.up and not copy.excluded]
        command = ("SET", ledger.key_of(self._vdisk), text)
        told = await asyncio.gather(*(member.call([command]) for member in members), return_exceptions=True)
        count = sum(type(one) is list and one[0] in (b"OK", "OK") for one in told)
        if 2 * count < len(self._copies):
            raise Unavailable(f"only {count} of {len(self._copies)} servers could take the ledger")
        self._unsettled = False

    # Which shard

    @property
    def gone(self) -> set[int]:
        return self._ledger.gone

    def shard(self, index: int) -> Shard:
        """For a block, a sector, or the first byte of a hash. Unavailable when all servers are gone, which
        is refused when the vdisk is opened and before a shard is spread.
        """
        return self.shards[layout.server_of(index, len(self.shards), self._ledger.gone)]

    def _place(self, one: int | bytes) -> Shard:
        return self.shard(one if isinstance(one, int) else one[0])

    def lane(self, index: int) -> int:
        return self.shard(index).number

    async def get(self, fields: Sequence[int]) -> dict[int, bytes | Unavailable | None]:
        return await self._read(fields, self.shard, Shard.get, ("HMGET", self.key))

    async def get_contents(self, hashes: Sequence[bytes]) -> dict[bytes, bytes | Unavailable | None]:
        return await self._read(hashes, self._place, Shard.get_contents, ("MGET",))

    async def present(self, fields: Sequence[int]) -> dict[int, bool | Unavailable]:
        return await self._read(fields, self.shard, Shard.present)

    async def _read(
        self,
        items: Sequence[K],
        place: Callable[[K], Shard],
        read: Callable[[Shard, Sequence[K]], Awaitable[Sequence[Any]]],
        words: tuple[str, ...] = (),
    ) -> dict[K, Any]:
        """Every shard's items in one go; the failure of a shard is that of its items.

        `words` begin the command that reads; it is sent to all shards, without a task for each, and only
        where it fails is it done with `read`, which insists.
        """
        groups: dict[Shard, list[K]] = {}
        for item in items:
            groups.setdefault(place(item), []).append(item)
        begun: list[asyncio.Future[Any] | None] = []
        for shard, items in groups.items():
            begun.append(shard.begin((*words, *items), len(items)) if words else None)
        answers: dict[K, Any] = {}
        left: list[tuple[Shard, list[K]]] = []
        for future, (shard, asked) in zip(begun, groups.items(), strict=True):
            if future is None or not taken(answers, asked, await reply_of(future)):
                left.append((shard, asked))

        async def one(shard: Shard, part: Sequence[K]) -> dict[K, Any]:
            try:
                return dict(zip(part, await read(shard, part), strict=True))
            except Unavailable as error:
                return dict.fromkeys(part, error)

        for got in await asyncio.gather(*(one(shard, part) for shard, part in left)) if left else ():
            answers |= got
        return answers

    async def fields(self) -> AsyncIterator[dict[int, bytes]]:
        """All that the vdisk's hash holds, in pieces. Unavailable."""
        for shard in self.shards:
            if shard.moved or shard.number in self.gone:
                continue
            source = next((copy.member for copy in shard.in_step() if copy.member.up), None)
            if source is None:
                raise Unavailable(f"shard {shard.number}: no server may be used", hint="see its state")
            async for found in scan.fields(source, self.key, None):
                yield {one: data for one, data in found.items() if self.shard(one) is shard}

    @property
    def late(self) -> bool:
        """Whether a shard may take long to be read from."""
        return any(shard.late for shard in self.shards if not shard.moved and shard.copies)

    async def put(self, fields: Mapping[int, bytes | memoryview]) -> dict[int, Unavailable]:
        """The failures."""
        return await self._change(fields, self.shard, Shard.put)

    async def drop(self, fields: Iterable[int]) -> dict[int, Unavailable]:
        return await self._change(
            dict.fromkeys(fields), self.shard, lambda shard, part: shard.drop(list(part))
        )

    async def put_contents(self, contents: Mapping[bytes, bytes | memoryview]) -> dict[bytes, Unavailable]:
        return await self._change(contents, self._place, Shard.put_contents)

    async def _change(
        self,
        items: Mapping[K, Any],
        place: Callable[[K], Shard],
        change: Callable[[Shard, Any], Awaitable[None]],
    ) -> dict[K, Unavailable]:
        groups: dict[Shard, dict[K, Any]] = {}
        for item, data in items.items():
            groups.setdefault(place(item), {})[item] = data

        async def one(shard: Shard, part: dict[K, Any]) -> dict[K, Unavailable]:
            try:
                await change(shard, part)
            except Moved:
                return await self._change(part, place, change)
            except Unavailable as error:
                return dict.fromkeys(part, error)
            return {}

        failures: dict[K, Unavailable] = {}
        for got in await asyncio.gather(*(one(shard, part) for shard, part in groups.items())):
            failures |= got
        return failures

    async def flush(self) -> None:
        """Every shard that was changed knows of it. Unavailable."""
        await asyncio.gather(*(shard.flush() for shard in self.shards if shard.changed))

    # Healing

    def _returned(self, member: Member) -> None:
        """A server answers again: it gets the ledger, and what it missed."""
        copy = self._copies[member.name]
        if self._closed or self._read_only or copy.excluded:
            return
        if copy.in_step:
            for other in self._shard_of(copy).copies:
                if other.lost and other is not copy:
                    other.leave()  # now there is somebody to copy from
            self._unsettled = True
            self._keep(f"ledger {member.name}", self._greet_back)
        else:
            self._heal(copy)

    async def _greet_back(self) -> None:
        await self._mark()
        await self.settle()

    def _begin_healing(self, primary: StorageCluster) -> None:
        for copy in self._copies.values():
            if not copy.in_step and not copy.excluded and copy.member.up:
                self._heal(copy)
        for number, server in enumerate(primary.servers):
            if server.state == "respread" and number not in self._ledger.gone:
                self._keep(f"respread {number}", functools.partial(self._respread, self.shards[number]))

    def _heal(self, copy: Copy) -> None:
        self._keep(f"heal {copy.member.name}", lambda: self._sync(copy))

    def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Until it is done; one of a name at a time."""
        if name not in self._healing and not self._closed:
            task = self._healing[name] = asyncio.create_task(self._insist(name, work), name=name)
            task.add_done_callback(lambda _: self._healing.pop(name, None))

    async def _insist(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        pause_s = _RETRY_S
        while True:
            try:
                return await work()
            except NodeError as error:
                log.warning("healing is tried again", vdisk=self._vdisk, work=name, reason=str(error))
            except Exception as error:
                log.error("bug in healing", vdisk=self._vdisk, work=name, exc_info=error)
                raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    async def _sync(self, copy: Copy) -> None:
        """Copy to one server what it misses; then it is in step."""
        shard = self._shard_of(copy)
        if copy.in_step or shard.moved:
            return
        await heal.fill(shard, copy, self.key)
        async with shard.quiet():
            if not copy.syncing:
                raise Unavailable(f"{copy.member!r} fell behind while it was copied")
            copy.syncing, copy.in_step, copy.lost, copy.missed = False, True, False, None
            self._ledger.marked.add(copy.member.name)
            if copy.repairing:
                self._ledger.repaired.add(copy.member.name)
            self._unsettled = True
            try:
                await self.settle()
            except Unavailable:
                copy.in_step = False
                raise
        log.warning("server is in step again", server=repr(copy.member), vdisk=self._vdisk)
        copy.member.tell(events.REPAIRED)

    async def _respread(self, shard: Shard) -> None:
        """Put a shard on the others, then let its servers go; one at a time."""
        async with self._spreading:
            await self._respread_alone(shard)

    async def _respread_alone(self, shard: Shard) -> None:
        gone = self._ledger.gone | {shard.number}

        def place(one: int | bytes) -> Shard:
            index = one if isinstance(one, int) else one[0]
            return self.shards[layout.server_of(index, len(self.shards), gone)]

        if len(gone) == len(self.shards):
            raise Unavailable("there is no other server left to spread to")
        await heal.spread(shard, self.shards, self.key, now=self._place, then=place)
        async with shard.quiet():
            if shard.spread_broken:
                raise Unavailable(f"shard {shard.number} could not be spread: a server failed")
            self._ledger.gone.add(shard.number)
            self._unsettled = True
            try:
                await self.settle()
            except Unavailable:
                self._ledger.gone.discard(shard.number)
                raise
            shard.moved, shard.also, shard.changed = True, None, False
        log.warning("shard is spread over the others", shard=shard.number, vdisk=self._vdisk)
        for copy in shard.copies:
            if copy.member.role == "primary":
                copy.member.tell(events.RESPREAD)

    def states(self) -> list[dict[str, Any]]:
        """Every server: in step or not, up or why not."""
        rows = []
        for copy in self._copies.values():
            number = copy.number
            state = "online" if copy.in_step and copy.member.up else "offline"
            if copy.syncing:
                state = "repair"
            if number in self._ledger.gone:
                state = "rip"
            elif self.shards[number].also is not None:
                state = "respread"
            rows.append(
                {
                    "server": copy.member.address,
                    "type": copy.member.role,
                    "state": state,
                    "in_step": copy.in_step,
                    "retries": copy.member.retries,
                    "reason": copy.member.why,
                }
            )
        return rows

    async def close(self) -> None:
        self._closed = True
        tasks = list(self._healing.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.gather(*(copy.member.close() for copy in self._copies.values()))
