"""Collection of content that no deduplicated vdisk of a cluster names any more (async), beside its writers.

Mark: the hashes in all `lba:*` of the cluster, of its slaves, and of clones elsewhere that read from it.
Sweep: content that is not marked, and was neither written nor read for `grace_s` before the marking began, is
removed, by a script that looks at that and removes it in one go.

Why that is safe: whoever names content has just put it (also when it was there before), and writes the hash
within `content.FLUSH_S`. A writer that cannot, because a server is away, looks whether the content is still
there before it writes the hash (`Sectors`); and a collection needs all servers. Marks are bits of a table, so
some dead content passes for live; every run uses other bytes of the hash.

Nothing is kept: a collection that was killed is begun anew. The original's programs keep hashes for as long
as they like, and must not run beside it. The database must hold nothing but vdisks.
"""

import asyncio
import secrets
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from g8node.errors import Unavailable
from g8node.runtime.resp import ReplyError
from g8node.vdisk.cluster import scan
from g8node.vdisk.cluster.events import Tell
from g8node.vdisk.cluster.layout import HASH_BYTES, MARK, NO_HASH, SECTOR_BYTES
from g8node.vdisk.cluster.member import Member, Patience
from g8node.vdisk.cluster.offline import members, slots_of
from g8node.vdisk.cluster.settings import StorageCluster
from g8node.vdisk.record import BLOCK_MAX

GRACE_S: Final = 900.0
_TABLE_BITS: Final = 28
_KEY_BYTES: Final = 64
_SWEEP: Final = f"""
local freed, bytes = 0, 0
for _, key in ipairs(KEYS) do
  if redis.call('TYPE', key).ok == 'string'
      and redis.call('OBJECT', 'IDLETIME', key) >= tonumber(ARGV[1]) then
    local size = redis.call('STRLEN', key)
    if size > 0 and size <= {BLOCK_MAX} then
      freed, bytes = freed + redis.call('DEL', key), bytes + size
    end
  end
end
return {{freed, bytes}}
"""
_OURS: Final = (b"lba:", b"nondedup:", b"g8node:", b"tlog:", b"semidedup:")


class Table:
    """Which hashes are in use: 32 MiB of bits, found by four bytes of the hash."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_TABLE_BITS - 3))
        self._number = struct.Struct(f"<{secrets.randbelow(HASH_BYTES - 4) + 1}xI")

    def _place(self, hash: bytes) -> tuple[int, int]:
        number = self._number.unpack_from(hash)[0] & ((1 << _TABLE_BITS) - 1)
        return number >> 3, 1 << (number & 7)

    def add(self, hash: bytes) -> None:
        at, bit = self._place(hash)
        self._bits[at] |= bit

    def __contains__(self, hash: bytes) -> bool:
        at, bit = self._place(hash)
        return bool(self._bits[at] & bit)


@dataclass
class Collected:
    """`blocks` and `bytes` were removed; `kept` blocks were not."""

    blocks: int = 0
    bytes: int = 0
    kept: int = 0


class ClusterCollection:
    """One run. `others`: clusters of slaves, and of clones that read content from `cluster`."""

    def __init__(
        self,
        cluster: StorageCluster,
        slaves: Sequence[StorageCluster],
        others: Sequence[StorageCluster],
        *,
        patience: Patience,
        tell: Tell,
        bytes_s: int = 0,
        grace_s: float = GRACE_S,
    ) -> None:
        self._swept = (cluster, *slaves)
        self._marked = (*self._swept, *others)
        self._patience = patience
        self._tell = tell
        self._bytes_s = bytes_s
        self._grace_s = grace_s
        self._table = Table()
        self.done = Collected()

    async def run(self) -> Collected:
        """Unavailable when a server does not answer: then nothing is removed, or no more than was."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        maps = await self._maps()
        async with self._members(self._marked) as servers:
            for member in servers:
                await self._mark(member)
        if await self._maps() != maps:
            raise Unavailable("slots were moved during the collection", hint="begin it anew")
        async with self._members(self._swept) as servers:
            for member in servers:
                await self._sweep(member, began)
        return self.done

    def _members(self, clusters: Iterable[StorageCluster]) -> Any:
        return members(clusters, vdisk="", patience=self._patience, tell=self._tell)

    async def _maps(self) -> list[Any]:
        """Where the slots are. Unavailable while they are moved: a hash on its way would not be marked."""
        maps = []
        for cluster in self._marked:
            if cluster.has_slots:
                async with slots_of(cluster, self._patience, self._tell) as slots:
                    maps.append(await slots.steady())
        return maps

    async def _step(self, moved: int) -> None:
        await asyncio.sleep(moved / self._bytes_s if self._bytes_s else 0)

    async def _mark(self, member: Member) -> None:
        async for keys in scan.keys(member, "lba:*"):
            for key in keys:
                if len(key) != HASH_BYTES or await _is_hash(member, key):
                    await self._mark_vdisk(member, key)
            await self._step(len(keys) * _KEY_BYTES)

    async def _mark_vdisk(self, member: Member, key: bytes) -> None:
        cursor = b"0"
        while True:
            (reply,) = await member.call([("HSCAN", key, cursor, "COUNT", scan.BATCH)])
            cursor, flat = scan.as_list(reply)
            for field, sector in zip(flat[::2], flat[1::2], strict=True):
                if field == MARK:
                    continue
                if len(sector) != SECTOR_BYTES:
                    raise Unavailable(f"{member!r}: {key!r} has a sector of {len(sector)} bytes")
                for at in range(0, SECTOR_BYTES, HASH_BYTES):
                    if (hash := sector[at : at + HASH_BYTES]) != NO_HASH:
                        self._table.add(hash)
            await self._step(len(flat) // 2 * SECTOR_BYTES)
            if cursor == b"0":
                return

    async def _sweep(self, member: Member, began: float) -> None:
        loop = asyncio.get_running_loop()
        async for keys in scan.keys(member):
            contents = [key for key in keys if len(key) == HASH_BYTES and not key.startswith(_OURS)]
            dead = [key for key in contents if key not in self._table]
            blocks = size = 0
            if dead:
                idle_s = int(loop.time() - began + self._grace_s) + 1
                # Of a Redis Cluster, a script gets keys of one slot only.
                groups = [[one] for one in dead] if self._swept[0].has_slots else [dead]
                for reply in await member.call(
                    [("EVAL", _SWEEP, len(group), *group, idle_s) for group in groups]
                ):
                    if isinstance(reply, ReplyError):
                        raise Unavailable(
                            f"{member!r}: {reply}", hint="maxmemory-policy must not be an LFU one"
                        )
                    freed, freed_bytes = scan.as_list(reply)
                    blocks, size = blocks + freed, size + freed_bytes
            self.done.blocks += blocks
            self.done.bytes += size
            self.done.kept += len(contents) - blocks
            await self._step(len(keys) * _KEY_BYTES + size)


async def _is_hash(member: Member, key: bytes) -> bool:
    (reply,) = await member.call([("TYPE", key)])
    return reply in (b"hash", "hash")
