"""What a client is told of a vdisk (pure)."""

from typing import Final

from g8node.vdisk.record import Record
from g8node.wire import nbd
from g8node.wire.nbd_handshake import Description

_ALL: Final = nbd.FLAG_HAS_FLAGS | nbd.FLAG_SEND_FLUSH | nbd.FLAG_CAN_MULTI_CONN
_WRITABLE: Final = nbd.FLAG_SEND_FUA | nbd.FLAG_SEND_TRIM | nbd.FLAG_SEND_WRITE_ZEROES

NO_CHECK: Final = (
    "check: expected a vdisk of a folder; on clusters every read looks whether its server has lost data, and "
    "whether deduplicated content is what its hash says: read all of it over NBD"
)


def describe(record: Record, *, readable: int = 0, writable: int = 0) -> Description:
    """Any byte may be read and written; whole blocks are the quickest.

    `readable` and `writable`: what it can do beside what all can.
    """
    flags = _ALL | readable | (nbd.FLAG_READ_ONLY if record.read_only else _WRITABLE | writable)
    return Description(
        record.size, flags, preferred_block=max(record.block_size, 4096), text=f"{record.type} vdisk"
    )
