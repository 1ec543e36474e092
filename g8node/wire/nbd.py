"""NBD's transmission phase as a server speaks it (pure): requests in, replies out.

Layouts and names are those of the protocol's document (github.com/NetworkBlockDevice/nbd, doc/proto.md). The
handshake is in `nbd_handshake`.

Theory of operation. `RequestParser` owns the memory that a socket receives into: the caller asks for
`buffer()`, fills the first part of it, and `received(count)` gives every request that is complete now, which
is one batch. A payload is a view of that memory, never a copy: what was given away is not received into
again, so a view stays valid for as long as somebody keeps it. A payload that does not fit
gets memory of its own size, so that a write of 32 MiB is received where it is used. A payload above the
limit is not kept: it is skipped, and the request comes out without one, to be refused. Only what leaves the
stream's meaning open (a wrong magic, a length that nobody would skip) is a ProtocolError.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from g8node.wire.kernels import blank

REQUEST_MAGIC: Final = 0x25609513
EXTENDED_REQUEST_MAGIC: Final = 0x21E41C71
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
EXTENDED_REPLY_MAGIC: Final = 0x6E8A278C

FLAG_HAS_FLAGS: Final = 1 << 0
FLAG_READ_ONLY: Final = 1 << 1
FLAG_SEND_FLUSH: Final = 1 << 2
FLAG_SEND_FUA: Final = 1 << 3
FLAG_SEND_TRIM: Final = 1 << 5
FLAG_SEND_WRITE_ZEROES: Final = 1 << 6
FLAG_SEND_DF: Final = 1 << 7
FLAG_CAN_MULTI_CONN: Final = 1 << 8
FLAG_SEND_CACHE: Final = 1 << 10
FLAG_SEND_FAST_ZERO: Final = 1 << 11

CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISC: Final = 2
CMD_FLUSH: Final = 3
CMD_TRIM: Final = 4
CMD_CACHE: Final = 5
CMD_WRITE_ZEROES: Final = 6
CMD_BLOCK_STATUS: Final = 7

CMD_FLAG_FUA: Final = 1 << 0
CMD_FLAG_NO_HOLE: Final = 1 << 1
CMD_FLAG_DF: Final = 1 << 2
CMD_FLAG_REQ_ONE: Final = 1 << 3
CMD_FLAG_FAST_ZERO: Final = 1 << 4
CMD_FLAG_PAYLOAD_LEN: Final = 1 << 5

REPLY_FLAG_DONE: Final = 1
REPLY_TYPE_NONE: Final = 0
REPLY_TYPE_OFFSET_DATA: Final = 1
REPLY_TYPE_OFFSET_HOLE: Final = 2
REPLY_TYPE_BLOCK_STATUS: Final = 5
REPLY_TYPE_BLOCK_STATUS_EXT: Final = 6
REPLY_TYPE_ERROR: Final = (1 << 15) + 1

STATE_HOLE: Final = 1
STATE_ZERO: Final = 2
BASE_ALLOCATION: Final = "base:allocation"
BASE_ALLOCATION_ID: Final = 1

EPERM: Final = 1
EIO: Final = 5
ENOMEM: Final = 12
EINVAL: Final = 22
ENOSPC: Final = 28
EOVERFLOW: Final = 75
ENOTSUP: Final = 95
ESHUTDOWN: Final = 108

ERRORS: Final = frozenset({EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN})

PAYLOAD_MAX: Final = 32 << 20
"""Bytes of one READ or WRITE, as qemu and nbdkit have it."""
SIZE_MAX: Final = (1 << 63) - 1
_SKIP_MAX: Final = 1 << 32
_ERROR_TEXT_MAX: Final = 4096
_BUFFER_BYTES: Final = 256 << 10
_ROOM_MIN: Final = 16 << 10
_SPARES: Final = 16
_SPARE_BYTES: Final = 512 << 10
_U32: Final = 0xFFFFFFFF

_COMPACT: Final = struct.Struct(">IHHQQI")
_EXTENDED: Final = struct.Struct(">IHHQQQ")
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
_STRUCTURED: Final = struct.Struct(">IHHQI")
_EXTENDED_REPLY: Final = struct.Struct(">IHHQQQ")
_STRUCTURED_DATA: Final = struct.Struct(">IHHQIQ")
_EXTENDED_DATA: Final = struct.Struct(">IHHQQQQ")
_HOLE: Final = struct.Struct(">QI")
_ERROR: Final = struct.Struct(">IH")


class ProtocolError(Exception):
    """The peer does not speak NBD; the connection cannot go on."""


class Request(NamedTuple):
    """One command. `payload` is a WRITE's data; None as well when it was above the limit and skipped."""

    kind: int
    flags: int
    cookie: int
    offset: int
    length: int
    payload: memoryview | None = None


class RequestParser:
    """Receive into `buffer()`, then take the requests that `received()` completes."""

    def __init__(self, *, extended: bool = False, payload_max: int = PAYLOAD_MAX) -> None:
        self._header = _EXTENDED if extended else _COMPACT
        self._magic = EXTENDED_REQUEST_MAGIC if extended else REQUEST_MAGIC
        self._payload_max = payload_max
        self._extended = extended
        self._view = memoryview(blank(_BUFFER_BYTES))
        self._start = self._end = 0  # what of the view is received and not taken
        self._lent = False  # whether views of it were given away
        self._large: tuple[Request, memoryview] | None = None  # a payload that is received where it is used
        self._filled = 0
        self._own: dict[int, bytearray] = {}  # memory of single payloads that are in use
        self._spares: list[bytearray] = []
        self._skip: tuple[Request, int] | None = None  # bytes of an oversized payload still to come

    @property
    def idle(self) -> bool:
        """Whether no request is half received."""
        return self._start == self._end and self._large is None and self._skip is None

    def buffer(self) -> memoryview:
        """Where to receive next; never empty."""
        if self._large is not None:
            return self._large[1][self._filled :]
        return self._view[self._end :]

    def recycle(self, payload: memoryview) -> None:
        """Nobody uses this payload any more: memory of its own serves another one."""
        spare = self._own.pop(id(payload.obj), None)
        if spare is not None and len(spare) <= _SPARE_BYTES and len(self._spares) < _SPARES:
            self._spares.append(spare)

    def all_returned(self) -> None:
        """Nobody uses any payload any more: their place is free to receive in again."""
        self._lent = False
        self._keep(self._start)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Request]:
        """As buffer and received, for data that was received elsewhere (after TLS, the handshake's rest)."""
        requests: list[Request] = []
        view = memoryview(data)
        while len(view):
            room = self.buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            requests += self.received(count)
            view = view[count:]
        return requests

    def received(self, count: int) -> list[Request]:
        """The batch that `count` more bytes complete, in order. Raises ProtocolError."""
        if self._large is not None:
            self._filled += count
            request, memory = self._large
            if self._filled < len(memory):
                return []
            self._large = None
            return [request._replace(payload=memory)]
        self._end += count
        return self._cut()

    def _cut(self) -> list[Request]:
        requests: list[Request] = []
        view, end, header = self._view, self._end, self._header
        size, magic, pos = header.size, self._magic, self._start
        if self._skip is not None:
            pos = self._skipped(requests, pos)
        while end - pos >= size:
            found, flags, kind, cookie, offset, length = header.unpack_from(view, pos)
            if found != magic:
                raise ProtocolError(f"request magic {found:#x}: expected {magic:#x}")
            body = pos + size
            if kind != CMD_WRITE or length > self._payload_max:
                pos = self._without_payload(Request(kind, flags, cookie, offset, length), body, requests)
                continue
            past = body + length
            if past > end:
                if past > len(view):
                    self._begin_large(Request(kind, flags, cookie, offset, length), view[body:end])
                    pos = end
                break
            requests.append(Request(kind, flags, cookie, offset, length, view[body:past]))
            self._lent = True
            pos = past
        self._keep(pos)
        return requests

    def _without_payload(self, request: Request, body: int, requests: list[Request]) -> int:
        """Take a request whose payload, if there is one, nobody wants; where the next one begins."""
        if request.kind == CMD_WRITE or (request.flags & CMD_FLAG_PAYLOAD_LEN and self._extended):
            return self._begin_skip(request, body, requests)
        requests.append(request)
        return body

    def _begin_skip(self, request: Request, body: int, requests: list[Request]) -> int:
        """Past as much of a payload that nobody wants as is here already."""
        if request.length > _SKIP_MAX:
            raise ProtocolError(f"payload of {request.length} bytes: at most {self._payload_max} are taken")
        self._skip = request, request.length
        return self._skipped(requests, body)

    def _skipped(self, requests: list[Request], pos: int = 0) -> int:
        assert self._skip is not None
        request, missing = self._skip
        count = min(missing, self._end - pos)
        self._skip = request, missing - count
        if count == missing:
            self._skip = None
            requests.append(request)
        return pos + count

    def _begin_large(self, request: Request, first: memoryview) -> None:
        spare = next((one for one in self._spares if len(one) >= request.length), None)
        if spare is not None:
            self._spares.remove(spare)
        else:
            spare = blank(request.length)
        self._own[id(spare)] = spare
        memory = memoryview(spare)[: request.length]
        memory[: len(first)] = first
        self._large, self._filled = (request, memory), len(first)

    def _keep(self, pos: int) -> None:
        """Go on behind what was taken: where nobody holds views, and where there is room."""
        end = self._end
        if pos == end and not self._lent:
            self._start = self._end = 0
        elif len(self._view) - end >= _ROOM_MIN:
            self._start = pos
        else:
            rest = bytes(self._view[pos:end])
            if self._lent:
                self._view, self._lent = memoryview(blank(_BUFFER_BYTES)), False
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)


_ALWAYS: Final = CMD_FLAG_FUA
_FLAGS: Final[dict[int, int]] = {
    CMD_READ: _ALWAYS | CMD_FLAG_DF,
    CMD_WRITE: _ALWAYS | CMD_FLAG_PAYLOAD_LEN,
    CMD_DISC: _ALWAYS,
    CMD_FLUSH: _ALWAYS,
    CMD_TRIM: _ALWAYS,
    CMD_CACHE: _ALWAYS,
    CMD_WRITE_ZEROES: _ALWAYS | CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO,
    CMD_BLOCK_STATUS: _ALWAYS | CMD_FLAG_REQ_ONE,
}
_CHANGES: Final = frozenset({CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES})


class Rules(NamedTuple):
    """What a client may ask of one export on one connection."""

    size: int
    read_only: bool = False
    structured: bool = False
    extended: bool = False
    block_status: bool = False
    payload_max: int = PAYLOAD_MAX

    def refusal(self, request: Request) -> int:
        """The error to answer without doing anything; 0 when the request is in order."""
        kind, flags, _, _, length, payload = request
        if (allowed := _FLAGS.get(kind)) is None or flags & ~allowed:
            return EINVAL
        if flags & CMD_FLAG_DF and not self.structured:
            return EINVAL
        if flags & CMD_FLAG_PAYLOAD_LEN and not self.extended:
            return EINVAL
        if self.read_only and kind in _CHANGES:
            return EPERM
        if kind in (CMD_DISC, CMD_FLUSH):
            return 0
        if kind == CMD_BLOCK_STATUS and not self.block_status:
            return EINVAL
        if length == 0 or (kind == CMD_READ and length > self.payload_max):
            return EINVAL
        if kind == CMD_WRITE and payload is None:
            return EINVAL
        return self._beyond(request)

    def _beyond(self, request: Request) -> int:
        """Offsets are 64 bits wide, and sums of them are exact here."""
        if request.offset + request.length <= self.size:
            return 0
        return ENOSPC if request.kind in (CMD_WRITE, CMD_WRITE_ZEROES) else EINVAL


class Replies:
    """Encodes replies in the form that was negotiated."""

    def __init__(self, *, structured: bool = False, extended: bool = False) -> None:
        self.structured = structured or extended
        self.extended = extended
        if extended:
            self.data_bytes = _EXTENDED_DATA.size
        else:
            self.data_bytes = _STRUCTURED_DATA.size if structured else SIMPLE_REPLY.size
        """Bytes before the data of a READ's answer."""

    def data_header(
        self, into: bytearray | memoryview, at: int, cookie: int, offset: int, length: int
    ) -> None:
        """What stands before the data of a READ's answer, which is one chunk."""
        if self.extended:
            kind, done = REPLY_TYPE_OFFSET_DATA, REPLY_FLAG_DONE
            _EXTENDED_DATA.pack_into(
                into, at, EXTENDED_REPLY_MAGIC, done, kind, cookie, offset, length + 8, offset
            )
        elif self.structured:
            kind, done = REPLY_TYPE_OFFSET_DATA, REPLY_FLAG_DONE
            _STRUCTURED_DATA.pack_into(
                into, at, STRUCTURED_REPLY_MAGIC, done, kind, cookie, length + 8, offset
            )
        else:
            SIMPLE_REPLY.pack_into(into, at, SIMPLE_REPLY_MAGIC, 0, cookie)

    def hole(self, cookie: int, offset: int, length: int) -> bytes:
        """The answer to a READ of nothing but zeros; only with structured replies."""
        return self._chunk(REPLY_TYPE_OFFSET_HOLE, cookie, offset, _HOLE.pack(offset, length))

    def done(self, cookie: int, offset: int = 0) -> bytes:
        """Success without data."""
        if self.extended:
            return self._chunk(REPLY_TYPE_NONE, cookie, offset, b"")
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)

    def error(self, request: Request, error: int, text: str = "") -> bytes:
        """Failure. Structured where the command's answer must be (a READ, block status), else simple."""
        code = error if error in ERRORS else EIO
        needs = request.kind in (CMD_READ, CMD_BLOCK_STATUS)
        if self.extended or (self.structured and needs):
            body = text.encode("utf-8", "replace")[:_ERROR_TEXT_MAX]
            body = body.decode("utf-8", "ignore").encode()  # not in the middle of a character
            packed = _ERROR.pack(code, len(body)) + body
            return self._chunk(REPLY_TYPE_ERROR, request.cookie, request.offset, packed)
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, code, request.cookie)

    def block_status(self, cookie: int, offset: int, extents: Sequence[tuple[int, int]]) -> bytes:
        """Extents as (bytes, flags) of base:allocation, the first at `offset`."""
        if self.extended:
            body = struct.pack(">II", BASE_ALLOCATION_ID, len(extents))
            body += b"".join(struct.pack(">QQ", length, flags) for length, flags in extents)
            return self._chunk(REPLY_TYPE_BLOCK_STATUS_EXT, cookie, offset, body)
        body = struct.pack(">I", BASE_ALLOCATION_ID)
        body += b"".join(struct.pack(">II", length, flags) for length, flags in _narrow(extents))
        return self._chunk(REPLY_TYPE_BLOCK_STATUS, cookie, offset, body)

    def _chunk(self, kind: int, cookie: int, offset: int, body: bytes) -> bytes:
        if self.extended:
            head = (EXTENDED_REPLY_MAGIC, REPLY_FLAG_DONE, kind, cookie, offset, len(body))
            return _EXTENDED_REPLY.pack(*head) + body
        return _STRUCTURED.pack(STRUCTURED_REPLY_MAGIC, REPLY_FLAG_DONE, kind, cookie, len(body)) + body


def _narrow(extents: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """As many of the extents as 32-bit lengths can say; the client asks again for the rest."""
    narrow: list[tuple[int, int]] = []
    for length, flags in extents:
        narrow.append((min(length, _U32 & ~0xFFFF), flags))
        if narrow[-1][0] != length:
            break
    return narrow
