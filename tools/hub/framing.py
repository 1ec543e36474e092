"""Bodies of the chunk calls, the server's side (pure); `g8node.store.http` is the client's.

ids       n x 32 bytes
upload    repeated (32-byte id || u32 LE length || stored bytes)
download  for each id asked, in order: u32 LE length (ABSENT: not here) || stored bytes
"""

import struct
from collections.abc import Iterator
from typing import Final

from g8node.errors import InvalidArgument
from g8node.ids import ChunkId
from g8node.wire.chunk import ID_SIZE, OVERHEAD, PLAIN_SIZE_MAX

ABSENT: Final = 0xFFFFFFFF
STORED_SIZE_MAX: Final = PLAIN_SIZE_MAX + OVERHEAD
_LENGTH: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct(f"<{ID_SIZE}sI")


def split_ids(body: bytes, count_max: int) -> list[ChunkId]:
    """The ids of a body. InvalidArgument unless it is a row of at most count_max ids."""
    if len(body) % ID_SIZE:
        raise InvalidArgument(f"body has {len(body)} bytes, expected a multiple of {ID_SIZE}")
    if len(body) > count_max * ID_SIZE:
        raise InvalidArgument(f"body has {len(body) // ID_SIZE} ids, expected at most {count_max}")
    return [ChunkId(body[at : at + ID_SIZE]) for at in range(0, len(body), ID_SIZE)]


def answer(stored: bytes | None) -> bytes:
    """One element of a download."""
    return _LENGTH.pack(ABSENT) if stored is None else _LENGTH.pack(len(stored)) + stored


class Uploads:
    """Feed a body in any pieces, iterate the chunks that are complete. Ids are claimed, not checked."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[ChunkId, bytes]]:
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            id, length = _HEADER.unpack_from(self._buffer)
            if length > STORED_SIZE_MAX:
                raise InvalidArgument(
                    f"chunk {id.hex()}: {length} bytes announced, expected at most {STORED_SIZE_MAX}"
                )
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            stored = bytes(memoryview(self._buffer)[_HEADER.size : end])
            del self._buffer[:end]
            yield ChunkId(id), stored

    def end(self) -> None:
        """The body is over: InvalidArgument if it ends inside a chunk."""
        if self._buffer:
            raise InvalidArgument(f"body ends inside a chunk, {len(self._buffer)} bytes after the last one")
