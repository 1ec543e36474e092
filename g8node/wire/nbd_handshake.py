"""NBD's fixed newstyle handshake as a server speaks it (pure).

Theory of operation. `Handshake` is fed what the client sends and collects what is to be sent in `output`. It
answers by itself what needs no knowledge of exports. For the rest `next()` gives a question; the machine
takes no further option until `answer_exports` or `answer_export` was called.

    greeting -> client flags -> option* -> Begin (transmission)
                                        -> StartTls (the caller makes TLS, then a machine for what follows it)
                                        -> End (the client leaves, or got its last answer)

Nothing that was said before TLS counts after it, and bytes that came with STARTTLS were not protected: they
end the connection (a man in the middle could have put them there). With `tls="required"` only ABORT and
STARTTLS are heard before. Everything is bounded: an option's payload, its name and queries, the number of
options. The caller bounds the time.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from g8node.wire.nbd import BASE_ALLOCATION, BASE_ALLOCATION_ID, FLAG_SEND_DF, PAYLOAD_MAX, ProtocolError

INIT_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
REPLY_MAGIC: Final = 0x3E889045565A9

FLAG_FIXED_NEWSTYLE: Final = 1
FLAG_NO_ZEROES: Final = 2

OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_LIST: Final = 3
OPT_STARTTLS: Final = 5
OPT_INFO: Final = 6
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10
OPT_EXTENDED_HEADERS: Final = 11

REP_ACK: Final = 1
REP_SERVER: Final = 2
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
_ERROR: Final = 1 << 31
REP_ERR_UNSUP: Final = _ERROR + 1
REP_ERR_POLICY: Final = _ERROR + 2
REP_ERR_INVALID: Final = _ERROR + 3
REP_ERR_TLS_REQD: Final = _ERROR + 5
REP_ERR_UNKNOWN: Final = _ERROR + 6
REP_ERR_SHUTDOWN: Final = _ERROR + 7
REP_ERR_TOO_BIG: Final = _ERROR + 9
REP_ERR_EXT_HEADER_REQD: Final = _ERROR + 10

INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3

NAME_BYTES_MAX: Final = 4096
_OPTION_BYTES_MAX: Final = 64 << 10
_SKIP_BYTES_MAX: Final = 1 << 20
_OPTIONS_MAX: Final = 1000
_EXPORT_NAME_ZEROES: Final = 124
_OPTION: Final = struct.Struct(">8sII")
_REPLY: Final = struct.Struct(">QIII")

TlsMode = Literal["off", "optional", "required", "done"]


@dataclass(frozen=True, slots=True)
class Description:
    """What a client is told of an export. `flags` are transmission flags without DF, which depends on it."""

    size: int
    flags: int
    preferred_block: int = 4096
    text: str = ""
    payload_max: int = PAYLOAD_MAX


@dataclass(frozen=True, slots=True)
class AskExports:
    """Call `answer_exports` with (name, description) of what may be listed."""


@dataclass(frozen=True, slots=True)
class AskExport:
    """Call `answer_export`. `begins`: the client goes on to transmission with it."""

    name: str
    begins: bool


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send `output`, make TLS as its server, then go on with another machine behind it."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Send `output`; what the client sends from now on, `rest` first, are requests."""

    name: str
    description: Description
    structured: bool
    extended: bool
    block_status: bool


@dataclass(frozen=True, slots=True)
class End:
    """Send `output` and close."""

    reason: str


Event = AskExports | AskExport | StartTls | Begin | End


class Handshake:
    """One client's handshake; see the module."""

    def __init__(self, *, tls: TlsMode = "off", greet: bool = True, zeroes: bool = True) -> None:
        """Behind TLS: `tls="done"`, no second greeting, and the `zeroes` of the machine before."""
        self.output = bytearray()
        self._tls = tls
        self._buffer = bytearray()
        self._flags_due = greet
        self.zeroes = zeroes  # whether the answer to EXPORT_NAME is padded
        self._options = 0
        self._structured = False
        self._extended = False
        self._context_of: str | None = None  # the export that base:allocation was chosen for
        self._skip = 0
        self._asked: tuple[int, str, tuple[int, ...], list[str]] | None = None
        self._event: Event | None = None
        self._handlers: Final[dict[int, Callable[[int, bytes], None]]] = {
            OPT_EXPORT_NAME: self._export_name,
            OPT_ABORT: self._abort,
            OPT_LIST: self._list,
            OPT_STARTTLS: self._start_tls,
            OPT_INFO: self._info,
            OPT_GO: self._info,
            OPT_STRUCTURED_REPLY: self._structured_reply,
            OPT_LIST_META_CONTEXT: self._meta_context,
            OPT_SET_META_CONTEXT: self._meta_context,
            OPT_EXTENDED_HEADERS: self._extended_headers,
        }
        if greet:
            flags = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES
            self.output += INIT_MAGIC + OPTION_MAGIC + struct.pack(">H", flags)

    @property
    def rest(self) -> bytes:
        """What the client sent behind its last option."""
        return bytes(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data

    def next(self) -> Event | None:
        """The next question or the end of the handshake; None when more bytes (or an answer) are needed.

        Raises ProtocolError when the connection cannot go on.
        """
        while self._event is None and self._asked is None:
            if not (self._take_flags() if self._flags_due else self._take_option()):
                return None
        event, self._event = self._event, None
        return event

    def _take_flags(self) -> bool:
        if len(self._buffer) < 4:
            return False
        (flags,) = struct.unpack_from(">I", self._buffer)
        if flags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) or not flags & FLAG_FIXED_NEWSTYLE:
            raise ProtocolError(f"client flags {flags:#x}: expected fixed newstyle")
        self.zeroes = not flags & FLAG_NO_ZEROES
        self._flags_due = False
        del self._buffer[:4]
        return True

    def _take_option(self) -> bool:
        if self._skip:
            count = min(self._skip, len(self._buffer))
            del self._buffer[:count]
            self._skip -= count
            if self._skip:
                return False
        if len(self._buffer) < _OPTION.size:
            return False
        magic, option, length = _OPTION.unpack_from(self._buffer)
        if magic != OPTION_MAGIC:
            raise ProtocolError("bad option magic")
        if length > _OPTION_BYTES_MAX:
            return self._refuse_large(option, length)
        if len(self._buffer) < _OPTION.size + length:
            return False
        self._count()
        body = bytes(self._buffer[_OPTION.size : _OPTION.size + length])
        del self._buffer[: _OPTION.size + length]
        self._handle(option, body)
        return True

    def _count(self) -> None:
        self._options += 1
        if self._options > _OPTIONS_MAX:
            raise ProtocolError(f"more than {_OPTIONS_MAX} options")

    def _refuse_large(self, option: int, length: int) -> bool:
        if length > _SKIP_BYTES_MAX or option == OPT_EXPORT_NAME:
            raise ProtocolError(f"option {option} with {length} bytes: at most {_OPTION_BYTES_MAX}")
        self._count()
        del self._buffer[: _OPTION.size]
        self._skip = length
        self._fail(option, REP_ERR_TOO_BIG, f"at most {_OPTION_BYTES_MAX} bytes")
        return True

    def _handle(self, option: int, body: bytes) -> None:
        if self._tls == "required" and option not in (OPT_ABORT, OPT_STARTTLS):
            if option == OPT_EXPORT_NAME:
                raise ProtocolError("EXPORT_NAME without TLS, which is required")
            self._fail(option, REP_ERR_TLS_REQD, "this server requires TLS")
            return
        handler = self._handlers.get(option)
        if handler is None:
            self._fail(option, REP_ERR_UNSUP, "unknown option")
        else:
            handler(option, body)

    def _reply(self, option: int, kind: int, body: bytes = b"") -> None:
        self.output += _REPLY.pack(REPLY_MAGIC, option, kind, len(body)) + body

    def _fail(self, option: int, kind: int, text: str) -> None:
        self._reply(option, kind, text.encode())

    # Options without a question

    def _abort(self, option: int, body: bytes) -> None:
        self._reply(option, REP_ACK)
        self._event = End("the client ends the handshake")

    def _start_tls(self, option: int, body: bytes) -> None:
        if body:
            self._fail(option, REP_ERR_INVALID, "STARTTLS takes no data")
        elif self._tls == "done":
            self._fail(option, REP_ERR_INVALID, "TLS is in use already")
        elif self._tls == "off":
            self._fail(option, REP_ERR_POLICY, "this server has no TLS")
        elif self._buffer:
            raise ProtocolError("data behind STARTTLS that TLS does not protect")
        else:
            self._reply(option, REP_ACK)
            self._event = StartTls()

    def _structured_reply(self, option: int, body: bytes) -> None:
        if body:
            self._fail(option, REP_ERR_INVALID, "STRUCTURED_REPLY takes no data")
        elif self._extended:
            self._fail(option, REP_ERR_EXT_HEADER_REQD, "extended headers are in use already")
        elif self._structured:
            self._fail(option, REP_ERR_INVALID, "structured replies are in use already")
        else:
            self._structured = True
            self._reply(option, REP_ACK)

    def _extended_headers(self, option: int, body: bytes) -> None:
        if body:
            self._fail(option, REP_ERR_INVALID, "EXTENDED_HEADERS takes no data")
        elif self._extended:
            self._fail(option, REP_ERR_INVALID, "extended headers are in use already")
        else:
            self._structured = self._extended = True
            self._context_of = None
            self._reply(option, REP_ACK)

    # Options that ask about exports

    def _list(self, option: int, body: bytes) -> None:
        if body:
            self._fail(option, REP_ERR_INVALID, "LIST takes no data")
            return
        self._asked = option, "", (), []
        self._event = AskExports()

    def _info(self, option: int, body: bytes) -> None:
        try:
            name, rest = _name(body)
            (count,) = struct.unpack_from(">H", rest)
            if len(rest) != 2 + 2 * count:
                raise ValueError("the number of requests and the length differ")
        except (ValueError, struct.error) as error:
            self._fail(option, REP_ERR_INVALID, str(error))
            return
        self._asked = option, name, struct.unpack_from(f">{count}H", rest, 2), []
        self._event = AskExport(name, begins=option == OPT_GO)

    def _export_name(self, option: int, body: bytes) -> None:
        if len(body) > NAME_BYTES_MAX:
            raise ProtocolError(f"export name of {len(body)} bytes: at most {NAME_BYTES_MAX}")
        try:
            name = body.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("export name: expected UTF-8") from error
        self._asked = option, name, (), []
        self._event = AskExport(name, begins=True)

    def _meta_context(self, option: int, body: bytes) -> None:
        if option == OPT_SET_META_CONTEXT:
            self._context_of = None  # whatever was chosen before, also when this one fails
        if not self._structured:
            self._fail(option, REP_ERR_INVALID, "structured replies must be in use")
            return
        try:
            name, rest = _name(body)
            queries = _queries(rest)
        except (ValueError, struct.error) as error:
            self._fail(option, REP_ERR_INVALID, str(error))
            return
        self._asked = option, name, (), queries
        self._event = AskExport(name, begins=False)

    # Answers

    def answer_exports(self, exports: Iterable[tuple[str, str]]) -> None:
        """The answer to AskExports."""
        assert self._asked is not None
        option = self._asked[0]
        self._asked = None
        for name, text in exports:
            raw = name.encode()
            self._reply(option, REP_SERVER, struct.pack(">I", len(raw)) + raw + text.encode())
        self._reply(option, REP_ACK)

    def answer_export(
        self, description: Description | None, reason: str = "no such export", *, shutdown: bool = False
    ) -> None:
        """The answer to AskExport: what it is, or None and why not."""
        assert self._asked is not None
        option, name, requests, queries = self._asked
        self._asked = None
        if description is None:
            if option == OPT_EXPORT_NAME:
                raise ProtocolError(f"export {name[:80]!r}: {reason}")
            self._fail(option, REP_ERR_SHUTDOWN if shutdown else REP_ERR_UNKNOWN, reason)
        elif option in (OPT_SET_META_CONTEXT, OPT_LIST_META_CONTEXT):
            self._answer_contexts(option, name, queries)
        elif option == OPT_EXPORT_NAME:
            self._begin(name, description)
            zeroes = _EXPORT_NAME_ZEROES if self.zeroes else 0
            self.output += struct.pack(">QH", description.size, self._flags(description)) + bytes(zeroes)
        else:
            self._answer_info(option, name, requests, description)

    def _answer_contexts(self, option: int, name: str, queries: list[str]) -> None:
        listing = option == OPT_LIST_META_CONTEXT
        wanted = not queries if listing else False
        wanted = wanted or BASE_ALLOCATION in queries or (listing and "base:" in queries)
        if wanted:
            number = 0 if listing else BASE_ALLOCATION_ID
            self._reply(option, REP_META_CONTEXT, struct.pack(">I", number) + BASE_ALLOCATION.encode())
            if not listing:
                self._context_of = name
        self._reply(option, REP_ACK)

    def _answer_info(
        self, option: int, name: str, requests: tuple[int, ...], description: Description
    ) -> None:
        export = struct.pack(">HQH", INFO_EXPORT, description.size, self._flags(description))
        self._reply(option, REP_INFO, export)
        if INFO_NAME in requests:
            self._reply(option, REP_INFO, struct.pack(">H", INFO_NAME) + name.encode())
        if INFO_DESCRIPTION in requests and description.text:
            self._reply(
                option, REP_INFO, struct.pack(">H", INFO_DESCRIPTION) + description.text.encode()[:4096]
            )
        sizes = (1, description.preferred_block, description.payload_max)
        self._reply(option, REP_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, *sizes))
        self._reply(option, REP_ACK)
        if option == OPT_GO:
            self._begin(name, description)

    def _flags(self, description: Description) -> int:
        return description.flags | (FLAG_SEND_DF if self._structured else 0)

    def _begin(self, name: str, description: Description) -> None:
        self._event = Begin(
            name, description, self._structured, self._extended, block_status=self._context_of == name
        )


def _name(body: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from(">I", body)
    if length > NAME_BYTES_MAX:
        raise ValueError(f"export name: at most {NAME_BYTES_MAX} bytes")
    if 4 + length > len(body):
        raise ValueError("export name: longer than the option")
    return body[4 : 4 + length].decode(), body[4 + length :]


def _queries(rest: bytes) -> list[str]:
    (count,) = struct.unpack_from(">I", rest)
    queries: list[str] = []
    pos = 4
    for _ in range(count):
        (length,) = struct.unpack_from(">I", rest, pos)
        pos += 4
        if length > NAME_BYTES_MAX or pos + length > len(rest):
            raise ValueError("query: longer than the option, or than 4096 bytes")
        queries.append(rest[pos : pos + length].decode("utf-8", "replace"))
        pos += length
    if pos != len(rest):
        raise ValueError("data behind the last query")
    return queries
