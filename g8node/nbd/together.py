"""Replies of reads that are done together (pure): headers and data in one piece of memory."""

from collections.abc import Iterable, Iterator, Sequence

from g8node.nbd.export import BatchedExport
from g8node.wire.kernels import blank
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
    """`asked` is (offset, where its data goes) of each read; the headers are in place.

    The memory is not cleared: nothing of it may be sent before it is filled.
    """

    def __init__(self, replies: Replies, reads: Sequence[Request], size: int) -> None:
        """`size`: of their data together."""
        self._head = head = replies.data_bytes
        self.all = whole = memoryview(blank(size + head * len(reads)))
        self.asked: list[tuple[int, memoryview]] = []
        header, at = replies.data_header, 0
        for _, _, cookie, offset, length, _ in reads:
            header(whole, at, cookie, offset, length)
            at += head
            self.asked.append((offset, whole[at : at + length]))
            at += length

    def each(self) -> Iterator[memoryview]:
        """The reply to each read."""
        at = 0
        for _, data in self.asked:
            end = at + self._head + len(data)
            yield self.all[at:end]
            at = end
