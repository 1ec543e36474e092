"""What is written down on every server of a vdisk about all of them (pure).

Two servers that hold the same shard (primary and slave) are in step until one misses a write. Before the
client hears of that write, the ledger says that the other one is behind: on half of all servers or more.
Whoever opens the vdisk later and reads more than half of the ledgers therefore knows whose blocks count, also
when the survivor is then away. A server that should have a ledger and has none has lost its data, and is not
taken for an empty one; the same when it does not know of the last flush (under the key with `:flush` behind).

The key is `g8node:<vdisk>`; the original's programs do not look at it.
"""

import secrets
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from g8node.errors import Unavailable


class Ledger(Struct, kw_only=True):
    """The one with the highest `seq` counts. Names are those of members."""

    id: str
    seq: int = 0
    members: set[str] = set()
    """Servers that the vdisk had when its ledger began: one of them without a ledger is new, not empty."""
    marked: set[str] = set()
    """Servers that have, or had, a ledger."""
    behind: set[str] = set()
    """Servers that missed writes."""
    repaired: set[str] = set()
    """Servers that were copied anew since the configuration said `repair`."""
    gone: set[int] = set()
    """Numbers of servers whose shard lies on the others now, for good."""

    @classmethod
    def new(cls) -> "Ledger":
        return cls(id=secrets.token_hex(16))

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")


def key_of(vdisk: str) -> str:
    return f"g8node:{vdisk}"


def decode(data: bytes | None) -> Ledger | None:
    """None where there is none. Unavailable when it is damaged."""
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Ledger)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"the ledger is damaged: {error}") from error


def newest(found: Iterable[Ledger]) -> Ledger | None:
    """Unavailable when they are of several lives: servers of one vdisk were mixed with those of another."""
    ledgers = list(found)
    if len({ledger.id for ledger in ledgers}) > 1:
        raise Unavailable("the servers' ledgers are not of one vdisk")
    return max(ledgers, key=lambda ledger: ledger.seq, default=None)


def doubtful(ledger: Ledger, shard: Iterable[str], heard: Mapping[str, bool]) -> str:
    """A member of the shard that is not heard and may have newer blocks than those that are; or "".

    `heard`: every member of the vdisk, and whether its ledger could be read.
    """
    if 2 * sum(heard.values()) > len(heard):
        return ""  # the newest ledger is among them
    silent = [name for name in shard if not heard[name] and name not in ledger.behind]
    speaks = [name for name in shard if heard[name] and name not in ledger.behind]
    return silent[0] if silent and speaks else ""
