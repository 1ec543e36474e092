"""The commands that answer with nothing but success (async)."""

from g8node.nbd.export import Export
from g8node.wire import nbd
from g8node.wire.nbd import Request


async def perform(export: Export, request: Request) -> None:
    """TRIM, WRITE_ZEROES, CACHE and FLUSH, and what FUA asks beside. Raises as the export does."""
    kind, flags, _, offset, length, _ = request
    if kind == nbd.CMD_TRIM:
        await export.trim(offset, length)
    elif kind == nbd.CMD_WRITE_ZEROES:
        keep, fast = bool(flags & nbd.CMD_FLAG_NO_HOLE), bool(flags & nbd.CMD_FLAG_FAST_ZERO)
        await export.zero(offset, length, keep=keep, fast=fast)
    elif kind == nbd.CMD_CACHE:
        await export.cache(offset, length)
    if kind == nbd.CMD_FLUSH or (flags & nbd.CMD_FLAG_FUA and kind != nbd.CMD_CACHE):
        await export.flush()
