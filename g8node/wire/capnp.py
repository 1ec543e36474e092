"""A bounded reader and a small writer of Cap'n Proto messages (pure), as much of them as flists need.

Unpacked stream framing, structs, Text, Data and lists of structs; several segments and far pointers are read,
one segment is written. Everything read counts against a budget of words, as the reference implementation's
traversal limit does: a small message that points at one place a million times stays little work.
Encoding: https://capnproto.org/encoding.html
"""

import struct
from typing import Final

from g8node.errors import InvalidArgument

MESSAGE_MAX: Final = 256 << 20
SEGMENTS_MAX: Final = 4096
WORD: Final = 8

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_I64: Final = struct.Struct("<q")
_POINTER: Final = struct.Struct("<iI")
_STRUCT, _LIST, _FAR = 0, 1, 2
_BYTES, _COMPOSITE = 2, 7


_Target = tuple[int, int, bytes, int]
"""What a pointer leads to: the two halves of its word without far hops, the object's segment and offset."""


class Message:
    """One framed message. InvalidArgument for anything that is not well-formed or over a limit."""

    def __init__(self, data: bytes, *, size_max: int = MESSAGE_MAX) -> None:
        if len(data) > size_max:
            raise InvalidArgument(f"record of {len(data)} bytes, limit {size_max}")
        self.segments = _split(data)
        # Well-formed writers never share objects, so one pass over all words is enough for any of them.
        self.budget = len(data) // WORD

    def root(self) -> "Struct":
        """The root object, which must be a struct."""
        return self.struct(self.segments[0], 0)

    def spend(self, words: int) -> None:
        """Count words as read."""
        self.budget -= words
        if self.budget < 0:
            raise InvalidArgument("record points at the same words again and again")

    def follow(self, segment: bytes, at: int) -> _Target | None:
        """Resolve the pointer at byte `at`; None for a null pointer."""
        low, high = _word(segment, at)
        kind = low & 3
        if kind == _FAR:
            return self._follow_far(low, high)
        if kind > _FAR:
            raise InvalidArgument("record holds a capability pointer")
        if low == 0 and high == 0:
            return None
        return low, high, segment, at + WORD + (low >> 2) * WORD

    def _segment(self, index: int) -> bytes:
        if index >= len(self.segments):
            raise InvalidArgument(f"far pointer into segment {index} of {len(self.segments)}")
        return self.segments[index]

    def _follow_far(self, low: int, high: int) -> _Target:
        self.spend(1)
        segment = self._segment(high)
        pad = (low >> 3 & 0x1FFFFFFF) * WORD
        landing, landing_high = _word(segment, pad)
        if not low & 4:
            if landing & 3 > _LIST:
                raise InvalidArgument("far pointer leads to another far pointer")
            return landing, landing_high, segment, pad + WORD + (landing >> 2) * WORD
        tag, tag_high = _word(segment, pad + WORD)
        if landing & 7 != _FAR or tag & 3 > _LIST:
            raise InvalidArgument("double far pointer without a landing pad")
        return tag, tag_high, self._segment(landing_high), (landing >> 3 & 0x1FFFFFFF) * WORD

    def struct(self, segment: bytes, at: int) -> "Struct":
        """The struct behind the pointer at `at`; one without fields when it is null."""
        target = self.follow(segment, at)
        if target is None:
            return Struct(self, b"", 0, 0, 0)
        low, high, segment, start = target
        if low & 3 != _STRUCT:
            raise InvalidArgument("record has a list where a struct belongs")
        data_size, pointers = (high & 0xFFFF) * WORD, high >> 16
        size = data_size + pointers * WORD
        if start < 0 or start + size > len(segment):
            raise InvalidArgument("struct lies outside of its segment")
        self.spend(size // WORD)
        return Struct(self, segment, start, data_size, pointers)

    def byte_list(self, segment: bytes, at: int) -> bytes:
        """The byte list behind the pointer at `at`; empty when it is null."""
        target = self.follow(segment, at)
        if target is None:
            return b""
        low, high, segment, start = target
        if low & 3 != _LIST or high & 7 != _BYTES:
            raise InvalidArgument("record has something else where Text or Data belongs")
        count = high >> 3
        if start < 0 or start + count > len(segment):
            raise InvalidArgument("Text or Data lies outside of its segment")
        self.spend(-(-count // WORD))
        return segment[start : start + count]

    def structs(self, segment: bytes, at: int) -> "list[Struct]":
        """The list of structs behind the pointer at `at`."""
        target = self.follow(segment, at)
        if target is None:
            return []
        low, high, segment, start = target
        kind, words = high & 7, high >> 3
        if low & 3 == _LIST and kind != _COMPOSITE and words == 0:
            return []
        if low & 3 != _LIST or kind != _COMPOSITE:
            raise InvalidArgument("record has something else where a list of structs belongs")
        if start < 0 or start + (words + 1) * WORD > len(segment):
            raise InvalidArgument("list lies outside of its segment")
        tag, shape = _word(segment, start)
        count, data_size, pointers = tag >> 2 & 0x3FFFFFFF, (shape & 0xFFFF) * WORD, shape >> 16
        step = data_size + pointers * WORD
        if tag & 3 != _STRUCT or count * step > words * WORD:
            raise InvalidArgument("list of structs says more elements than it has room for")
        self.spend(max(count, words + 1))
        first = start + WORD
        return [Struct(self, segment, first + i * step, data_size, pointers) for i in range(count)]


class Struct:
    """A struct to read. Fields beyond what the writer knew read as zero, empty or a struct without fields.

    Data offsets are in bytes, pointer indexes count from 0; both are those of the compiled schema.
    """

    __slots__ = ("_at", "_data_size", "_message", "_pointers", "_segment")

    def __init__(self, message: Message, segment: bytes, at: int, data_size: int, pointers: int) -> None:
        self._message = message
        self._segment = segment
        self._at = at
        self._data_size = data_size
        self._pointers = pointers

    @property
    def size(self) -> int:
        """Bytes of the struct; 0 when it is absent."""
        return self._data_size + self._pointers * WORD

    def u16(self, offset: int) -> int:
        """UInt16 or enum."""
        if offset + 2 > self._data_size:
            return 0
        return int(_U16.unpack_from(self._segment, self._at + offset)[0])

    def u32(self, offset: int) -> int:
        """UInt32."""
        if offset + 4 > self._data_size:
            return 0
        return int(_U32.unpack_from(self._segment, self._at + offset)[0])

    def u64(self, offset: int) -> int:
        """UInt64."""
        if offset + 8 > self._data_size:
            return 0
        return int(_U64.unpack_from(self._segment, self._at + offset)[0])

    def i64(self, offset: int) -> int:
        """Int64."""
        if offset + 8 > self._data_size:
            return 0
        return int(_I64.unpack_from(self._segment, self._at + offset)[0])

    def data(self, index: int) -> bytes:
        """Data; empty when absent."""
        if index >= self._pointers:
            return b""
        return self._message.byte_list(self._segment, self._at + self._data_size + index * WORD)

    def text(self, index: int) -> bytes:
        """Text without its NUL, not decoded: a writer may have put any bytes there."""
        value = self.data(index)
        if value and value[-1] != 0:
            raise InvalidArgument("Text does not end with NUL")
        return value[:-1]

    def has(self, index: int) -> bool:
        """Whether the pointer is there and not null."""
        if index >= self._pointers:
            return False
        at = self._at + self._data_size + index * WORD
        return self._segment[at : at + WORD] != b"\0\0\0\0\0\0\0\0"

    def struct(self, index: int) -> "Struct":
        """A nested struct; without fields when absent."""
        if index >= self._pointers:
            return Struct(self._message, b"", 0, 0, 0)
        return self._message.struct(self._segment, self._at + self._data_size + index * WORD)

    def structs(self, index: int) -> "list[Struct]":
        """A list of structs; empty when absent."""
        if index >= self._pointers:
            return []
        return self._message.structs(self._segment, self._at + self._data_size + index * WORD)


def _word(segment: bytes, at: int) -> tuple[int, int]:
    """A pointer's halves: the lower one signed, so that its offset is, the upper one unsigned."""
    if at < 0 or at + WORD > len(segment):
        raise InvalidArgument("pointer lies outside of its segment")
    low, high = _POINTER.unpack_from(segment, at)
    return low, high


def _split(data: bytes) -> list[bytes]:
    if len(data) < WORD:
        raise InvalidArgument(f"record of {len(data)} bytes is no Cap'n Proto message")
    count = int(_U32.unpack_from(data)[0]) + 1
    if count > SEGMENTS_MAX:
        raise InvalidArgument(f"record has {count} segments, limit {SEGMENTS_MAX}")
    at = (4 + 4 * count + 7) // WORD * WORD
    if at > len(data):
        raise InvalidArgument("record ends within its segment table")
    segments = []
    for size in struct.unpack_from(f"<{count}I", data, 4):
        end = at + size * WORD
        if end > len(data):
            raise InvalidArgument("record is shorter than its segment table says")
        segments.append(data[at:end])
        at = end
    return segments


class Builder:
    """Writes one single-segment message: objects in the order they are added, pointers filled in on the way.

    A "slot" is the byte offset of a pointer; the root pointer is slot 0.
    """

    def __init__(self) -> None:
        self._segment = bytearray(WORD)

    def struct(self, slot: int, data: bytes, pointers: int) -> int:
        """Append a struct with this data section; returns the slot of its first pointer."""
        at = self._append(data + bytes(pointers * WORD))
        words = len(data) // WORD
        self._point(slot, at, _STRUCT, words | pointers << 16)
        return at + len(data)

    def structs(self, slot: int, count: int, data_words: int, pointers: int) -> int:
        """Append a list of zeroed structs; returns the byte offset of the first element."""
        step = data_words + pointers
        at = self._append(_U64.pack(count << 2 | data_words << 32 | pointers << 48))
        self._segment += bytes(count * step * WORD)
        self._point(slot, at, _LIST, _COMPOSITE | count * step << 3)
        return at + WORD

    def put(self, at: int, data: bytes) -> None:
        """Overwrite the data section of a list element."""
        self._segment[at : at + len(data)] = data

    def data(self, slot: int, value: bytes | bytearray) -> None:
        """Append Data; nothing (a null pointer) when empty."""
        if value:
            at = self._append(value + bytes(-len(value) % WORD))
            self._point(slot, at, _LIST, _BYTES | len(value) << 3)

    def text(self, slot: int, value: str) -> None:
        """Append Text; nothing when empty."""
        if value:
            self.data(slot, value.encode() + b"\0")

    def finish(self) -> bytes:
        """The framed message."""
        if len(self._segment) > MESSAGE_MAX:
            raise InvalidArgument(f"record of {len(self._segment)} bytes, limit {MESSAGE_MAX}")
        return struct.pack("<II", 0, len(self._segment) // WORD) + self._segment

    def _append(self, data: bytes | bytearray) -> int:
        at = len(self._segment)
        self._segment += data
        return at

    def _point(self, slot: int, at: int, kind: int, upper: int) -> None:
        offset = (at - slot - WORD) // WORD
        if offset >= 1 << 29 or upper >> 32:
            raise InvalidArgument(f"record of more than {MESSAGE_MAX} bytes")
        struct.pack_into("<II", self._segment, slot, offset << 2 | kind, upper)
