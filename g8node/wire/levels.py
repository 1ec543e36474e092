"""The level multiplexer of process output (pure): spec core0-protocol 2.7 with its corrections.

Theory of operation. Output is a sequence of lines. A line that begins with digits and `::` is one message of
that level; digits and `:::` open a block that ends at a line consisting of `:::`; every other line keeps the
descriptor's own level, and such lines that arrive together are one message. Plain text is passed on as soon
as it cannot be the beginning of a header any more, so prompts appear without their newline; headed lines and
blocks are held until they are complete, reach MAX_BYTES (then they are passed on in parts) or end with the
output.
"""

import codecs
import re
from typing import Final, NamedTuple

MAX_BYTES: Final = 8 << 20

_HEADER = re.compile(rb"^(\d{1,5})(:::?)", re.MULTILINE)
_MAYBE_HEADER = re.compile(rb"\d{1,5}:{0,2}")
_TERMINATOR: Final = b"\n:::\n"


class Text(NamedTuple):
    """One message: its level, and what it says."""

    level: int
    text: str


class LevelParser:
    """Feed what was read from one descriptor, get the messages that are complete."""

    def __init__(self, default: int, *, max_bytes: int = MAX_BYTES) -> None:
        self._default = default
        self._max_bytes = max_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""  # the beginning of a line that may become a header
        self._inside_line = False  # the last plain text did not end in a newline
        self._level = 0
        self._terminator = b""  # of the message being held: a newline or the block's; empty: none is
        self._body = bytearray()
        self._scanned = 0

    def feed(self, data: bytes) -> list[Text]:
        """The messages that data completes."""
        messages: list[Text] = []
        while data:
            data = self._feed_held(data, messages) if self._terminator else self._feed_plain(data, messages)
        return messages

    def close(self) -> list[Text]:
        """End of output: what was held is passed on, an open block too."""
        messages: list[Text] = []
        if self._terminator:
            is_block = self._terminator == _TERMINATOR
            body = bytes(self._body.removesuffix(b"\n:::")) if is_block else bytes(self._body)
            messages.append(Text(self._level, body.decode("utf-8", "replace")))
            self._terminator = b""
        elif self._held.endswith(b"::"):  # a header with nothing behind it
            messages.append(Text(int(self._held[:-2]), ""))
            self._held = b""
        self._plain(self._held, messages)
        self._held = b""
        if rest := self._decoder.decode(b"", final=True):
            messages.append(Text(self._default, rest))
        self._body.clear()
        return messages

    def _plain(self, data: bytes, messages: list[Text]) -> None:
        if text := self._decoder.decode(data):
            messages.append(Text(self._default, text))

    def _feed_plain(self, data: bytes, messages: list[Text]) -> bytes:
        """Pass on plain text up to the next header; returns what follows the header."""
        data, self._held = self._held + data, b""
        line = 0
        if self._inside_line:
            line = data.find(b"\n") + 1
            if not line:
                self._plain(data, messages)
                return b""
            self._inside_line = False
        header = _HEADER.search(data, line)
        if header is None or header.end() == len(data):
            self._plain_tail(data, messages, None if header is None else header.start())
            if header is None or header[2] == b"::":
                return b""
        else:
            self._plain(data[: header.start()], messages)
        if header[2] == b":::":
            # A newline right after the header belongs to the text, and may begin the terminator.
            self._hold(int(header[1]), _TERMINATOR)
        else:
            self._hold(int(header[1]), b"\n")
        return data[header.end() :]

    def _plain_tail(self, data: bytes, messages: list[Text], header: int | None) -> None:
        """data ends in plain text, or at a header whose last colon may be missing: keep that."""
        cut = data.rfind(b"\n") + 1 if header is None else header
        tail = data[cut:]
        if header is not None and tail.endswith(b":::"):
            self._plain(data[:cut], messages)
        elif _MAYBE_HEADER.fullmatch(tail):
            self._plain(data[:cut], messages)
            self._held = tail
        else:
            self._plain(data, messages)
            self._inside_line = bool(tail)

    def _hold(self, level: int, terminator: bytes) -> None:
        self._level = level
        self._terminator = terminator
        self._body.clear()
        self._scanned = 0

    def _feed_held(self, data: bytes, messages: list[Text]) -> bytes:
        """Add to the message being held; returns what follows its end."""
        body, terminator = self._body, self._terminator
        body += data
        end = body.find(terminator, max(0, self._scanned - len(terminator) + 1))
        if end < 0:
            self._scanned = len(body)
            if len(body) > self._max_bytes:
                self._pass_part(messages)
            return b""
        text_end = end if terminator == _TERMINATOR else end + 1
        rest = bytes(body[end + len(terminator) :])
        messages.append(Text(self._level, body[:text_end].decode("utf-8", "replace")))
        self._terminator = b""
        body.clear()
        return rest

    def _pass_part(self, messages: list[Text]) -> None:
        """The message grew too long: pass on what cannot be part of its end or of a split character."""
        cut = len(self._body) - len(_TERMINATOR)
        while self._body[cut] & 0xC0 == 0x80 and cut > len(self._body) - 2 * len(_TERMINATOR):
            cut -= 1
        messages.append(Text(self._level, self._body[:cut].decode("utf-8", "replace")))
        del self._body[:cut]
        self._scanned = len(self._body)
