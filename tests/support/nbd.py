"""What an NBD client sends, and what a server's replies mean: for tests of ours only."""

import struct
from dataclasses import dataclass, field
from typing import Any

from g8node.wire import nbd
from g8node.wire import nbd_handshake as hs

CLIENT_FLAGS = struct.pack(">I", hs.FLAG_FIXED_NEWSTYLE | hs.FLAG_NO_ZEROES)


def option(number: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    return hs.OPTION_MAGIC + struct.pack(">II", number, len(body) if length is None else length) + body


def named(name: str, rest: bytes = b"") -> bytes:
    raw = name.encode()
    return struct.pack(">I", len(raw)) + raw + rest


def go(name: str = "vd", *infos: int, kind: int = hs.OPT_GO) -> bytes:
    return option(kind, named(name, struct.pack(f">H{len(infos)}H", len(infos), *infos)))


def contexts(name: str = "vd", *queries: str, kind: int = hs.OPT_SET_META_CONTEXT) -> bytes:
    return option(kind, named(name, struct.pack(">I", len(queries)) + b"".join(map(named, queries))))


def request(
    kind: int,
    offset: int = 0,
    length: int = 0,
    *,
    flags: int = 0,
    cookie: int = 1,
    payload: bytes = b"",
    extended: bool = False,
    magic: int | None = None,
) -> bytes:
    if extended:
        if kind == nbd.CMD_WRITE:
            flags |= nbd.CMD_FLAG_PAYLOAD_LEN
        head = nbd.EXTENDED_REQUEST_MAGIC if magic is None else magic
        return struct.pack(">IHHQQQ", head, flags, kind, cookie, offset, length or len(payload)) + payload
    head = nbd.REQUEST_MAGIC if magic is None else magic
    return struct.pack(">IHHQQI", head, flags, kind, cookie, offset, length or len(payload)) + payload


def option_replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """(option, reply type, body) of each; the greeting is skipped when it is there."""
    if data.startswith(hs.INIT_MAGIC):
        data = data[18:]
    found = []
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == hs.REPLY_MAGIC
        found.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


@dataclass
class Reply:
    """One answer: `error` 0 for success, data by offset, extents of block status."""

    cookie: int
    error: int = 0
    data: dict[int, bytes] = field(default_factory=dict)
    extents: list[tuple[int, int]] = field(default_factory=list)
    text: str = ""
    structured: bool = True


class ReplyReader:
    """Reads replies from `receive(count)`, which gives exactly so many bytes."""

    def __init__(self, receive: Any, reads: dict[int, tuple[int, int]]) -> None:
        self._receive = receive
        self._reads = reads  # cookie -> (offset, length), for simple replies

    def next(self) -> Reply:
        magic = struct.unpack(">I", head := self._receive(4))[0]
        assert head
        if magic == nbd.SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack(">IQ", self._receive(12))
            reply = Reply(cookie, error, structured=False)
            if cookie in self._reads and not error:
                offset, length = self._reads[cookie]
                reply.data[offset] = self._receive(length)
            return reply
        assert magic in (nbd.STRUCTURED_REPLY_MAGIC, nbd.EXTENDED_REPLY_MAGIC), hex(magic)
        wide = magic == nbd.EXTENDED_REPLY_MAGIC
        flags, kind, cookie = struct.unpack(">HHQ", self._receive(12))
        _, length = (
            struct.unpack(">QQ", self._receive(16)) if wide else (0, *struct.unpack(">I", self._receive(4)))
        )
        assert flags == nbd.REPLY_FLAG_DONE
        return self._body(Reply(cookie), kind, self._receive(length))

    def _body(self, reply: Reply, kind: int, body: bytes) -> Reply:
        if kind == nbd.REPLY_TYPE_OFFSET_DATA:
            reply.data[struct.unpack_from(">Q", body)[0]] = body[8:]
        elif kind == nbd.REPLY_TYPE_OFFSET_HOLE:
            offset, size = struct.unpack(">QI", body)
            reply.data[offset] = bytes(size)
        elif kind == nbd.REPLY_TYPE_BLOCK_STATUS:
            assert struct.unpack_from(">I", body)[0] == nbd.BASE_ALLOCATION_ID
            reply.extents = list(struct.iter_unpack(">II", body[4:]))
        elif kind == nbd.REPLY_TYPE_BLOCK_STATUS_EXT:
            assert struct.unpack_from(">II", body) == (nbd.BASE_ALLOCATION_ID, (len(body) - 8) // 16)
            reply.extents = list(struct.iter_unpack(">QQ", body[8:]))
        elif kind == nbd.REPLY_TYPE_ERROR:
            reply.error, size = struct.unpack_from(">IH", body)
            assert len(body) == 6 + size
            reply.text = body[6:].decode()
        else:
            assert kind == nbd.REPLY_TYPE_NONE
        return reply
