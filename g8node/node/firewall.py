"""Owner of the node's nftables table (async): base rules, open ports, port forwards, masquerading.

Theory of operation. Every change is one transaction of one `nft -j -f -`, and changes come in turn. nft
answers with the handles of what it added, which are kept by owner, so that removing needs no listing. The
table is made anew on first use: what an earlier run left in it has no owner. Tables of others are never
touched, and listings ask nft for its own words, so that no rule of anybody's can break one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from g8node.errors import NodeError, NotFound
from g8node.linux import conntrack, netinfo, netlink
from g8node.node import programs
from g8node.node.claim import Claim
from g8node.runtime import blocking, logs
from g8node.runtime.finishing import finish
from g8node.runtime.process import Reaper
from g8node.wire import nft
from g8node.wire.forward import Source

log = logs.get("firewall")

T = TypeVar("T")

_TIMEOUT_S: Final = 30.0
_RESERVED_S: Final = 120.0
_FIRST_FREE: Final = 1024
_MISSING: Final = "No such file or directory"


@dataclass(slots=True)
class Forward:
    """One forward of an owner to `address:target`."""

    source: Source
    address: str
    target: int
    handles: list[tuple[str, int]] = field(default_factory=list)


class Firewall:
    """`closed`: what is not opened does not come in. `ports` stay open in any case."""

    def __init__(self, reaper: Reaper, claim: Claim, *, closed: bool, ports: Sequence[int] = ()) -> None:
        self._reaper = reaper
        self._claim = claim
        claim.on_taking(self._clear_away)
        self._closed = closed
        self._ports = tuple(ports)
        self._changing = asyncio.Lock()
        self._is_made = False
        self._base: set[tuple[str, int]] = set()
        self._owned: dict[str, list[tuple[str, int]]] = {}
        self._open: dict[int, tuple[str, int]] = {}
        self._forwards: dict[str, list[Forward]] = {}
        self._taken: set[int] = set()
        self._reserved: dict[int, float] = {}
        self.own_addresses: set[str] = set()
        """Where our own servers listen (those of bridges): they keep no port from being forwarded."""

    async def open(self) -> None:
        """Make the table. Every change does so when nobody did."""
        await self._change(self._ensure())

    async def close(self) -> None:
        """Remove the table with all that is in it."""
        await self._change(self._unmake())

    async def _unmake(self) -> None:
        if self._is_made:
            self._is_made = False
            await self._nft([{"delete": {"table": {"family": nft.FAMILY, "name": nft.TABLE}}}])

    # --- rules of an owner

    async def add(self, owner: str, rules: Sequence[nft.Rule]) -> None:
        """More rules of an owner."""
        await self._change(self._add_owned(owner, rules))

    async def _add_owned(self, owner: str, rules: Sequence[nft.Rule]) -> None:
        self._owned.setdefault(owner, []).extend(await self._add(rules))

    async def remove(self, owner: str) -> None:
        """All rules of an owner, its forwards too; nothing happens when it has none."""
        if owner in self._owned or owner in self._forwards:
            await self._change(self._remove(owner))

    async def _remove(self, owner: str) -> None:
        rules = self._owned.pop(owner, [])
        forwards = self._forwards.pop(owner, [])
        for forward in forwards:
            self._taken.discard(forward.source.port)
            rules = rules + forward.handles
        await self._delete(rules)
        if forwards:
            await self._end_connections(forwards)

    # --- ports of the node

    async def open_port(self, port: int, interface: str, subnet: str) -> None:
        await self._change(self._open_port(port, interface, subnet))

    async def _open_port(self, port: int, interface: str, subnet: str) -> None:
        if port in self._open:
            raise NodeError(f"port: {port} is open already")
        (self._open[port],) = await self._add([nft.open_port(port, interface, subnet)])

    async def drop_port(self, port: int) -> None:
        """Nothing happens for a port that was not opened."""
        await self._change(self._drop_port(port))

    async def _drop_port(self, port: int) -> None:
        if (handle := self._open.pop(port, None)) is not None:
            await self._delete([handle])

    def is_open(self, port: int) -> bool:
        return port in self._open

    async def rules(self, chain: str) -> list[str]:
        """The rules of one of our chains in nft's words, without comments."""
        if not self._is_made:
            return []
        arguments = ("list", "chain", nft.FAMILY, nft.TABLE, chain)
        return [text for text, _ in nft.texts(await programs.run(self._reaper, "nft", *arguments))]

    # --- forwards

    async def forward(self, owner: str, source: Source, address: str, target: int) -> None:
        """NodeError (500) for a port that is forwarded already or that a server of the node listens on."""
        await self._change(self._forward(owner, source, address, target))

    async def _forward(self, owner: str, source: Source, address: str, target: int) -> None:
        await self._refuse_busy(source)
        added = Forward(source, address, target)
        added.handles = await self._add(nft.forwards(source, address, target, f"forward {owner}"))
        self._taken.add(source.port)
        self._forwards.setdefault(owner, []).append(added)
        if "udp" in source.protocols:
            await self._renew(source.port)

    async def unforward(self, owner: str, port: int) -> None:
        """Nothing happens when the owner has no forward of that port."""
        await self._change(self._unforward(owner, port))

    async def _unforward(self, owner: str, port: int) -> None:
        kept = self._forwards.get(owner, [])
        for forward in [each for each in kept if each.source.port == port]:
            kept.remove(forward)
            self._taken.discard(port)
            await self._delete(forward.handles)
            await self._end_connections([forward])

    async def _end_connections(self, forwards: Sequence[Forward]) -> None:
        """Those that go by forwards whose rules are gone."""
        gone = [
            conntrack.Forwarded(protocol, each.source.port, each.address, each.target)
            for each in forwards
            for protocol in each.source.protocols
        ]
        try:
            await blocking.run("disk", conntrack.end, gone)
        except OSError as error:
            log.warning("connections by a forward that is gone go on", reason=str(error))

    async def _renew(self, port: int) -> None:
        """Who sends to a port already is forwarded, too."""
        try:
            await blocking.run("disk", _renewed, port)
        except OSError as error:
            log.warning("who sends to a port already is not forwarded", port=port, reason=str(error))

    def forwards(self, owner: str) -> dict[str, int]:
        """Canonical source -> port of the target."""
        return {str(each.source): each.target for each in self._forwards.get(owner, [])}

    async def reserve(self, count: int) -> list[int]:
        """Free TCP ports that are not given away again for two minutes."""
        async with self._changing:
            now = asyncio.get_running_loop().time()
            self._reserved = {port: end for port, end in self._reserved.items() if end > now}
            busy = await self._listening("tcp") | set(self._reserved) | self._taken
            free = (port for port in range(_FIRST_FREE, 65536) if port not in busy)
            ports = [port for _, port in zip(range(count), free, strict=False)]
            if len(ports) < count:
                raise NodeError("number: no free ports are left")
            self._reserved.update(dict.fromkeys(ports, now + _RESERVED_S))
            return ports

    async def _refuse_busy(self, source: Source) -> None:
        if source.port in self._taken:
            raise NodeError(f"port: port {source.port} already in use")
        if source.network or source.link:
            return  # it takes only a part of the connections; the rest goes on reaching the server
        for protocol in source.protocols:
            if source.port in await self._listening(protocol):
                raise NodeError(f"port: port {source.port} already in use: a server of the node has it")

    async def _listening(self, protocol: str) -> set[int]:
        """Ports that a server of the node has; on the loopback too, since forwards take those connections."""
        rows = await blocking.run("disk", netinfo.listening, protocol)
        return {port for ip, port in rows if ip not in self.own_addresses}

    # --- what nobody owns

    async def collect(self, lives: Callable[[str], bool], *, dry_run: bool) -> list[str]:
        """Rules of ours that we know nothing of, and those of dead owners; removed unless `dry_run`.

        A rule without a comment of ours is left alone, whoever put it into our table.
        """
        return await self._change(self._collect(lives, dry_run=dry_run))

    async def _collect(self, lives: Callable[[str], bool], *, dry_run: bool) -> list[str]:
        if not self._is_made:
            return []
        dead = [owner for owner in (*self._owned, *self._forwards) if not lives(owner)]
        table = ("-j", "-a", "list", "table", nft.FAMILY, nft.TABLE)
        listing = msgspec.json.decode(await programs.run(self._reaper, "nft", *table))
        known = self._base.union(
            self._open.values(),
            *self._owned.values(),
            *(each.handles for given in self._forwards.values() for each in given),
        )
        strange = [
            (chain, handle, comment)
            for chain, handle, comment in nft.handles(listing)
            if comment.startswith("g8 ") and (chain, handle) not in known
        ]
        if not dry_run:
            for owner in dead:
                await self._remove(owner)
            await self._delete([(chain, handle) for chain, handle, _ in strange])
        return [f"g8 {owner}" for owner in dead] + [
            f"{chain} {handle}: {comment}" for chain, handle, comment in strange
        ]

    # --- nft

    async def _change(self, change: Coroutine[Any, Any, T]) -> T:
        """In turn, and to its end: what nft did must be filed, also when the caller is cancelled."""

        async def whole() -> T:
            async with self._changing:
                return await change

        return await finish(whole())

    async def _clear_away(self, _: Set[str]) -> None:
        """Let nothing of a run that was killed stay in force until the table is made anew."""
        if self._claim.follows:
            table = {"table": {"family": nft.FAMILY, "name": nft.TABLE}}
            await self._nft([{"add": table}, {"delete": table}])

    async def _ensure(self) -> None:
        if not self._is_made:
            await self._claim.take()
            answer = await self._nft(nft.base(closed=self._closed, ports=self._ports))
            self._base = {(chain, handle) for chain, handle, _ in nft.handles(answer)}
            self._is_made = True

    async def _add(self, rules: Sequence[nft.Rule]) -> list[tuple[str, int]]:
        await self._ensure()
        return [(chain, handle) for chain, handle, _ in nft.handles(await self._nft(rules))]

    async def _delete(self, rules: Sequence[tuple[str, int]]) -> None:
        if not rules or not self._is_made:
            return
        try:
            await self._nft([nft.delete(chain, handle) for chain, handle in rules])
        except NotFound:
            # Somebody deleted one by hand: the others one by one.
            for chain, handle in rules:
                try:
                    await self._nft([nft.delete(chain, handle)])
                except NotFound:
                    continue

    async def _nft(self, commands: Sequence[nft.Rule]) -> Any:
        """One transaction; nft's answer. NotFound for what is not there."""
        path = await blocking.run("disk", programs.find, "nft")
        done = await self._reaper.run(
            [path, "-j", "-e", "-a", "-f", "-"],
            input=msgspec.json.encode({"nftables": list(commands)}),
            timeout_s=_TIMEOUT_S,
        )
        if done.code:
            text = done.stderr.decode(errors="replace").strip()
            raise NotFound(text[:300]) if _MISSING in text else programs.failure("nft", done)
        return msgspec.json.decode(done.stdout) if done.stdout.strip() else {}


def _renewed(port: int) -> None:
    conntrack.renew(port, {cidr.partition("/")[0] for cidr in netlink.all_addresses()})
