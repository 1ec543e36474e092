"""Replies of reads that are done together (pure): headers and data in one piece of memory."""

from collections.abc import Iterable, Sequence

from g8node.nbd.export import BatchedExport
from g8node.wire.nbd import Replies, Request


def in_lanes(reads: Sequence[Request], export: BatchedExport) -> Iterable[Sequence[Request]]:
    """The reads of each lane."""
    numbers = export.lanes([read.offset for read in reads])
    if not numbers:
        return [reads] if reads else []
    lanes: dict[int, list[Request]] = {}
    for read, lane in zip(reads, numbers, strict=True):
        lanes.setdefault(lane, []).append(read)
    return lanes.values()


class ReadReplies:
    """`asked` is (offset, where its data goes) of each read; the headers are in place."""

    def __init__(self, replies: Replies, reads: Sequence[Request]) -> None:
        head = replies.data_bytes
        self.all = memoryview(bytearray(sum(read.length for read in reads) + head * len(reads)))
        self.each: list[memoryview] = []
        self.asked: list[tuple[int, memoryview]] = []
        at = 0
        for read in reads:
            end = at + head + read.length
            replies.data_header(self.all, at, read.cookie, read.offset, read.length)
            self.each.append(self.all[at:end])
            self.asked.append((read.offset, self.all[at + head : end]))
            at = end
